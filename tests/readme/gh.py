"""A stand-in for GitHub's command gh: stores a repository's secrets in a file that act reads."""

from __future__ import annotations

import re
import sys
from pathlib import Path

SECRETS = Path(__file__).parents[1] / "secrets"


def main(arguments: list[str]) -> None:
    """Run ``gh secret set NAME`` with the value on standard input. No other command works."""
    match arguments:
        case ["secret", "set", name] if re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            value = sys.stdin.read()
            assert value, "no value"
            assert "\n" not in value, "a line break belongs to the value"
            with SECRETS.open("a") as file:
                file.write(f"{name}={value}\n")
        case _:
            sys.exit("unknown")


if __name__ == "__main__":
    main(sys.argv[1:])
