"""A stand-in for GitHub's command gh: signed in, it stores variables and secrets in files beside it.

A secret must come through standard input. ``calls`` has the words of each call.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(arguments: list[str]) -> None:
    """Run one of the commands that ``kis-token init`` uses. Any command that ``kis-token init`` does not use fails."""
    with (FOLDER / "calls").open("a") as file:
        file.write(" ".join(arguments) + "\n")
    match arguments:
        case ["auth", "status", "--hostname", "github.com"]:
            pass
        case ["auth", "token", "--hostname", "github.com"]:
            sys.exit(1)
        case ["variable" | "secret" as kind, "list", "--repo", "acme/bot"]:
            for name, value in stored(kind).items():
                sys.stdout.write(f"{name}\t{value}\t2026-03-02\n" if kind == "variable" else f"{name}\t2026-03-02\n")
        case ["variable" | "secret" as kind, "set", name, "--repo", "acme/bot"]:
            values = stored(kind) | {name: sys.stdin.read()}
            (FOLDER / f"{kind}s").write_text("".join(f"{each}={value}\n" for each, value in values.items()))
        case _:
            sys.exit("unknown")


def stored(kind: str) -> dict[str, str]:
    """The names and values that are set."""
    file = FOLDER / f"{kind}s"
    return dict(line.split("=", 1) for line in file.read_text().splitlines()) if file.exists() else {}


if __name__ == "__main__":
    main(sys.argv[1:])
