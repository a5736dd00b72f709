"""The token file of kis_auth.py, which is one of KIS's samples and not a package, in three time zones.

kis_auth.py is from https://github.com/koreainvestment/open-trading-api (examples_user/kis_auth.py), and reads the file
once, on import. The file is ``~/KIS/config/KIS<YYYYMMDD>``, named after the local day, and is parsed as YAML.
``valid-date`` must be a datetime. ``token`` is used while the text of ``valid-date`` is greater than the text of the
local time. In all other cases kis_auth.py calls tokenP.

The child process kis_auth_machine.py runs in the zone, and its clock shows any given time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="a process of Windows has the machine's zone"),
    pytest.mark.usefixtures("child_processes"),
]

MACHINE = Path(__file__).with_name("kis_auth_machine.py")
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ZONES = ["UTC", "Asia/Seoul", "America/Los_Angeles"]

Question = tuple[datetime, datetime, list[datetime]]


def ask(home: Path, zone: str, questions: Iterable[Question]) -> list[tuple[list[str], list[bool]]]:
    """Return the names of the files that are written in ``zone``, and whether kis_auth uses the token at each time."""
    asked = [
        (now.timestamp(), ends.timestamp(), [each.timestamp() for each in moments]) for now, ends, moments in questions
    ]
    done = subprocess.run(
        [sys.executable, str(MACHINE)],
        input=json.dumps(asked),
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TZ": zone},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(names, used) for names, used in json.loads(done.stdout)]


def utc(text: str) -> datetime:
    """A moment of 2026 in UTC, as ``03-02 12:00``."""
    return datetime.strptime(f"2026-{text} +0000", "%Y-%m-%d %H:%M %z")


def test_file_has_two_plain_lines(tmp_path: Path) -> None:
    """No value is quoted: YAML would read a quoted date as text, and kis_auth would then issue."""
    ask(tmp_path, "Asia/Seoul", [(utc("03-02 12:00"), utc("03-03 10:00"), [])])
    texts = {path.read_text() for path in tmp_path.glob("0/KIS/config/*")}
    assert texts == {"token: opaque.token-of-a-test_0123456789\nvalid-date: 2026-03-03 19:00:00\n"}


@pytest.mark.parametrize("zone", ZONES)
def test_token_of_a_day_is_used_until_its_end(tmp_path: Path, zone: str) -> None:
    """A token that was issued at any hour is used until its last minute, also after local midnight, and not longer."""
    questions = []
    for hour in range(24):
        now = utc(f"03-02 {hour:02}:30")
        ends = now + 24 * HOUR
        questions.append((now, ends, [now, now + 8 * HOUR, now + 16 * HOUR, ends - MINUTE, ends + MINUTE]))

    answers = ask(tmp_path, zone, questions)

    assert [len(names) for names, _ in answers] == [2] * 24
    assert [used for _, used in answers] == [[True] * 4 + [False]] * 24


FILES = [
    ("UTC", "03-02 20:00", "03-02 23:59", ["KIS20260302"]),
    ("UTC", "03-02 20:00", "03-03 00:01", ["KIS20260302", "KIS20260303"]),
    ("Asia/Seoul", "03-02 20:00", "03-03 10:00", ["KIS20260303"]),
    ("Asia/Seoul", "03-02 14:59", "03-02 15:01", ["KIS20260302", "KIS20260303"]),
    ("America/Los_Angeles", "03-02 07:59", "03-02 08:01", ["KIS20260301", "KIS20260302"]),
    ("America/Los_Angeles", "03-02 08:01", "03-03 07:59", ["KIS20260302"]),
]


@pytest.mark.parametrize(("zone", "now", "ends", "names"), FILES)
def test_days_are_the_machines(tmp_path: Path, zone: str, now: str, ends: str, names: list[str]) -> None:
    """There is a file for today in local time and, if the token ends after local midnight, a file for tomorrow."""
    ((written_names, _),) = ask(tmp_path, zone, [(utc(now), utc(ends), [])])
    assert written_names == names


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("change", ["03-08 10:00", "11-01 09:00"], ids=["to summer time", "from summer time"])
def test_expired_token_is_never_used_when_clocks_are_changed(tmp_path: Path, zone: str, change: str) -> None:
    """If a token ends around a change of the clocks, it is not used after its end, not even in the repeated hour.

    A valid token may be ignored in its last two hours: the file may show an earlier end, and an hour is repeated.
    """
    changed = utc(change)
    questions = []
    for half_hours in range(-6, 7):
        ends = changed + half_hours * HOUR / 2
        moments = [ends + minutes * MINUTE for minutes in range(-240, 181, 10)]
        questions.append((ends - 20 * HOUR, ends, moments))

    for (_, ends, moments), (_, used) in zip(questions, ask(tmp_path, zone, questions), strict=True):
        assert not any(each for moment, each in zip(moments, used, strict=True) if moment >= ends)
        assert all(each for moment, each in zip(moments, used, strict=True) if moment < ends - 2 * HOUR)
        if zone != "America/Los_Angeles" or "03-08" in change:
            assert all(each for moment, each in zip(moments, used, strict=True) if moment < ends)
