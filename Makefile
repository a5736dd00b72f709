# Commands for a machine that has Python 3.10 or newer, pip and make:
#   make demo   ten jobs of the action at once, against an emulated KIS and Supabase on this machine
#   make quick  the tests that start no other program
#   make test   all tests
# make bench runs all benchmarks and writes their figures into docs/benchmarks.md.
# The commands install everything into .venv and build, and change nothing else on the machine.

PYTHON ?= python3
BIN := .venv/bin
UV := build/uv/bin/uv
# uv's own certificates do not include those of a company's proxy. The system's certificates do.
export UV_SYSTEM_CERTS := 1
export UV_CACHE_DIR := $(CURDIR)/build/uv-cache
export PIP_CACHE_DIR := $(CURDIR)/build/pip-cache
# Without bytecode the tests, and the many programs that they start, take twice as long.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test quick matrix lowest bench lock clean
.PHONY: lint lint-style lint-types lint-windows lint-macos lint-structure lint-yaml lint-lock

demo: .venv/ready
	$(BIN)/python -m tools.demo

# tests/conftest.py sets the number of workers.
PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# All tests, or only the tests whose names match TESTS, as with pytest's -k.
test: .venv/ready
	$(PYTEST) $(if $(TESTS),-k "$(TESTS)")

# The tests that need neither PostgreSQL, nor the emulated KIS, nor a child process.
quick: .venv/ready
	$(PYTEST) -m quick

# More combinations of cases that other tests cover. CI runs them every night.
matrix: .venv/ready
	$(PYTEST) -m matrix

# Tests of the modules that import a library, with the lowest versions that pyproject.toml allows. CI uses Python 3.10.
lowest: $(UV)
	rm -rf build/lowest
	$(UV) venv --quiet --no-python-downloads --python $(PYTHON) build/lowest
	$(UV) pip compile --quiet --no-python-downloads --only-binary :all: --python build/lowest --no-annotate \
		--resolution lowest-direct --extra sandbox --extra keyring pyproject.toml -o build/lowest.txt
	$(UV) pip install --quiet --only-binary :all: --python build/lowest -r build/lowest.txt
	$(UV) pip install --quiet --only-binary :all: --python build/lowest -c build/lowest.txt --group test
	$(UV) pip install --quiet --no-deps --no-build-isolation --python build/lowest --editable .
	build/lowest/bin/python -m pytest --numprocesses auto --dist worksteal $(LIBRARIES)

# The tests of the importers that tests/test_imports.py names.
LIBRARIES := tests/store tests/kis tests/cli tests/client/test_credential_manager.py tests/client/test_httpx_auth.py \
	$(wildcard tests/client/test_kis_client*.py) tests/local/test_machine_lock.py tests/local/test_profiles.py \
	tests/core/test_sealed_slot.py $(wildcard tests/test_config*.py) tests/github/test_action.py

bench: .venv/ready
	$(BIN)/python -m bench

# The parts of the lint run side by side: some of them wait for the package index, and mypy uses one core.
lint: .venv/ready
	@$(MAKE) --no-print-directory --jobs 4 $(if $(filter output-sync,$(.FEATURES)),--output-sync) lint-types lint-lock lint-structure lint-yaml lint-windows lint-macos lint-style

lint-style: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: .venv/ready
	$(BIN)/mypy

lint-windows: .venv/ready
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 $(PROGRAM)

lint-macos: .venv/ready
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin $(PROGRAM)

lint-structure: .venv/ready
	$(BIN)/python -m pytest --quiet $(STRUCTURE)

# The code that runs on every system. The tests are not in this list: each test states the systems it needs.
PROGRAM := entrypoint.py kis_token tools

# Tests of the project's files, which run no part of the program: imports, links, tables, codes, --help, both READMEs.
STRUCTURE := tests/test_imports.py tests/test_docs.py tests/test_repository.py tests/test_messages.py \
	tests/test_language.py \
	tests/cli/test_help.py tests/readme/test_languages.py

EXAMPLES := docs/examples/*.yml docs/examples/init/*.yml
lint-yaml: SCHEMA = $(BIN)/check-jsonschema --builtin-schema
lint-yaml: .venv/ready
	$(SCHEMA) vendor.github-actions action.yml .github/actions/*/action.yml
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml $(EXAMPLES)
	$(SCHEMA) vendor.dependabot .github/dependabot.yml
	$(SCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA) vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/zizmor --offline --quiet --config .github/zizmor.yml . $(EXAMPLES)
	$(BIN)/actionlint .github/workflows/*.yml tests/workflows/*.yml $(EXAMPLES)

# Checks that each platform and each Python has a wheel of each package. It asks the package index and downloads no wheel.
lint-lock: .venv/ready
	$(BIN)/python -m tools.platforms $(UV)

# Updates the packages in all three locks, with hashes and without an index address.
lock: $(UV)
	$(LOCK) --upgrade --group action -o requirements.txt
	$(LOCK) --upgrade pyproject.toml --extra sandbox --extra keyring --group dev -c requirements.txt -o requirements-dev.txt
	echo uv | $(LOCK) --upgrade - -o requirements-uv.txt
lock: LOCK = UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --universal --python-version 3.10 \
	--no-python-downloads --generate-hashes --no-annotate

clean:
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(UV): requirements-uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python ..." >&2; exit 1; }
	@$(PYTHON) -m pip --version > /dev/null || { echo "pip is needed for $(PYTHON)." >&2; exit 1; }
	rm -rf build/uv
	PIP_USER=0 $(PYTHON) -I -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--only-binary :all: --target build/uv -r requirements-uv.txt
	@touch $(UV)

.venv/ready: $(UV) requirements-dev.txt pyproject.toml
	rm -rf .venv
	$(UV) venv --quiet --no-python-downloads --python $(PYTHON) .venv
	$(UV) pip sync --quiet --require-hashes --only-binary :all: --python .venv requirements-dev.txt
	$(UV) pip install --quiet --no-deps --no-build-isolation --python .venv --editable .
	@touch $@
