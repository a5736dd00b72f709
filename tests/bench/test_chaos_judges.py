"""Each judge of a chaos run finds its kind of error."""

from __future__ import annotations

import pytest

from bench.chaos.judges import JUDGES, LIMITS
from bench.chaos.records import (
    Attempt,
    Begin,
    Call,
    Health,
    Issued,
    Killed,
    Read,
    Records,
    Start,
    Stop,
    Stored,
    Tally,
    Write,
)
from bench.chaos.simulated_time import CHILD, MIXED
from tests.bench.chaos_records import (
    BESIDE_STORE,
    DAY,
    ENDED,
    GAVE_UP,
    HICCUP,
    NOW,
    REFUSED,
    call_with_lease,
    got,
    noted,
)

CLOSE = "tokenP calls with leases within a minute"
TWICE = "new tokens within a minute"
OLDER = "older tokens stored over newer"
NONSENSE = "stored values that are not valid tokens"
ERRORS = "tracebacks and other errors"
CACHE = "no token, although the cache held one"
STORE = "no token, although the store gave one"
BESIDE = "  of them with a good one in the store"
ASLEEP = "handed out expired after a suspension"
MACHINE = "tokenP within a minute, alone on one machine"
LATER = "ended by KIS, with the later one in the cache"
ANOTHER = "answers of another process, after a fork"
ALONE = "tokenP within a minute, one without a lease"
BESIDE_LEASE = "  of them both from one machine"
AFTER_SLEEP = "tokenP within a minute, after a suspension"
NEW = Stored("new", NOW + DAY - 3600)
OLD = Stored("old", NOW + DAY - 9 * 3600)
NOTHING = Stored(None, None)
#: Supabase does not answer from this time on.
OUTAGE = Health(NOW - 200, is_well=False)


def seen(records: Records) -> set[str]:
    """Return the judges with findings."""
    return {name for name, judge in (JUDGES | LIMITS).items() if judge(records)}


def failed(mode: str = "resolve", *, cached: str | None = None, rejected: str | None = None) -> Attempt:
    """Return an attempt in which caller 0 got no token."""
    return Attempt("0.1.1", 0, mode, NOW - 5, NOW, code="kis-unreachable", cached=cached, rejected=rejected)


def without_lease(seconds: float, *, by: str = "0.1.1", caller: int = 0) -> tuple[Start, Call]:
    """Return a call of tokenP without a lease, ``seconds`` after its attempt began. The caller's retry_time is 45 s."""
    return Start(by, caller, NOW - seconds, 180.0), Call(by, NOW, "new")


def written(before: Stored, after: Stored, *, outside: bool = False) -> Records:
    """Return records with a write of the token row."""
    return noted(writes=(Write(NOW, outside, before, after),))


def put_by_outsider(before: Stored, after: Stored) -> Write:
    """Return an outsider's write of a minute ago."""
    return Write(NOW - 60, outside=True, before=before, after=after)


def test_calm_run_finds_nothing() -> None:
    """Good tokens, leases a minute apart, a newer token over an older one and failures without a token are allowed."""
    calm = noted(
        got("new"),
        failed(),
        *call_with_lease("0.1.1", NOW),
        *call_with_lease("1.1.1", NOW + 60),
        writes=(Write(NOW, outside=False, before=OLD, after=NEW),),
    )

    assert seen(calm) == set()


@pytest.mark.parametrize("attempt", [got("made up"), got("other's"), got("expired"), got("new", rejected="new")])
def test_token_that_kis_would_reject_is_found(attempt: Attempt) -> None:
    """The token was never issued, belongs to another key, has expired, or was rejected before."""
    assert seen(noted(attempt)) == {REFUSED}


def test_token_that_expired_in_a_suspension_is_a_limit() -> None:
    """A suspension within the attempt excuses the caller, and a suspension before the attempt does not."""
    assert seen(noted(got("expired"), Stop(0, NOW - 4, NOW - 2))) == {ASLEEP}
    assert seen(noted(got("expired"), Stop(0, NOW - 9, NOW - 6))) == {REFUSED}
    assert seen(noted(got("expired"), Stop(1, NOW - 4, NOW - 2))) == {REFUSED}


