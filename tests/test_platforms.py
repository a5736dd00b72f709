"""The lint step that looks for a wheel of each package, for each platform and Python of GitHub's runners."""

from __future__ import annotations

import shutil
import zipfile
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tools import platforms
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

UV = CHECKOUT / "build" / "uv" / "bin" / "uv"
needs_uv = pytest.mark.skipif(not UV.exists(), reason="make puts uv there")


def make_lock(folder: Path, tag: str) -> Path:
    """Make a lock of one package. The package's only wheel has ``tag``, and is beside the lock."""
    folder.mkdir()
    wheel = folder / f"scarce-1.0-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("scarce-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: scarce\nVersion: 1.0\n")
        archive.writestr("scarce-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr("scarce-1.0.dist-info/RECORD", "")
    lock = folder / "requirements.txt"
    digest = sha256(wheel.read_bytes()).hexdigest()
    lock.write_text(f"--no-index\n--find-links {folder}\nscarce==1.0 --hash=sha256:{digest}\n")
    return lock


@needs_uv
@pytest.mark.usefixtures("child_processes")
@pytest.mark.parametrize(
    ("tag", "platform", "python"),
    [
        ("cp311-abi3-win_arm64", "aarch64-pc-windows-msvc", "3.14"),
        ("cp310-abi3-macosx_10_12_x86_64", "x86_64-apple-darwin", "3.12"),
        ("cp313-cp313-musllinux_1_2_aarch64", "aarch64-unknown-linux-musl", "3.13"),
        ("cp314-cp314-manylinux_2_28_aarch64", "aarch64-unknown-linux-gnu", "3.14"),
    ],
)
def test_a_wheel_serves_its_platform_and_python_alone(tmp_path: Path, tag: str, platform: str, python: str) -> None:
    """The step finds the wheel on the wheel's platform.

    For each other platform, the step names the package without a wheel.
    """
    lock = make_lock(tmp_path / "lock", tag)
    served = [each for each in platforms.PLATFORMS if platforms.find_missing(f"{UV}", lock, each, python) is None]
    assert served == [platform]
    seen = platforms.find_missing(f"{UV}", lock, platform, "3.9")
    assert seen is not None
    assert "scarce" in seen


def test_the_table_has_every_hosted_platform() -> None:
    """The table has Linux with glibc and with musl, macOS and Windows, each for Intel and for Arm."""
    assert len(set(platforms.PLATFORMS)) == 8
    assert {each.split("-")[0] for each in platforms.PLATFORMS} == {"x86_64", "aarch64"}
    assert set(platforms.TESTED) <= set(platforms.PLATFORMS)


@needs_uv
@pytest.mark.usefixtures("child_processes")
def test_a_gap_that_the_table_does_not_have_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing wheel that the table lacks is an error, and so is a wheel that the table calls missing."""
    folder = tmp_path / "checkout"
    make_lock(folder, "cp310-cp310-win_arm64")
    for name in ("requirements-uv.txt", "requirements-dev.txt"):
        shutil.copy(folder / "requirements.txt", folder / name)
    monkeypatch.setattr(platforms, "CHECKOUT", folder)
    monkeypatch.setattr(platforms, "PLATFORMS", ("aarch64-pc-windows-msvc",))
    monkeypatch.setattr(platforms, "TESTED", ())
    monkeypatch.setattr(platforms, "PYTHONS", ("3.10", "3.11"))
    monkeypatch.setattr("sys.argv", ["platforms", f"{UV}"])
    assert platforms.main() == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("requirements.txt, aarch64-pc-windows-msvc, Python 3.10: has all wheels")
    assert said[1].startswith("requirements.txt, aarch64-pc-windows-msvc, Python 3.11: error: ")
    assert said[2] == "1 of 3 combinations of lock, platform and Python are as expected."
