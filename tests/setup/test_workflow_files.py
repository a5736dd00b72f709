"""The workflow files: which files count as unchanged, and which paths are not written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import EnvironmentFault
from kis_token.setup.workflow_files import workflow_files
from tests.support import make_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_line_ends_of_windows_are_the_same_file(tmp_path: Path) -> None:
    """A file that git has checked out with CRLF counts as unchanged."""
    file = workflow_files(tmp_path, make_settings(), with_secret=False)[0]
    states = [file.state()]
    file.write()
    states.append(file.state())
    file.path.write_bytes(file.path.read_bytes().replace(b"\n", b"\r\n"))
    states.append(file.state())
    file.path.write_bytes(b"name: mine\n")
    states.append(file.state())

    assert states == ["missing", "same", "same", "different"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there that few users have")
def test_link_to_nowhere_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link whose target does not exist is an error, and the target is not created."""
    file = workflow_files(tmp_path, make_settings(), with_secret=True)[0]
    file.path.parent.mkdir(parents=True)
    file.path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(EnvironmentFault, match="cannot be written"):
        file.write()
    assert not (tmp_path / "elsewhere").exists()


def test_folder_in_the_way(tmp_path: Path) -> None:
    """A folder with the file's name counts as a file with other contents.

    A write to such a folder is an error that names the file.
    """
    file = workflow_files(tmp_path, make_settings(), with_secret=True)[1]
    file.path.mkdir(parents=True)

    assert file.state() == "different"
    with pytest.raises(EnvironmentFault, match=r"\.github/workflows/rotate-token\.yml"):
        file.write()