def test_token_that_kis_ended_early_is_a_limit() -> None:
    """A caller cannot know that KIS ended a token early until KIS rejects the token, so the case is only counted."""
    assert seen(noted(got("new"), Killed("new", NOW - 1))) == {ENDED}
    assert seen(noted(got("new"), Killed("new", NOW + 1))) == set()


def test_token_that_kis_ended_early_beside_a_good_one_is_counted() -> None:
    """The store had just returned another token to the same caller, and KIS would accept that other token."""
    held, got_new, killed = (put_by_outsider(NOTHING, OLD),), got("new"), Killed("new", NOW - 1)

    assert seen(noted(got_new, killed, Read(0, NOW - 3), writes=held)) == {ENDED, BESIDE}
    assert seen(noted(got_new, killed, Read(1, NOW - 3), writes=held)) == {ENDED}
    assert seen(noted(got_new, killed, Read(0, NOW - 3), Killed("old", NOW - 1), writes=held)) == {ENDED}


def test_calls_with_leases_within_a_minute_are_found() -> None:
    """Two calls with leases within a minute are found, also if one caller makes both."""
    assert seen(noted(*call_with_lease("0.1.1", NOW), *call_with_lease("1.1.1", NOW + 59))) == {CLOSE}
    assert seen(noted(*call_with_lease("0.1.1", NOW), *call_with_lease("0.1.1", NOW + 59))) == {CLOSE}


@pytest.mark.parametrize(
    "asked", [(), (Begin("1.1.1", NOW, None, delivered=False),), (Begin("1.1.1", NOW, "granted", delivered=False),)]
)
def test_call_without_the_store_is_a_limit(asked: tuple[Begin, ...]) -> None:
    """A caller does not know of leases if its begin, or the answer to its begin, was lost."""
    assert seen(noted(*call_with_lease("0.1.1", NOW), *asked, Call("1.1.1", NOW + 59, "new"))) == {ALONE}


def test_calls_of_one_machine_without_the_store_are_counted() -> None:
    """Callers 0 and 2 are on one machine, and callers 0 and 1 are on two machines."""
    assert seen(noted(Call("0.1.1", NOW), Call("2.1.1", NOW + 1))) == {ALONE, MACHINE}
    assert seen(noted(Call("0.1.1", NOW), Call("1.1.1", NOW + 1))) == {ALONE}
    assert seen(noted(Call("0.1.1", NOW), Call("2.1.1", NOW + 60))) == set()


def test_call_between_a_suspended_caller_and_its_call_is_a_limit() -> None:
    """The first caller was suspended between its note and its call, so the machine's minute had begun earlier."""
    assert seen(noted(Call("0.1.1", NOW), Call("2.1.1", NOW + 1), Stop(0, NOW - 70, NOW - 1))) == {ALONE}
    assert seen(noted(Call("0.1.1", NOW), Call("2.1.1", NOW + 1), Stop(2, NOW - 70, NOW - 1))) == {ALONE, MACHINE}


def test_calls_of_one_machine_with_and_without_a_lease_are_a_limit() -> None:
    """A call with a lease leaves no note on its machine."""
    assert seen(noted(*call_with_lease("0.1.1", NOW), Call("2.1.1", NOW + 59))) == {ALONE, BESIDE_LEASE}


@pytest.mark.parametrize(
    "heard",
    [
        Read(0, NOW - 99),
        Begin("0.1.1", NOW - 99, "busy", delivered=True),
        Begin("0.1.1", NOW - 1, "fresh", delivered=True),
    ],
)
def test_call_without_a_lease_beside_the_store_is_found(heard: Read | Begin) -> None:
    """In the same attempt, the store had answered the caller's read or begin."""
    assert seen(noted(OUTAGE, *without_lease(100), heard)) == {BESIDE_STORE}


