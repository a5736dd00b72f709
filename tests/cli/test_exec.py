"""``kis-token exec``: the environment of the program, which replaces the process of the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kis_token.cli.processes import run_child
from kis_token.token import fingerprint
from tests.command import PROGRAM, clean, kis_token
from tests.support import ACCOUNT, ANON_KEY, make_token

if TYPE_CHECKING:
    from pathlib import Path

    from tests.resolver_harness import Chain

if sys.platform == "win32":
    pytest.skip("the place of a process cannot be taken, nor are its signals POSIX's", allow_module_level=True)

SHOW = """
import hashlib, os, sys
for name in sys.argv[1:]:
    print(name, hashlib.sha256(os.environ.get(name, "").encode()).hexdigest()[:16])
sys.exit(7)
"""

#: In Python, because a shell cannot trap a signal that was ignored when the shell started. A test run in the background
#: ignores SIGINT.
HANDLES_A_SIGNAL = """
import signal, sys
signal.signal(int(sys.argv[1]), lambda *_: sys.exit(5))
print("ready", flush=True)
sys.stdin.read()
"""


def start(chain: Chain, *command: str) -> subprocess.Popen[str]:
    """Start a program under ``exec``, with pipes."""
    return subprocess.Popen(
        [*PROGRAM, "exec", "--", *command],
        env=clean(chain.variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_program_has_token_and_keys(chain: Chain) -> None:
    """The program gets token, host and stored keys, and keeps KIS_ACCOUNT_NO. Its exit status is the command's."""
    token = make_token()
    chain.database.put_token(token)
    chain.database.put_keys()
    keyless = {name: value for name, value in chain.variables.items() if not name.startswith("KIS_APP_")}
    names = ("KIS_ACCESS_TOKEN", "KIS_APP_KEY", "KIS_APP_SECRET", "KIS_BASE_URL", "KIS_ACCOUNT_NO")

    ended = kis_token(keyless | {"KIS_ACCOUNT_NO": "12345678-01"}, "exec", sys.executable, "-c", SHOW, *names)

    assert ended.returncode == 7, ended.stderr
    values = (token.value, ACCOUNT.app_key, ACCOUNT.app_secret, chain.kis.production_url, "12345678-01")
    assert dict(line.split() for line in ended.stdout.splitlines()) == dict(
        zip(names, map(fingerprint, values), strict=True)
    )
    assert ended.stderr == ""
    assert chain.issue_calls == 0


def test_program_without_keys_is_warned_of(chain: Chain) -> None:
    """If no app key is known, the program gets only the token, and the command warns."""
    chain.database.put_token(make_token())
    keyless = {name: value for name, value in chain.variables.items() if not name.startswith("KIS_APP_")}

    ended = kis_token(keyless, "exec", "sh", "-c", "echo ${KIS_APP_KEY-none}")

    assert (ended.returncode, ended.stdout) == (0, "none\n")
    assert "warning: no app key is known" in ended.stderr


def test_program_is_this_process(chain: Chain) -> None:
    """The program replaces the command's process, so that the program gets every signal."""
    chain.database.put_token(make_token())
    child = start(chain, "sh", "-c", "echo $$")
    told, _ = child.communicate(timeout=60)

    assert int(told) == child.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on(chain: Chain, number: signal.Signals) -> None:
    """A signal to the process of ``exec`` reaches the program's own handler."""
    chain.database.put_token(make_token())
    child = start(chain, sys.executable, "-c", HANDLES_A_SIGNAL, f"{number:d}")
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    child.communicate(timeout=60)

    assert child.returncode == 5


def test_ending_signal_is_the_program_s(chain: Chain) -> None:
    """If a signal ends the program, the parent process sees the same signal."""
    chain.database.put_token(make_token())
    child = start(chain, "sh", "-c", "kill -9 $$")
    child.communicate(timeout=60)

    assert child.returncode == -signal.SIGKILL


def test_broken_pipes_end_programs_as_usual(chain: Chain) -> None:
    """SIGPIPE ends a program under ``exec``, although Python ignores SIGPIPE."""
    chain.database.put_token(make_token())
    ended = kis_token(chain.variables, "exec", "sh", "-c", "kill -PIPE $$; echo survived")

    assert (ended.returncode, ended.stdout) == (-signal.SIGPIPE, "")


def test_program_that_is_not_there(chain: Chain, tmp_path: Path) -> None:
    """As in a shell, the status is 127 for an unknown and 126 for a denied program.

    The error does not print the program's name and arguments.
    """
    chain.database.put_token(make_token())
    file = tmp_path / "no-program"
    file.write_text("x")
    missing = kis_token(chain.variables, "exec", "--", "no-such-program-c2VjcmV0", "argument")
    denied = kis_token(chain.variables, "exec", "--", str(file))
    nameless = kis_token(chain.variables, "exec", "--", "")

    assert (missing.returncode, denied.returncode, nameless.returncode) == (127, 126, 127)
    assert missing.stderr == "error: the command cannot be started: No such file or directory\n"
    assert denied.stderr == "error: the command cannot be started: Permission denied\n"


def test_program_is_not_started_without_a_token(chain: Chain) -> None:
    """If no token can be issued, the command fails with status 1 and starts no program."""
    chain.refuse_issue("EGW00105")
    ended = kis_token(chain.variables, "exec", "sh", "-c", "echo started")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert "[kis-secret-refused]" in ended.stderr


def test_options_of_the_program_are_its_own(chain: Chain) -> None:
    """Options after the program's name belong to the program, with and without ``--`` before the name."""
    chain.database.put_token(make_token())
    for dashes in ((), ("--",)):
        ended = kis_token(chain.variables, "exec", *dashes, "echo", "--service", "x", "--", "-h")
        assert ended.stdout == "--service x -- -h\n"


@pytest.mark.usefixtures("child_processes")
def test_as_a_child_where_a_process_cannot_be_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """run_child returns the child's status, 128 plus a signal's number, or 127 or 126 if the child cannot start."""
    env = {"PATH": os.environ["PATH"], "WORD": "given", "ANON": ANON_KEY}

    assert run_child(["sh", "-c", "echo $WORD; exit 3"], env) == 3
    assert run_child(["sh", "-c", "kill -TERM $$"], env) == 128 + signal.SIGTERM
    assert run_child(["no-such-program"], env) == 127
    assert run_child(["nul\0"], env) == 127
    assert run_child([str(tmp_path)], env) == 126
    assert capfd.readouterr().out == "given\n"


@pytest.mark.usefixtures("child_processes")
def test_ctrl_c_is_for_the_child_to_answer() -> None:
    """While a child runs, an interrupt does not end the command, which waits for the child's status."""
    before = signal.getsignal(signal.SIGINT)

    assert run_child(["sh", "-c", "kill -INT $PPID; exit 4"], dict(os.environ)) == 4
    assert signal.getsignal(signal.SIGINT) is before
