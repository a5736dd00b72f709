"""Which module may import which, who reads the environment, and how little the fast path loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "kis_token"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem not in ("__init__", "__main__"))

#: Each module may import those of lower numbers, and none beside itself.
LAYERS = {
    "errors": -1,
    "values": 0,
    "project": 1,
    "clock": 1,
    "interrupts": 0,
    "token": 1,
    "config": 2,
    "workflow": 1,
    "bootstrap": 4,
    "installer": 3,
    "installer_settings": 0,
    "installer_certificates": 2,
    "manifest": 2,
    "ports": 1,
    "sealing": 2,
    "answers": 1,
    "reader": 2,
    "cache": 2,
    "rotation": 2,
    "forks": 1,
    "final_response": 0,
    "kis_transport": 3,
    "kis_session": 4,
    "kis": 5,
    "export": 2,
    "summary": 3,
    "publish": 4,
    "lookup": 3,
    "supabase": 5,
    "limits": 0,
    "network": 1,
    "trust": 0,
    "certificates": 1,
    "proxies": 2,
    "route": 3,
    "wire": 3,
    "retry": 1,
    "machine": 3,
    "transport": 4,
    "folders": 0,
    "files": 1,
    "app_keys": 2,
    "waiting": 3,
    "lease": 4,
    "flight": 5,
    "resolver": 6,
    "keys": 6,
    "manager": 8,
    "wiring": 7,
    "action": 8,
    "cli": 8,
    "migrations": 0,
    "verdicts": 1,
    "status": 6,
    "report": 7,
    "schema": 6,
    "check": 7,
    "revocation": 6,
    "keeper": 8,
    "client": 9,
    "quick": 8,
}

FAST = (
    "config",
    "values",
    "project",
    "app_keys",
    "token",
    "errors",
    "clock",
    "limits",
    "retry",
    "network",
    "trust",
    "proxies",
    "folders",
    "files",
    "final_response",
    "cache",
    "reader",
    "wire",
    "lookup",
    "sealing",
    "workflow",
    "export",
    "publish",
    "summary",
    "interrupts",
    "rotation",
)

#: Parts of the standard library that cost more than the whole fast path may.
HEAVY = {
    "asyncio",
    "concurrent.futures",
    "importlib.metadata",
    "logging",
    "multiprocessing",
    "subprocess",
    "tempfile",
    "traceback",
    "unittest",
    "urllib.request",
    "uuid",
}

#: Who may read the environment, besides entrypoint.py; the sandbox is a program of its own.
ENVIRONMENT_READERS = {"action", "cli", "client", "manager", "quick", "proxies", "trust", "certificates", "network"}

LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
for name in sys.argv[2].split(","):
    __import__("kis_token." + name)
print("\\n".join(sorted(set(sys.modules) - before)))
"""


def tree_of(path: Path) -> ast.Module:
    """A file's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported_by(path: Path, *, at_runtime: bool) -> frozenset[str]:
    """Full names of what a file imports, inside of functions as well; at runtime: not those for the types alone."""
    tree = tree_of(path)
    for_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for_types |= {inner for statement in node.body for inner in ast.walk(statement)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if at_runtime and node in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
            names.add(f"{node.module}")
    return frozenset(names)


def own_modules(names: set[str] | frozenset[str]) -> set[str]:
    """Which of our modules are among them."""
    return {name.split(".")[1] for name in names if name.startswith("kis_token.") and name.split(".")[1] in MODULES}


def loaded_by(*modules: str) -> set[str]:
    """What a Python that is cut off from all packages has loaded after importing these modules of ours."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", LOAD, str(CHECKOUT), ",".join(modules)],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return set(done.stdout.split())


def test_every_module_has_a_layer() -> None:
    """A new module is given its place here."""
    assert set(LAYERS) >= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    """What runs imports only from layers below its own."""
    imported = own_modules(imported_by(PACKAGE / f"{module}.py", at_runtime=True))
    assert {name for name in imported if LAYERS[name] >= LAYERS[module]} == set()


def test_policy_knows_no_wire() -> None:
    """The chain sees store and issuer as protocols: not even for its types does it name a client of either."""
    for module in ("lookup", "lease", "flight", "resolver", "ports"):
        imported = own_modules(imported_by(PACKAGE / f"{module}.py", at_runtime=False))
        assert imported.isdisjoint({"supabase", "kis", "wiring", "action", "cli", "publish", "workflow"})


def test_product_does_not_import_its_sandbox() -> None:
    """Only the command starts the sandbox; nothing else knows of it."""
    users = {
        module
        for module in MODULES
        if any(name.startswith("kis_token.sandbox") for name in imported_by(PACKAGE / f"{module}.py", at_runtime=False))
    }
    assert users == set()


def test_commands_are_known_to_the_command_alone() -> None:
    """Only ``cli`` imports the package of commands; they get the environment from it, and read none themselves."""
    users = {
        module
        for module in MODULES
        if any(
            name.startswith("kis_token.commands") for name in imported_by(PACKAGE / f"{module}.py", at_runtime=False)
        )
    }
    assert users == {"cli"}
    for path in (PACKAGE / "commands").glob("*.py"):
        named = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
        assert not named & {"environ", "environb", "getenv", "getenvb"}, path
        assert "cli" not in own_modules(imported_by(path, at_runtime=False)), path


SOLE_IMPORTERS = {
    "supabase": "supabase",
    "postgrest": "supabase",
    "httpx": "transport",
    "requests": "kis_session",
    "urllib3": "kis_transport",
    "actions_toolkit": "action",
    "cryptography": "sealing",
    "filelock": "machine",
    "platformdirs": "config",
    "click": "cli",
}


@pytest.mark.parametrize("package", SOLE_IMPORTERS)
def test_package_has_one_importer(package: str) -> None:
    """Each library is known to one module, which keeps its errors and its forms to itself."""
    importers = {
        module
        for module in MODULES
        if any(name.split(".")[0] == package for name in imported_by(PACKAGE / f"{module}.py", at_runtime=False))
    }
    assert importers <= {SOLE_IMPORTERS[package]}


def test_environment_is_read_in_few_places() -> None:
    """Settings are read once and passed in: os.environ is named at the entrances and for the proxies alone."""
    readers = set()
    for module in MODULES:
        for node in ast.walk(tree_of(PACKAGE / f"{module}.py")):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb"):
                readers.add(module)
    assert readers <= ENVIRONMENT_READERS


@pytest.mark.usefixtures("child_processes")
def test_fast_path_is_the_standard_library() -> None:
    """Cut off from every package, the fast path's modules still load, and load nothing from elsewhere."""
    loaded = loaded_by(*FAST)
    foreign = {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"kis_token", *(f"kis_token.{name}" for name in FAST)}


@pytest.mark.parametrize("module", FAST)
@pytest.mark.usefixtures("child_processes")
def test_fast_path_loads_nothing_heavy(module: str) -> None:
    """No module of the fast path pays for what it does not use."""
    assert loaded_by(module) & HEAVY == set()


def test_fast_path_is_what_the_entrypoint_loads() -> None:
    """The modules held to this are those that entrypoint.py names before it adds the runtime."""
    named = own_modules(imported_by(CHECKOUT / "entrypoint.py", at_runtime=True))
    assert named - {"action", "bootstrap"} <= set(FAST)


@pytest.mark.usefixtures("child_processes")
def test_package_itself_loads_nothing() -> None:
    """Importing the package costs nothing until a name of it is used."""
    assert not loaded_by("errors") & (HEAVY | {"json", "ssl", "http.client"})
