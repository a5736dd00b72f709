"""The command in a terminal: one line during a wait, questions, hidden input, and colours. Elsewhere: plain lines."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from kis_token.sandbox.kis_http import REVOKE_PATH
from kis_token.token import fingerprint
from tests.command import PROGRAM, Terminal, clean, kis_token, kis_token_here
from tests.resolver_harness import OTHER
from tests.support import Caller, make_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.resolver_harness import Chain

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals of this kind are POSIX's")

CLEAR = b"\r\x1b[K"


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Open a pseudo-terminal for one child process."""
    terminal = Terminal()
    yield terminal
    terminal.close()


def start(chain: Chain, *arguments: str, **streams: int) -> subprocess.Popen[bytes]:
    """Start the command without a controlling terminal. The standard streams that are not in ``streams`` are pipes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return] # its streams come by name
        [*PROGRAM, *arguments], env=clean(chain.variables), start_new_session=True, **(pipes | streams)
    )


def test_waiting_is_one_line_that_goes_away(chain: Chain, terminal: Terminal) -> None:
    """On a terminal, one line names the reason of a wait and counts the seconds. The line is cleared at the end."""
    caller, token = Caller(chain.database, label="night\x1b[2Jjob"), make_token()
    caller.begin()
    child = start(chain, "get", stderr=terminal.inside)
    seen = terminal.read_until(b"night[2Jjob is issuing a token")
    while len(set(re.findall(rb"at the most (\d+) s", seen))) < 2:
        seen += terminal.read_until(b" s")
    caller.commit(token)
    told, _ = child.communicate(timeout=60)
    seen += terminal.rest()

    assert child.returncode == 0
    assert fingerprint(told.decode().strip()) == token.token_id
    assert seen.startswith(CLEAR)
    assert seen.endswith(CLEAR)
    assert b"\n" not in seen
    assert max(len(line) for line in seen.split(CLEAR)) < 80


def test_waiting_is_plain_lines_elsewhere(chain: Chain) -> None:
    """If standard error is not a terminal, each wait is one plain line that is not cleared."""
    caller = Caller(chain.database)
    caller.begin()
    child = start(chain, "get")
    assert child.stderr is not None
    line = child.stderr.readline()
    caller.commit(make_token())
    _, rest = child.communicate(timeout=60)

    assert line.startswith(b"acme/bot run 7 trade is issuing a token; waiting for it, ")
    assert line.endswith(b" at the most\n")
    assert rest == b""


def test_a_narrow_terminal_cuts_the_line(chain: Chain, terminal: Terminal) -> None:
    """The line about a wait is cut to the terminal's width, because a wrapped line could not be cleared."""
    terminal.narrow(30)
    caller = Caller(chain.database)
    caller.begin()
    child = start(chain, "get", stderr=terminal.inside)
    seen = terminal.read_until(b"acme/bot run 7 trade") + terminal.read_until(b" s")
    caller.commit(make_token())
    child.communicate(timeout=60)
    seen += terminal.rest()

    line = next(line for line in seen.split(CLEAR) if line.startswith(b"acme"))
    seconds = line[line.rindex(b" ", 0, -2) :]
    assert line == b"acme/bot run 7 trade is issuing a token"[: 29 - len(seconds)] + seconds
    assert max(len(line) for line in seen.split(CLEAR)) == 29


def test_quick_answers_show_nothing(chain: Chain, terminal: Terminal) -> None:
    """If the command does not wait, it prints no line about a wait."""
    chain.database.put_token(make_token())
    child = start(chain, "get", stderr=terminal.inside)
    child.communicate(timeout=60)

    assert (child.returncode, terminal.rest()) == (0, CLEAR)


@pytest.mark.parametrize(("answer", "status", "calls"), [("n", 1, 0), ("", 1, 0), ("y", 0, 1)])
def test_revoke_asks_first(chain: Chain, terminal: Terminal, answer: str, status: int, calls: int) -> None:
    """``revoke`` names the slot and asks for confirmation. ``revoke`` calls KIS only after the answer yes."""
    chain.resolve()
    child = start(chain, "revoke", stdin=terminal.inside)
    assert child.stderr is not None
    question = child.stderr.read(len(b"Revoke the token of kis (production) for all jobs? [y/N]: "))
    terminal.type(f"{answer}\n")
    told, _ = child.communicate(timeout=60)

    assert question.startswith(b"Revoke the token of kis (production)")
    assert (child.returncode, told.startswith(b"kis: revoked")) == (status, status == 0)
    assert sum(seen.path == REVOKE_PATH for seen in chain.kis.requests) == calls


def test_revoke_without_a_terminal(chain: Chain) -> None:
    """Without a terminal, ``revoke`` fails unless the option ``--yes`` is given."""
    chain.resolve()
    unasked = kis_token_here(chain.variables, "revoke", standard_input="y\n")
    told = kis_token(chain.variables, "revoke", "--yes")
    again = kis_token_here(chain.variables, "revoke", "--yes")

    assert (unasked.returncode, unasked.stdout, "--yes" in unasked.stderr) == (2, "", True)
    assert (told.returncode, told.stdout) == (0, "kis: revoked; removed from Supabase\n")
    assert "KIS may give only the revoked token" in told.stderr
    assert (again.returncode, again.stdout) == (0, "kis: no token is stored, so nothing was revoked\n")


