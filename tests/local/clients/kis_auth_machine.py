"""A process with its own time zone, which writes kis-auth's file at given times, and reads it as kis_auth.py does.

This program reads questions as JSON on standard input, and answers on standard output. test_kis_auth.py runs it.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import yaml

from kis_token.config import Settings
from kis_token.local.token_files import export
from kis_token.token import build_token

TOKEN = "opaque.token-of-a-test_0123456789"


def write(home: Path, now: float, ends: float) -> list[str]:
    """Write the files at ``now`` for a token that ends at ``ends``, both in epoch seconds. Return the file names."""
    expiry = datetime.fromtimestamp(ends, timezone.utc)
    token = build_token(TOKEN, expiries=[expiry], issued_at=expiry - timedelta(hours=24))
    settings = Settings.from_env(
        {
            "SUPABASE_URL": "https://example.supabase.co",
            "SUPABASE_SERVICE_ROLE_KEY": "made-up",
            "KIS_TOKEN_CACHE": "off",
            "INPUT_TOKEN_FILES": "kis-auth",
        }
    )
    paths = export(token, None, settings, {"HOME": str(home)}, datetime.fromtimestamp(now, timezone.utc))
    return [path.name for path in paths]


def is_used(home: Path, moment: float) -> bool:
    """Whether a kis_auth.py that is imported at ``moment`` uses the token."""
    now = datetime.fromtimestamp(moment)  # noqa: DTZ006 - kis_auth.py uses no zone
    path = home / "KIS" / "config" / f"KIS{now:%Y%m%d}"
    if not path.exists():
        return False
    kept = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.FullLoader)  # noqa: S506 - as it does
    return f"{kept['valid-date']:%Y-%m-%d %H:%M:%S}" > f"{now:%Y-%m-%d %H:%M:%S}" and kept["token"] == TOKEN


def main() -> None:
    """Answer all questions. A question has the times of the write, of the token's end, and of the reads."""
    answers = []
    for number, (now, ends, moments) in enumerate(json.load(sys.stdin)):
        home = Path(os.environ["HOME"], str(number))
        answers.append([write(home, now, ends), [is_used(home, moment) for moment in moments]])
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
