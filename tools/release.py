"""``python -m tools.release v1.2.3`` prints the notes of a release, or an error if the release is not allowed."""

from __future__ import annotations

import re
import sys
from datetime import date
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def notes(tag: str, pyproject: str, changelog: str) -> str:
    """Return the changelog's entry for a tag. Raises ValueError if tag, pyproject.toml and changelog disagree."""
    version = re.search(r'^version = "([^"]+)"$', pyproject, re.MULTILINE)
    if version is None or tag != f"v{version[1]}":
        raise ValueError(f"The tag {tag} is not pyproject.toml's version, {version[1] if version else 'none'}")
    entry = re.search(
        rf"^## \[{re.escape(version[1])}\] - (\S+)\n(.*?)(?=^## |^\[[^\]]+\]: |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if entry is None or not entry[2].strip():
        raise ValueError(f"CHANGELOG.md has no entry ## [{version[1]}] - YYYY-MM-DD")
    date.fromisoformat(entry[1])
    return entry[2].strip() + "\n"


def main() -> int:
    """Print the notes of the given tag; return 1 if the release is not allowed."""
    files = ("pyproject.toml", "CHANGELOG.md")
    try:
        text = notes(sys.argv[1], *((CHECKOUT / name).read_text(encoding="utf-8") for name in files))
    except ValueError as error:
        print(f"::error::{error}", file=sys.stderr)
        return 1
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
