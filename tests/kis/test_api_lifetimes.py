"""The beginning and end of a token, which result from the times in KIS's answer."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.errors import IssuerOutage
from kis_token.kis.api import parse_issue_answer
from kis_token.settings.pasted_values import parse_claims
from kis_token.token import KST
from tests.kis.scripted_kis import DAY, OPAQUE
from tests.support import APP_KEY, make_token

pytestmark = pytest.mark.usefixtures("plain_network")

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)


def kis_time(instant: datetime) -> str:
    """Return a time in KIS's form: Korea time without an offset."""
    return f"{instant.astimezone(KST):%Y-%m-%d %H:%M:%S}"


def answer_of(**members: object) -> dict[str, object]:
    """Return an answer with an opaque token."""
    return {"access_token": OPAQUE, "token_type": "Bearer", **members}


def test_korea_time_is_read_as_korea_time() -> None:
    """The time in the answer is Korea time, so the end in UTC is nine hours earlier."""
    answer = answer_of(access_token_token_expired="2026-03-03 21:00:00", expires_in=86400)
    token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert (token.expires_at, token.issued_at) == (NOON + DAY, NOON)
    assert token.app_key_id == APP_KEY.key_id


def test_earlier_of_two_ends_counts() -> None:
    """The earlier of two ends counts: the end in the JWT, or ``access_token_token_expired``."""
    for shift in (-timedelta(hours=1), timedelta(hours=1)):
        jwt = make_token(left=DAY, now=NOON)
        beside = NOON + DAY + shift
        answer = {"access_token": jwt.value, "access_token_token_expired": kis_time(beside), "expires_in": 86400}
        token = parse_issue_answer(answer, APP_KEY, "production", NOON)
        assert token.expires_at == min(beside, jwt.expires_at)
        assert token.issued_at == jwt.issued_at


def test_expires_in_that_disagrees_moves_no_end() -> None:
    """If ``expires_in`` does not agree with the end, the end counts; the beginning is the end minus ``expires_in``."""
    answer = answer_of(access_token_token_expired=kis_time(NOON + timedelta(hours=3)), expires_in=86400)
    token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert token.expires_at == NOON + timedelta(hours=3)
    assert token.issued_at == NOON - timedelta(hours=21)


@pytest.mark.parametrize("end", [None, "", "soon", 86400, "0001-01-01 00:00:00", "9999-12-31 23:59:59"], ids=repr)
@pytest.mark.parametrize("lifetime", [86400, 86400.0, "86400"], ids=repr)
def test_without_a_readable_end_expires_in_counts_from_now(end: object, lifetime: object) -> None:
    """Without a readable end, ``expires_in`` counts from now."""
    answer = answer_of(access_token_token_expired=end, expires_in=lifetime)
    token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert (token.issued_at, token.expires_at) == (NOON, NOON + DAY)


def test_end_of_the_jwt_alone_is_enough() -> None:
    """If only the JWT has an end, beginning and end come from the JWT, and ``expires_in`` is ignored."""
    jwt = make_token(left=timedelta(hours=2), age=timedelta(hours=22), now=NOON)
    token = parse_issue_answer({"access_token": jwt.value, "expires_in": 86400}, APP_KEY, "production", NOON)
    assert token.expires_at == NOON + timedelta(hours=2)
    assert token.issued_at == NOON - timedelta(hours=22)


def test_claim_that_cannot_be_read_is_no_end() -> None:
    """A JWT whose ``exp`` is not a time is treated like a JWT without ``exp``."""
    value = "eyJhbGciOiJIUzUxMiJ9.eyJleHAiOiJzb29uIn0.c2lnbmF0dXJl"
    assert parse_claims(value) == {"exp": "soon"}
    token = parse_issue_answer({"access_token": value, "expires_in": 86400}, APP_KEY, "production", NOON)
    assert token.expires_at == NOON + DAY


def test_blanks_around_the_token_are_cut_off() -> None:
    """White space around the token is removed."""
    answer = answer_of(access_token=f" {OPAQUE}\n", expires_in=86400)
    assert parse_issue_answer(answer, APP_KEY, "paper", NOON).value == OPAQUE


@pytest.mark.parametrize("left", [timedelta(seconds=29), timedelta(), -timedelta(hours=1)])
def test_token_that_is_expired_on_arrival_is_a_failure(left: timedelta) -> None:
    """If KIS repeats a token that has expired, the call fails with an outage."""
    answer = answer_of(access_token_token_expired=kis_time(NOON + left), expires_in=86400)
    with pytest.raises(IssuerOutage) as caught:
        parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert (caught.value.code, caught.value.sent) == ("kis-answer-unusable", True)
    assert OPAQUE not in f"{caught.value!r}", "the token is shown"


any_value = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none(), max_size=1)


@given(any_value | st.just(OPAQUE), any_value, any_value | st.floats(0, 1e15))
def test_any_answer_is_a_token_or_an_outage(value: object, end: object, lifetime: object) -> None:
    """Any answer of KIS gives an outage or a token that is valid now and ends after its beginning."""
    answer = {"access_token": value, "access_token_token_expired": end, "expires_in": lifetime}
    try:
        token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    except IssuerOutage as error:
        assert error.sent is True  # noqa: PT017 - either outcome is right
        return
    assert token.issued_at < token.expires_at
    assert token.expires_at > NOON


@given(st.integers(30, 90 * 86400))
def test_any_lifetime_is_taken_at_its_word(seconds: int) -> None:
    """If ``expires_in`` agrees with the end, the token has this end and this lifetime."""
    end = NOON + timedelta(seconds=seconds)
    answer = answer_of(access_token_token_expired=kis_time(end), expires_in=seconds)
    token = parse_issue_answer(answer, APP_KEY, "production", NOON)
    assert (token.issued_at, token.expires_at) == (NOON, end)