def test_keys_are_typed_unseen(chain: Chain, terminal: Terminal) -> None:
    """``set-keys`` asks at a terminal, and does not show the typed keys."""
    chain.database.clear()
    keyless = {name: value for name, value in chain.variables.items() if not name.startswith("KIS_APP_")}
    child = subprocess.Popen(
        [*PROGRAM, "set-keys", "--no-verify", "--expires", "2999-12-31"],
        env=clean(keyless),
        stdin=terminal.inside,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stderr is not None
    for prompt, answer in ((b"app key: ", OTHER.key), (b"app secret: ", OTHER.secret)):
        asked = b""
        while prompt not in asked:
            asked += child.stderr.read(1)
        terminal.type(f"{answer}\n")
    told, _ = child.communicate(timeout=60)

    assert (child.returncode, told) == (0, b"stored plain for kis (production); last day 2999-12-31 in Korea\n")
    shown = terminal.rest()
    assert OTHER.key.encode() not in shown
    is_stored = chain.resolver(app_key="", app_secret="").look().app_key == OTHER
    assert is_stored


@pytest.mark.parametrize("command", ["status", "check"])
def test_colours_are_for_terminals(chain: Chain, terminal: Terminal, command: str) -> None:
    """The output has colours on a terminal, and no colours in a pipe."""
    chain.database.put_token(make_token())
    child = start(chain, command, stdout=terminal.inside)
    child.communicate(timeout=60)
    shown, piped = terminal.rest(), kis_token(chain.variables, command).stdout

    assert b"\x1b[" in shown
    assert "\x1b" not in piped
    assert piped != ""


@pytest.mark.parametrize("columns", [80, 60])
def test_status_fits_the_terminal(chain: Chain, terminal: Terminal, columns: int) -> None:
    """``status`` of two slots fits a terminal of 80 and of 60 columns."""
    chain.database.put_keys(service="kis-second-account")
    chain.database.put_token(make_token(), service="kis-second-account")
    Caller(chain.database, label="acme/a-repository-with-a-name run 12345678901 quotation").begin()
    terminal.narrow(columns)
    child = start(chain, "status", stdout=terminal.inside)
    child.communicate(timeout=60)

    lines = [click.unstyle(line) for line in terminal.rest().decode().splitlines()]
    assert child.returncode == 0
    assert max(map(len, lines)) <= columns
    assert "kis-second-account" in lines


def test_an_interrupt_is_a_status(chain: Chain, terminal: Terminal) -> None:
    """Ctrl-C during a wait gives status 130, clears the line, and prints no traceback."""
    Caller(chain.database).begin()
    child = start(chain, "get", stderr=terminal.inside)
    terminal.read_until(b"is issuing a token")
    child.send_signal(2)
    child.communicate(timeout=60)

    assert child.returncode == 130
    assert b"Traceback" not in terminal.rest()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_no_colours_where_they_are_not_wanted(chain: Chain, terminal: Terminal, environment: dict[str, str]) -> None:
    """With NO_COLOR or on a dumb terminal, the output is plain text and has no line that must be cleared."""
    chain.database.put_token(make_token())
    child = subprocess.run(
        [*PROGRAM, "check"], env=clean(chain.variables | environment), stdout=terminal.inside, check=False, timeout=60
    )
    assert child.returncode in (0, 1)
    assert b"\x1b" not in terminal.rest()


CLOSED = ("<&-", ">&-", "2>&-")


@pytest.mark.parametrize(
    ("closed", "arguments"),
    [
        *((closed, ("get",)) for closed in CLOSED),
        *((CLOSED[0], words) for words in (("exec", "--", "true"), ("rotate",))),
        *(
            pytest.param(closed, words, marks=pytest.mark.matrix)
            for closed in CLOSED[1:]
            for words in (("exec", "--", "true"), ("rotate",))
        ),
    ],
    ids=str,
)
def test_closed_streams(chain: Chain, arguments: tuple[str, ...], closed: str) -> None:
    """The command works even if its caller has closed one of the three streams."""
    chain.database.put_token(make_token())
    script = f'exec "$@" {closed}'
    child = subprocess.run(
        ["sh", "-c", script, "sh", *PROGRAM, *arguments],
        env=clean(chain.variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    assert (child.returncode, child.stderr) == (0, b"")


def test_streams_that_know_few_letters(chain: Chain) -> None:
    """A Korean label is escaped on a stream that cannot encode it."""
    caller = Caller(chain.database, label="\ub098\uc758 \ub9e5\ubd81")
    caller.begin()
    caller.commit(make_token())
    ended = kis_token(chain.variables | {"PYTHONIOENCODING": "cp1252"}, "status")

    assert (ended.returncode, "\\ub098\\uc758" in ended.stdout) == (0, True)
