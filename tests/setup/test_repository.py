"""The repository of a folder, by its remote, and the names that a user may give."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import KisTokenError
from kis_token.setup.repository import check_name, find_folder, find_name

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("child_processes")


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("https://github.com/acme/bot", "acme/bot"),
        ("https://github.com/acme/bot.git", "acme/bot"),
        ("https://octocat@github.com/acme/bot.git", "acme/bot"),
        ("git@github.com:acme/bot.git", "acme/bot"),
        ("ssh://git@github.com/acme/bot.git", "acme/bot"),
        ("ssh://git@ssh.github.com:443/acme/bot.git", "acme/bot"),
        ("https://github.com/acme/bot/", "acme/bot"),
        ("https://gitlab.com/acme/bot.git", None),
        ("https://github.com.evil.example/acme/bot", None),
        ("https://evil.example/github.com/acme/bot", None),
        ("/srv/git/bot.git", None),
    ],
)
def test_remotes(tmp_path: Path, remote: str, name: str | None) -> None:
    """A remote at github.com names the repository, in each form of a git URL.

    A remote at another host names no repository.
    """
    for words in (["init", "--quiet"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    inside = tmp_path / "inside"
    inside.mkdir()

    assert find_name(inside, os.environ["PATH"]) == name
    assert find_folder(inside, os.environ["PATH"]) == tmp_path.resolve()


def test_without_git(tmp_path: Path) -> None:
    """Without git, or outside of a git repository, the given folder is used, and no repository is found."""
    for path in ("", os.environ["PATH"]):
        assert (find_name(tmp_path, path), find_folder(tmp_path, path)) == (None, tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [("acme/bot", "acme/bot"), (" https://github.com/acme/bot.git ", "acme/bot"), ("acme/bot/", "acme/bot")],
)
def test_names(text: str, name: str) -> None:
    """A user may give the repository's name or its address."""
    assert check_name(text) == name


@pytest.mark.parametrize("text", ["acme", "acme/bot/x", "a b/c", "https://gitlab.com/acme/bot", ""])
def test_no_names(text: str) -> None:
    """Any other text is an error, whose message does not contain the text."""
    with pytest.raises(KisTokenError, match="--repository"):
        check_name(text)