@pytest.mark.parametrize(
    "unheard",
    [
        Read(0, NOW - 101),
        Read(1, NOW - 99),
        Read(CHILD, NOW - 99),
        Begin("0.1.1", NOW - 99, "busy", delivered=False),
        Begin("0.1.1", NOW - 99, None, delivered=True),
        Begin("1.1.1", NOW - 99, "busy", delivered=True),
    ],
)
def test_call_without_a_lease_by_a_caller_without_an_answer_is_not_found(unheard: Read | Begin) -> None:
    """The store's answer came before the attempt, went to another caller or a child, was lost, or was a failure."""
    assert seen(noted(OUTAGE, *without_lease(100), unheard)) == set()


def test_call_without_a_lease_in_a_hiccup_is_found() -> None:
    """When the caller called KIS, the caller's retry_time was not over, or the store had answered again."""
    ill, well = Health(NOW - 99, is_well=False), Health(NOW - 60, is_well=True)

    assert seen(noted(*without_lease(40), ill)) == {HICCUP}
    assert seen(noted(*without_lease(45), ill)) == set()
    assert seen(noted(*without_lease(100), ill, well)) == {HICCUP}
    assert seen(noted(*without_lease(100), ill, well, Health(NOW - 20, is_well=False))) == {HICCUP}
    assert seen(noted(*without_lease(100), ill, well, Health(NOW - 21, is_well=False))) == set()
    assert seen(noted(*without_lease(100), well)) == {HICCUP}


def test_caller_that_was_suspended_is_not_judged_by_answers_and_retry_time() -> None:
    """An answer that came during the suspension may not have reached the caller."""
    asleep = Stop(0, NOW - 30, NOW - 20)

    assert seen(noted(OUTAGE, *without_lease(100), Read(0, NOW - 99), asleep)) == set()
    assert seen(noted(OUTAGE, *without_lease(40), asleep)) == set()


def test_caller_that_gives_up_in_a_hiccup_is_found() -> None:
    """The caller got no answer from Supabase and gave up before its retry_time, half of 39 - 20 s, was over."""
    start = Start("0.1.1", 0, NOW - 10, 40.0)

    def gave_up(after: float, mode: str = "resolve", code: str = "store-unreachable") -> Attempt:
        return Attempt("0.1.1", 0, mode, NOW - 10, NOW - 10 + after, code=code)

    assert seen(noted(start, gave_up(8))) == seen(noted(start, gave_up(8, "replace"))) == {GAVE_UP}
    assert seen(noted(start, gave_up(9.5))) == set()
    assert seen(noted(start, gave_up(8, "rotate"))) == seen(noted(start, gave_up(8, code="kis-unreachable"))) == set()


def test_ended_token_beside_the_later_one_in_the_cache_is_found() -> None:
    """KIS had ended the token before the attempt, and the caller's own cache held a later token."""
    killed = Killed("old", NOW - 6)

    def got_old(cached: str | None) -> Attempt:
        return Attempt("0.1.1", 0, "resolve", NOW - 5, NOW, "old", "supabase", cached=cached)

    assert seen(noted(got_old("new"), killed)) == {ENDED, LATER}
    assert seen(noted(got_old(None), killed)) == seen(noted(got_old("old"), killed)) == {ENDED}
    assert seen(noted(got_old("new"), killed, Killed("new", NOW - 1))) == {ENDED}
    assert seen(noted(got_old("new"), Killed("old", NOW - 4))) == {ENDED}


def test_answer_of_another_process_is_found() -> None:
    """A parent or a child process of a bot reports that it got an answer of another process."""
    assert seen(noted(Tally(MIXED, "0.1.1 asked for parent0 and got the answer for child0"))) == {ANOTHER}


