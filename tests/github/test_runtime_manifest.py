"""The manifest detects each kind of damage. A copied folder, and added or removed bytecode, are no damage."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kis_token.github.runtime_manifest import MANIFEST, find_damage, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes of this kind are POSIX's")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away"
)
BYTECODE = f"package/__pycache__/module.{sys.implementation.cache_tag}.pyc"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A small folder of packages with a manifest. The folder has sources, a compiled module, and bytecode."""
    folder = tmp_path / "packages"
    (folder / "package" / "empty").mkdir(parents=True)
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "module.py").write_text("VALUE = 1\n")
    (folder / "package" / "speed.so").write_bytes(bytes(range(256)) * 16)
    compileall.compile_dir(folder, quiet=1)
    write_manifest(folder)
    return folder


def cut(path: Path) -> None:
    """Remove the second half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def change(path: Path) -> None:
    """Change the last byte of a file; its size does not change."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # the file system's clock may be coarse


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Remove the file or folder at ``path``, and call ``make`` to create another one there."""
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    make(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "source missing": (lambda at: (at / "package/module.py").unlink(), "package/module.py is missing"),
    "empty source missing": (lambda at: (at / "package/__init__.py").unlink(), "package/__init__.py is missing"),
    "package missing": (lambda at: shutil.rmtree(at / "package"), " is missing"),
    "all missing": (shutil.rmtree, "the files cannot be compared with the manifest (FileNotFoundError)"),
    "compiled file cut": (lambda at: cut(at / "package/speed.so"), "package/speed.so has 2048 bytes instead of 4096"),
    "source cut": (lambda at: cut(at / "package/module.py"), "package/module.py has 5 bytes instead of 10"),
    "source empty": (lambda at: os.truncate(at / "package/module.py", 0), "module.py has 0 bytes instead of 10"),
    "source longer": (lambda at: os.truncate(at / "package/module.py", 11), "module.py has 11 bytes instead of 10"),
    "source changed": (lambda at: change(at / "package/module.py"), "package/module.py was changed"),
    "compiled file changed": (lambda at: change(at / "package/speed.so"), "package/speed.so was changed"),
    "sitecustomize added": (lambda at: (at / "sitecustomize.py").touch(), "sitecustomize.py was added"),
    "package added": (lambda at: shutil.copytree(at / "package", at / "json"), "was added"),
    "bytecode added elsewhere": (lambda at: shutil.copy(at / BYTECODE, at / "json.pyc"), "json.pyc was added"),
    "link for a file": (
        lambda at: replace(at / "package/module.py", lambda path: path.symlink_to("__init__.py")),
        "package/module.py ",  # the rest of the text names the mode or the kind of file, depending on the system
    ),
    "folder for a file": (lambda at: replace(at / "package/module.py", Path.mkdir), "package/module.py is a folder"),
    "file for a folder": (lambda at: replace(at / "package/empty", Path.touch), "package/empty was added"),
    "manifest missing": (lambda at: (at / MANIFEST).unlink(), "(FileNotFoundError)"),
    "manifest empty": (lambda at: os.truncate(at / MANIFEST, 0), "(JSONDecodeError)"),
    "manifest cut": (lambda at: cut(at / MANIFEST), "(JSONDecodeError)"),
    "manifest binary": (lambda at: (at / MANIFEST).write_bytes(bytes(range(256))), "(UnicodeDecodeError)"),
    "manifest of another kind": (lambda at: (at / MANIFEST).write_text("[]"), "the manifest is not a list of files"),
    "manifest without files": (lambda at: (at / MANIFEST).write_text("{}"), "was added"),
    "manifest with other values": (
        lambda at: (at / MANIFEST).write_text(json.dumps(dict.fromkeys(json.loads((at / MANIFEST).read_text()), 1))),
        "was added",
    ),
    "manifest too deep": (lambda at: (at / MANIFEST).write_text("[" * 100_000), "(RecursionError)"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(packages: Path, name: str) -> None:
    """A missing, truncated, changed or added file is found, and the result names the file and the damage."""
    assert find_damage(packages) is None
    harm, said = DAMAGE[name]
    harm(packages)
    assert said in (find_damage(packages) or "")


@posix
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666], ids=oct)
@pytest.mark.parametrize("name", ["package/module.py", "package/speed.so", "package/empty", "package", ""])
def test_write_access_of_others_is_damage(packages: Path, name: str, mode: int) -> None:
    """A file or folder is damage if its group or other users can write it: they may have changed it."""
    (packages / name).chmod(mode | (0o100 if (packages / name).is_dir() else 0))
    assert find_damage(packages) == f"{name or 'packages'} can be changed by other users"


@needs_root
@pytest.mark.parametrize("name", ["package/module.py", "package", ""])
def test_file_of_another_user_is_damage(packages: Path, name: str) -> None:
    """A file that belongs to another user is damage, because its owner can change it."""
    os.chown(packages / name, 65534, -1)
    assert find_damage(packages) == f"{name or 'packages'} can be changed by other users"


@pytest.mark.parametrize("harm", [cut, change, Path.unlink, lambda path: path.with_name("new.pyc").touch()])
def test_bytecode_is_not_compared(packages: Path, harm: Callable[[Path], object]) -> None:
    """Missing or changed bytecode is no damage, because Python writes it at any time. An import finds bad bytecode."""
    harm(packages / BYTECODE)
    assert find_damage(packages) is None


@posix
@pytest.mark.parametrize("name", [BYTECODE, str(Path(BYTECODE).parent)])
def test_bytecode_that_others_may_write_is_damage(packages: Path, name: str) -> None:
    """Bytecode that others can write is damage, because Python runs it."""
    (packages / name).chmod(0o777)
    assert find_damage(packages) == f"{name} can be changed by other users"


@posix
def test_a_link_in_place_of_bytecode_is_damage(packages: Path, tmp_path: Path) -> None:
    """A symbolic link in place of bytecode is damage, whatever its target is."""
    (packages / BYTECODE).rename(tmp_path / "elsewhere")
    (packages / BYTECODE).symlink_to(tmp_path / "elsewhere")
    assert BYTECODE in (find_damage(packages) or "")


@pytest.mark.parametrize("copy", [shutil.copy2, shutil.copyfile], ids=["with-times", "without-times"])
def test_a_copy_is_not_damage(packages: Path, tmp_path: Path, copy: Callable[[str, str], object]) -> None:
    """If the times of a copy's files differ, the check compares the files' hashes."""
    shutil.copytree(packages, tmp_path / "copy", copy_function=copy)
    assert find_damage(tmp_path / "copy") is None
    change(tmp_path / "copy" / "package" / "module.py")
    assert find_damage(tmp_path / "copy") == "package/module.py was changed"


@posix
def test_write_access_from_the_umask_is_removed(packages: Path) -> None:
    """When the manifest is written, group and others lose write access to the files; other rights do not change."""
    (packages / "package").chmod(0o2777)
    (packages / "package" / "module.py").chmod(0o666)
    (packages / "package" / "speed.so").chmod(0o775)
    write_manifest(packages)
    modes = [stat.S_IMODE((packages / "package" / each).stat().st_mode) for each in ("", "module.py", "speed.so")]
    assert modes == [0o2755, 0o644, 0o755]
    assert find_damage(packages) is None


@posix
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_manifest_that_is_no_file_does_not_hang(packages: Path, tmp_path: Path, kind: str) -> None:
    """If the manifest is a pipe or a symbolic link, the check does not read the manifest and reports damage."""
    if kind == "link":
        (packages / MANIFEST).rename(tmp_path / "manifest")
        (packages / MANIFEST).symlink_to(tmp_path / "manifest")
    else:
        replace(packages / MANIFEST, os.mkfifo)
    assert "the files cannot be compared" in (find_damage(packages) or "")


@pytest.mark.usefixtures("child_processes")
def test_the_runtime_itself(sealing_runtime: Path, tmp_path: Path) -> None:
    """The real packages are undamaged after a build, a copy and an import; a truncated file is found."""
    copy = tmp_path / "copy"
    shutil.copytree(sealing_runtime, copy)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import actions_toolkit, requests, filelock, cryptography.x509"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(copy)], check=True)
    assert find_damage(sealing_runtime) is None
    assert find_damage(copy) is None
    for name in ("cryptography", "cffi", "requests", "certifi"):
        files = [path for path in (copy / name).rglob("*") if path.is_file() and path.suffix != ".pyc"]
        largest = max(files, key=lambda path: path.stat().st_size)
        original = shutil.copy2(largest, tmp_path / "original")
        cut(largest)
        assert (find_damage(copy) or "").startswith(f"{largest.relative_to(copy).as_posix()} has ")
        shutil.move(original, largest)
    assert find_damage(copy) is None
    shutil.rmtree(copy)  # the search for secrets after a test would read every file
