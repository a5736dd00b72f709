"""The allowed imports of each module, the readers of the environment, and the modules that the fast path loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "kis_token"
#: The modules by their dotted names below the package; the file of a folder has the folder's name.
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE / "sandbox" and path not in (PACKAGE / "__init__.py", PACKAGE / "__main__.py")
}

#: The floors: sets of folders, and of files beside the folders. A module imports only from floors above its own floor,
#: and from its own folder.
FLOORS = (
    {"remedies"},
    {"errors", "settings", "deadline"},
    {"clock", "process", "token"},
    {"config", "network"},
    {"core"},
    {"store", "kis", "local"},
    {"wiring", "admin"},
    {"github", "client", "setup"},
    {"cli"},
)

FAST = (
    "config",
    "settings",
    "settings.environment",
    "settings.pasted_values",
    "settings.supabase_project",
    "token",
    "errors",
    "clock",
    "deadline",
    "process",
    "process.interrupts",
    "network",
    "network.connection",
    "network.tls_trust",
    "network.proxies",
    "core",
    "core.slot",
    "core.resolution",
    "core.lookup",
    "core.retry",
    "core.rotation",
    "local",
    "local.private_files",
    "local.cache",
    "local.token_files",
    "store",
    "store.slot_query",
    "store.http_exchange",
    "github",
    "github.workflow_commands",
    "github.outputs",
    "github.summary",
    "github.failures",
)

#: The modules that the fast path loads for a job without a key.
KEYLESS = ("process.caller_identity", "store.function_call", "store.id_token", "store.keyless")
#: The modules that the fast path loads to read a sealed value.
SEALED = ("process.forks", "store.libcrypto", "store.sealing")

#: Modules of the standard library whose import takes longer than the whole fast path may take.
HEAVY = {
    "asyncio",
    "concurrent.futures",
    "importlib.metadata",
    "logging",
    "multiprocessing",
    "subprocess",
    "tempfile",
    "traceback",
    "typing",
    "unittest",
    "urllib.request",
    "uuid",
}

#: The modules that may read the environment, besides entrypoint.py; the sandbox is a separate program.
ENVIRONMENT_READERS = {
    "github.action",
    "github.app_key_end",
    "github.new_issuer_keys",
    "cli",
    "client.credential_manager",
    "client.user_variables",
    "network.connection",
    "network.proxies",
    "network.tls_trust",
    "network.trusted_certificates",
}

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
    """Return the names that a file imports, also inside functions.

    With ``at_runtime``, imports for types are left out.
    """
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
    """Return this project's modules among ``names``, by their dotted names below the package."""
    return {name.removeprefix("kis_token.") for name in names if name.startswith("kis_token.")} & MODULES.keys()


def room_of(module: str) -> str:
    """The folder of a module, or the module itself if it is beside the folders."""
    return module.split(".", maxsplit=1)[0]


def loaded_by(*modules: str) -> set[str]:
    """Import ``modules`` in a Python without any package, and return the modules that the imports load."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", LOAD, str(CHECKOUT), ",".join(modules)],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return set(done.stdout.split())


def test_every_room_has_a_floor() -> None:
    """Each folder, and each file beside the folders, is in ``FLOORS``."""
    assert set().union(*FLOORS) == {room_of(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    """A module imports only from its own folder and from floors above its own, also in imports for types."""
    floor = next(number for number, rooms in enumerate(FLOORS) if room_of(module) in rooms)
    open_to_it = set().union(*FLOORS[:floor], {room_of(module)})
    imported = own_modules(imported_by(MODULES[module], at_runtime=False))

    assert {name for name in imported if room_of(name) not in open_to_it} == set()


def test_no_imports_go_in_a_circle() -> None:
    """No modules of the package import each other in a circle."""
    left = {
        module: own_modules(imported_by(path, at_runtime=True)) - {module, room_of(module)}
        for module, path in MODULES.items()
    }
    while left:
        free = {module for module, needed in left.items() if not needed & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {module: needed for module, needed in left.items() if module not in free}


def test_few_files_stand_beside_the_folders() -> None:
    """At most ten files of the package are outside of its folders."""
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def test_product_does_not_import_its_sandbox() -> None:
    """Only the command starts the sandbox; no other module imports it."""
    users = {
        module
        for module, path in MODULES.items()
        if any(name.startswith("kis_token.sandbox") for name in imported_by(path, at_runtime=False))
    }
    assert users == {"cli.setup_commands"}


def test_commands_read_no_environment() -> None:
    """The command's entry point reads the environment and passes it to the commands."""
    for path in (PACKAGE / "cli").glob("*.py"):
        named = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
        assert path.name == "__init__.py" or not named & {"environ", "environb", "getenv", "getenvb"}, path


SOLE_IMPORTERS = {
    "supabase": {"store.supabase_calls"},
    "httpx": {"store.httpx_transport", "client.httpx_auth"},
    "anyio": {"client.httpx_auth"},
    "requests": {"kis.session"},
    "urllib3": {"kis.connections"},
    "actions_toolkit": {"github.action"},
    "cryptography": {"store.sealing"},
    "filelock": {"local.machine_lock"},
    "keyring": {"local.keyring_keys"},
    "platformdirs": {"process.caller_identity"},
    "click": {module for module in MODULES if room_of(module) == "cli"},
}


@pytest.mark.parametrize("package", SOLE_IMPORTERS)
def test_package_has_one_importer(package: str) -> None:
    """Only the listed modules import a library, so that no other module depends on the library's errors and types."""
    importers = {
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] == package for name in imported_by(path, at_runtime=False))
    }
    assert importers <= SOLE_IMPORTERS[package]


def test_environment_is_read_in_few_places() -> None:
    """Only the entry points and the network modules use os.environ.

    Modules that do not use os.environ get settings as arguments.
    """
    readers = set()
    for module, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb"):
                readers.add(module)
    assert readers <= ENVIRONMENT_READERS


@pytest.mark.usefixtures("child_processes")
def test_fast_path_is_the_standard_library() -> None:
    """The fast path's modules can be imported without any package, and load only modules of the standard library."""
    loaded = loaded_by(*FAST)
    foreign = {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"kis_token", *(f"kis_token.{name}" for name in FAST)}


@pytest.mark.parametrize("module", FAST + KEYLESS + SEALED)
@pytest.mark.usefixtures("child_processes")
def test_fast_path_loads_nothing_heavy(module: str) -> None:
    """No module of the fast path loads an expensive module of the standard library."""
    assert loaded_by(module) & HEAVY == set()


def test_fast_path_has_the_modules_of_the_entrypoint() -> None:
    """The lists of the fast path have each module that entrypoint.py imports before it adds the runtime."""
    named = own_modules(imported_by(CHECKOUT / "entrypoint.py", at_runtime=True))
    assert named - {"github.action", "github.runtime"} <= {*FAST, *KEYLESS, *SEALED}


@pytest.mark.usefixtures("child_processes")
def test_package_itself_loads_nothing() -> None:
    """Importing the package loads no module until a name is used."""
    assert not loaded_by("errors") & (HEAVY | {"json", "ssl", "http.client"})