def test_call_of_a_suspended_holder_is_a_limit() -> None:
    """A suspension excuses the holder only if the holder calls KIS later than LONGEST_START after its grant."""
    late = (Begin("0.1.1", NOW - 75, "granted", delivered=True), Call("0.1.1", NOW + 1), Stop(0, NOW - 74, NOW))
    hasty = (Begin("0.1.1", NOW - 2, "granted", delivered=True), Call("0.1.1", NOW + 1), Stop(0, NOW - 1, NOW))

    assert seen(noted(*call_with_lease("1.1.1", NOW), *late)) == {AFTER_SLEEP}
    assert seen(noted(*call_with_lease("1.1.1", NOW), *hasty)) == {CLOSE}


def test_second_new_token_within_a_minute_is_found() -> None:
    """The judge counts the new tokens of KIS, and not the calls."""
    assert seen(noted(Issued("newer", NOW - 3541, NOW + DAY - 3541))) == {TWICE}


def test_older_token_over_a_newer_one_is_found() -> None:
    """A value that is not a token of this key counts as older too."""
    assert seen(written(NEW, OLD)) == {OLDER}
    assert seen(written(NEW, Stored("expired", NOW - 1))) == {OLDER, NONSENSE}


def test_write_over_a_bad_row_is_allowed() -> None:
    """A row that is unreadable, looks expired, was ended or was written by an outsider may be replaced."""
    assert seen(written(NOTHING, OLD)) == set()
    assert seen(written(Stored("new", NOW), OLD)) == set()
    assert seen(written(Stored("other's", NOW + DAY), OLD)) == set()
    assert seen(written(NEW, OLD, outside=True)) == set()
    killed = written(NEW, OLD)
    killed.add(Killed("new", NOW - 1))
    assert seen(killed) == set()


@pytest.mark.parametrize(
    "stored", [NOTHING, Stored("made up", NOW + DAY), Stored("other's", NOW + DAY), Stored("new", None)]
)
def test_nonsense_stored_is_found(stored: Stored) -> None:
    """The project must store a valid token of the key, with its end."""
    assert seen(written(NOTHING, stored)) == {NONSENSE}


def test_errors_are_found() -> None:
    """An unexpected exception, the code internal-error, and any output on stderr are errors."""
    crashed = Attempt("0.1.1", 0, "resolve", NOW, NOW, crash="Traceback: KeyError")
    internal = Attempt("0.1.1", 0, "resolve", NOW, NOW, code="internal-error")
    talkative = noted()
    talkative.stderr = "Traceback (most recent call last):"

    assert seen(noted(crashed)) == seen(noted(internal)) == seen(talkative) == {ERRORS}


def test_failure_with_a_token_in_the_cache_is_found() -> None:
    """The token was valid for long enough, KIS did not reject it, and it belonged to the same key."""
    assert seen(noted(failed(cached="new"))) == {CACHE}
    assert seen(noted(failed("replace", cached="new", rejected="old"))) == {CACHE}
    assert seen(noted(failed("replace", cached="new", rejected="new"))) == set()
    assert seen(noted(failed(cached="expired"))) == seen(noted(failed(cached="other's"))) == set()
    assert seen(noted(failed("force", cached="new"))) == set()


def test_failure_with_a_token_in_the_store_is_found() -> None:
    """In the attempt, the store had returned the token to this caller in a row that looked valid."""
    held, empty = (put_by_outsider(NOTHING, NEW),), (put_by_outsider(NEW, NOTHING),)
    dying = (put_by_outsider(NOTHING, Stored("new", NOW + 20)),)
    read = Read(0, NOW - 3)

    assert seen(noted(failed(), read, writes=held)) == {STORE}
    assert seen(noted(failed(), Read(1, NOW - 3), writes=held)) == set()
    assert seen(noted(failed(), Read(0, NOW - 6), writes=held)) == set()
    assert seen(noted(failed(), read, writes=empty)) == seen(noted(failed(), read, writes=dying)) == set()
    assert seen(noted(failed("replace", rejected="new"), read, writes=held)) == set()
    assert seen(noted(failed("force"), read, writes=held)) == set()
