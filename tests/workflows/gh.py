"""A stand-in for GitHub's command gh that stores issues and a log of its calls in a file beside the program."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

STATE = Path(__file__).with_name("github.json")


def main(arguments: list[str]) -> None:
    """Run one of the gh commands that the rotation uses. Any other command is an error."""
    state: dict[str, Any] = json.loads(STATE.read_text()) if STATE.exists() else {"issues": [], "asked": []}
    issues: list[dict[str, Any]] = state["issues"]
    state["asked"].append(
        {
            "arguments": arguments,
            # For an enterprise server, the real gh reads GH_ENTERPRISE_TOKEN.
            "token": os.environ.keys() >= {"GH_TOKEN", "GH_ENTERPRISE_TOKEN"},
            "host": os.environ.get("GH_HOST"),
        }
    )
    match arguments:
        case ["api", path, "--jq", _]:
            label = parse_qs(urlsplit(path).query)["labels"][0]
            title = os.environ["TITLE"]
            found = [each for each in issues if each["open"] and each["label"] == label and each["title"] == title]
            print(found[0]["number"] if found else "")  # noqa: T201 - it is a command
        case ["label", "create", label, "--force", "--description", _, "--color", _]:
            state["label"] = label
        case ["issue", "create", "--title", title, "--label", label, "--body", body]:
            assert label == state["label"], "could not add label: not found"
            number = len(issues) + 1
            issues.append({"number": number, "title": title, "label": label, "texts": [body], "open": True})
        case ["issue", "comment", number, "--body", body]:
            issues[int(number) - 1]["texts"].append(body)
        case ["issue", "close", number, "--comment", body]:
            issues[int(number) - 1]["texts"].append(body)
            issues[int(number) - 1]["open"] = False
        case ["api", "--silent", "--method", "PUT", _]:
            pass
        case _:
            sys.exit(f"unknown: {arguments}")
    STATE.write_text(json.dumps(state))


if __name__ == "__main__":
    main(sys.argv[1:])
