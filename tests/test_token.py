"""Tokens: how times and stored forms are read, and the exact borders of the three states."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.errors import TokenError
from kis_token.settings.pasted_values import parse_claims
from kis_token.token import (
    KST,
    LEAST_USEFUL,
    USUAL_LIFETIME,
    AppKey,
    State,
    Token,
    build_token,
    claimed_time,
    fingerprint,
    looks_like_token,
    parse_instant,
    parse_kst,
    parse_stored,
)
from tests.support import ACCOUNT, make_token

if TYPE_CHECKING:
    from collections.abc import Callable

UTC = timezone.utc
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
OPAQUE = "opaque.token-of-a-test_0123456789"
TEN_MINUTES = timedelta(minutes=10)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)

instants = st.datetimes(datetime(1970, 1, 2), datetime(9998, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def jwt(claims: object) -> str:
    """Return a token with the given claims."""
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJIUzUxMiJ9.{payload}.c2lnbmF0dXJlLW9mLWEtdGVzdA"


def lasting(left: timedelta) -> Token:
    """Return a token that has ``left`` until its end, counted from noon."""
    return build_token(OPAQUE, expiries=[NOON + left])


WRITTEN = {
    "2026-03-02T12:00:00Z": NOON,
    "2026-03-02T12:00:00+00:00": NOON,
    "2026-03-02 12:00:00+00": NOON,
    "2026-03-02T21:00:00+09:00": NOON,
    "2026-03-02T21:00:00+0900": NOON,
    "2026-03-02 21:00:00 +09:00": NOON,
    "2026-03-02T07:30:00-04:30": NOON,
    "2026-03-02T21:00:00": NOON,
    "2026-03-02 21:00": NOON,
    "2026-03-02T12:00:00.5Z": NOON + timedelta(milliseconds=500),
    "2026-03-02T12:00:00,25Z": NOON + timedelta(milliseconds=250),
    "2026-03-02T12:00:00.123456Z": NOON + timedelta(microseconds=123456),
    "2026-03-02T12:00:00.123456789+00:00": NOON + timedelta(microseconds=123456),
    "  2026-03-02T12:00:00Z\n": NOON,
    "1772452800": NOON,
    "1772452800.5": NOON + timedelta(milliseconds=500),
    1772452800: NOON,
    1772452800.5: NOON + timedelta(milliseconds=500),
}

NO_TIMES = [
    "",
    "tomorrow",
    "2026-03-02",
    "2026-13-02T12:00:00Z",
    "2026-02-30T12:00:00Z",
    "2026-03-02T24:00:00Z",
    "2026-03-02T12:00:60Z",
    "2026-03-02T12:00:00.1234567890Z",
    "2026-03-02T12:00:00+25:00",
    "2026-03-02T12:00:00 KST",
    "٢٠٢٦-03-02T12:00:00Z",
    "12345678",
    "123456789012",
    "-1772452800",
    "nan",
    "infinity",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-09:00",
    float("nan"),
    float("inf"),
    1e300,
    -1,
    0,
    True,
    None,
    [],
    {},
    b"1772452800",
]


@pytest.mark.parametrize(("text", "instant"), WRITTEN.items(), ids=repr)
def test_time_is_read_as_clients_have_written_it(text: object, instant: datetime) -> None:
    """A time may be epoch seconds, or ISO 8601 with Z, with any offset or any fraction.

    Without an offset, it is Korea time.
    """
    assert parse_instant(text) == instant
    assert parse_instant(text).tzinfo is UTC


@pytest.mark.parametrize("value", NO_TIMES, ids=repr)
def test_value_that_is_no_time_is_a_value_error(value: object) -> None:
    """Any other value is a ValueError, also a year at the calendar's edge, at which sums overflow."""
    with pytest.raises(ValueError, match=r"."):
        parse_instant(value)


@given(instants, st.integers(-14 * 60, 14 * 60))
def test_time_survives_a_round_trip_through_any_offset(instant: datetime, minutes: int) -> None:
    """The text of isoformat, with any offset, is read as the same instant."""
    local = instant.astimezone(timezone(timedelta(minutes=minutes)))
    assert parse_instant(local.isoformat()) == instant
    assert parse_instant(local.isoformat(" ")) == instant


@given(instants)
def test_time_without_offset_is_korea_time(instant: datetime) -> None:
    """A naive time is nine hours before the same time in UTC, so an expired token never looks valid."""
    naive = instant.astimezone(KST).replace(tzinfo=None).isoformat()
    assert parse_instant(naive) == instant


@given(instants.map(lambda instant: instant.replace(microsecond=0)))
def test_kst_survives_a_round_trip(instant: datetime) -> None:
    """KIS's text, which is in Korea time without an offset, is read as the same instant in UTC."""
    assert parse_kst(f"{instant.astimezone(KST):%Y-%m-%d %H:%M:%S}".rjust(19, "0")) == instant


@pytest.mark.parametrize("parse", [parse_instant, parse_kst])
@given(text=st.text() | st.from_regex(r"\A\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?\Z"))
def test_any_text_is_a_time_or_a_value_error(parse: Callable[[str], datetime], text: str) -> None:
    """For any text, the only possible error is ValueError, and a result is aware and in UTC."""
    try:
        assert parse(text).tzinfo is UTC
    except ValueError:
        return


@given(json_values)
def test_any_value_is_a_time_or_a_value_error(value: object) -> None:
    """For any JSON value, the only possible error is ValueError."""
    try:
        assert parse_instant(value).tzinfo is UTC
    except ValueError:
        return


@pytest.mark.parametrize("text", ["0001-01-01 00:00:00", "9999-12-31 23:59:59", "2026-03-02T12:00:00", "", "None"])
def test_kst_of_another_form_is_a_value_error(text: str) -> None:
    """A text of another form, or a year in which sums overflow, is a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        parse_kst(text)


STATES = [
    (timedelta(hours=23), TEN_MINUTES, State.FRESH),
    (TEN_MINUTES + MICROSECOND, TEN_MINUTES, State.FRESH),
    (TEN_MINUTES, TEN_MINUTES, State.STALE),
    (LEAST_USEFUL, TEN_MINUTES, State.STALE),
    (LEAST_USEFUL - MICROSECOND, TEN_MINUTES, State.EXPIRED),
    (timedelta(), TEN_MINUTES, State.EXPIRED),
    (-timedelta(hours=9), TEN_MINUTES, State.EXPIRED),
    (LEAST_USEFUL + MICROSECOND, timedelta(), State.FRESH),
    (LEAST_USEFUL, timedelta(), State.STALE),
    (LEAST_USEFUL - MICROSECOND, timedelta(), State.EXPIRED),
]


@pytest.mark.parametrize(("left", "needed", "state"), STATES, ids=str)
def test_state_changes_exactly_at_its_borders(left: timedelta, needed: timedelta, state: State) -> None:
    """A fresh token has more time than the caller needs, a stale one 30 s or more, an expired one less than 30 s."""
    assert lasting(left).state(NOON, needed) is state


@given(st.timedeltas(timedelta(days=-2), timedelta(days=2)), st.timedeltas(timedelta(), timedelta(hours=12)))
def test_token_is_in_one_state_and_only_grows_older(left: timedelta, needed: timedelta) -> None:
    """As time passes, a fresh token becomes stale and then expired, and never the reverse."""
    order = [State.FRESH, State.STALE, State.EXPIRED]
    states = [order.index(lasting(left).state(NOON + passed, needed)) for passed in (timedelta(), SECOND, TEN_MINUTES)]
    assert states == sorted(states)


EXPIRIES = [
    pytest.param(NOON, NOON + SECOND, NOON + 2 * SECOND, id="column"),
    pytest.param(NOON + SECOND, NOON, NOON + 2 * SECOND, id="JSON"),
    pytest.param(NOON + SECOND, NOON + 2 * SECOND, NOON, id="JWT"),
    pytest.param(None, NOON, NOON + SECOND, id="JSON without column"),
    pytest.param(NOON, None, NOON + SECOND, id="column without JSON"),
    pytest.param(None, None, NOON, id="JWT alone"),
    pytest.param(NOON, None, None, id="column alone"),
    pytest.param(None, NOON, None, id="JSON alone"),
]


@pytest.mark.parametrize(("column", "member", "claim"), EXPIRIES)
def test_earliest_expiry_wins(column: datetime | None, member: datetime | None, claim: datetime | None) -> None:
    """The earliest end in the column, the JSON and the JWT counts, and one readable end is enough."""
    value = OPAQUE if claim is None else jwt({"exp": int(claim.timestamp())})
    data = {"access_token": value, "expires_at": member.isoformat() if member else "soon"}
    token = parse_stored(json.dumps(data), column=column.isoformat() if column else None)
    assert token.expires_at == NOON


def test_naive_column_counts_as_korea_time() -> None:
    """A column without an offset, from the guide's code, is read as Korea time, so the token ends nine hours early."""
    data = json.dumps({"access_token": OPAQUE, "expires_at": "2026-03-02T12:00:00+00:00"})
    assert parse_stored(data, column="2026-03-02T12:00:00").expires_at == NOON - timedelta(hours=9)


def test_stored_form_survives_a_round_trip() -> None:
    """The text of to_json is read as the same token, with the row's version."""
    token = make_token()
    again = parse_stored(token.to_json(), column=token.expires_at.isoformat(), version=7)
    assert again.token_id == token.token_id
    assert (again.expires_at, again.issued_at) == (token.expires_at, token.issued_at)
    assert (again.app_key_id, again.environment, again.version) == (token.app_key_id, token.environment, 7)


@given(instants, instants, st.none() | st.just("0" * 16), st.none() | st.just("paper"))
def test_stored_form_of_an_opaque_token_survives_too(
    expires_at: datetime, issued_at: datetime, app_key_id: str | None, environment: str | None
) -> None:
    """The stored form of a token without claims is read as the same token."""
    token = build_token(
        OPAQUE, expiries=[expires_at], issued_at=issued_at, app_key_id=app_key_id, environment=environment
    )
    assert parse_stored(token.to_json()) == token


def test_stored_form_is_that_of_the_guide_s_clients() -> None:
    """The flat JSON begins with the token, its expiry and its issue time. Members with unknown values are left out."""
    members = json.loads(lasting(SECOND).to_json())
    assert list(members) == ["access_token", "expires_at", "issued_at"]
    assert parse_instant(members["expires_at"]) == NOON + SECOND


def test_blanks_around_a_stored_token_are_cut_off() -> None:
    """A token that was pasted with a line break at its end works."""
    token = parse_stored(json.dumps({"access_token": f" {OPAQUE}\n", "expires_at": NOON.isoformat()}))
    assert token.token_id == fingerprint(OPAQUE)


UNUSABLE = {
    "empty": "",
    "half": '{"access_token": "opaque.tok',
    "no object": '["opaque.token-of-a-test_0123456789"]',
    "no token": '{"expires_at": "2026-03-02T12:00:00Z"}',
    "null": '{"access_token": null}',
    "a number": '{"access_token": 1}',
    "too short": '{"access_token": "1", "expires_at": "2026-03-02T12:00:00Z"}',
    "a blank in it": '{"access_token": "opaque token of a test 0123456789", "expires_at": "2026-03-02T12:00:00Z"}',
    "no end": '{"access_token": "opaque.token-of-a-test_0123456789"}',
    "never ends": '{"access_token": "opaque.token-of-a-test_0123456789", "expires_at": "9999-12-31T23:59:59Z"}',
    "deep": "[" * 100_000,
    "long number": '{"access_token": ' + "1" * 10_000 + "}",
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_stored_value_is_a_token_error(case: str) -> None:
    """Broken JSON, a missing token and a missing end give the same error, whose text has no part of the value."""
    with pytest.raises(TokenError) as caught:
        parse_stored(UNUSABLE[case])
    assert caught.value.code == "token-unusable"
    assert "opaque" not in f"{caught.value}"


@given(st.text() | json_values.map(json.dumps), json_values)
def test_any_stored_text_is_a_token_or_a_token_error(text: str, column: object) -> None:
    """For any content of a row, the only possible error is TokenError."""
    try:
        parse_stored(text, column=column)
    except TokenError:
        return


@given(json_values, json_values, json_values, json_values)
def test_any_claims_and_members_are_a_token_or_a_token_error(
    exp: object, iat: object, jti: object, member: object
) -> None:
    """For any claims of a JWT and any JSON around it, the only possible error is TokenError."""
    data = {"access_token": jwt({"exp": exp, "iat": iat, "jti": jti}), "expires_at": member, "issued_at": member}
    try:
        token = parse_stored(json.dumps(data | {"app_key_id": member, "environment": member}))
    except TokenError:
        return
    assert token.issued_at < token.expires_at
    assert parse_stored(token.to_json()).token_id == token.token_id


def test_app_key_of_half_a_surrogate_pair_is_no_crash() -> None:
    """A claim that has no UTF-8 form still has a fingerprint."""
    assert build_token(jwt({"jti": "\ud800" * 8, "exp": 1772452800}), expiries=[]).app_key_id is not None


@given(st.text())
def test_claims_of_any_text_are_a_mapping(text: str) -> None:
    """A text that is not a JWT has no claims, and causes no error."""
    assert isinstance(parse_claims(text), dict)
    assert isinstance(parse_claims(f"a.{text}.b"), dict)


@pytest.mark.parametrize("value", ["1772452800", True, None, -1, float("inf"), 10**40, [1]], ids=repr)
def test_claim_that_is_no_epoch_is_no_time(value: object) -> None:
    """A claim is a time only if it is a number of seconds within the calendar."""
    assert claimed_time({"exp": value}, "exp") is None


def test_own_claims_win() -> None:
    """The JWT's iat and jti take precedence over the members of the stored JSON."""
    issued = NOON - timedelta(hours=2)
    value = jwt({"exp": int(NOON.timestamp()), "iat": int(issued.timestamp()), "jti": ACCOUNT.app_key})
    token = build_token(value, expiries=[], issued_at=NOON - timedelta(hours=5), app_key_id="0" * 16)
    assert token.issued_at == issued
    assert token.app_key_id == fingerprint(ACCOUNT.app_key)


@pytest.mark.parametrize("begun", [None, NOON, NOON + SECOND], ids=["unknown", "at its end", "after its end"])
def test_issue_is_guessed_from_the_end_and_never_from_the_present(begun: datetime | None) -> None:
    """If a token has no valid issue time, its issue time is its end minus the usual validity."""
    assert build_token(OPAQUE, expiries=[NOON], issued_at=begun).issued_at == NOON - USUAL_LIFETIME


SHAPES = {OPAQUE: True, "a" * 20: True, "a" * 19: False, "a" * 4096: True, "a" * 4097: False, "": False, "1": False}
SHAPES |= {f"{OPAQUE}\n": False, f"{OPAQUE} x": False, f"{OPAQUE}é": False, f"{OPAQUE}|": False, "a+/=~._-" * 3: True}


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_shape_of_a_token(number: int) -> None:
    """A token is one word of 20 to 4096 characters of the usual letters."""
    text, shaped = list(SHAPES.items())[number]
    assert looks_like_token(text) is shaped


def test_no_repr_shows_a_secret() -> None:
    """No repr shows a token, a key or a secret."""
    token, app_key = make_token(), AppKey(ACCOUNT.app_key, ACCOUNT.app_secret)
    shown = f"{token!r} {app_key!r} {token} {app_key}"
    assert not any(secret in shown for secret in (token.value, app_key.key, app_key.secret)), "a secret is shown"


def test_fingerprint_is_half_of_half_a_hash() -> None:
    """A fingerprint has 16 hex digits and depends on the text alone.

    The fingerprint of key and secret together differs from that of the key.
    """
    app_key = AppKey(ACCOUNT.app_key, ACCOUNT.app_secret)
    assert fingerprint("kis") == "a1328c633b67e3f8"
    assert app_key.key_id == fingerprint(ACCOUNT.app_key)
    assert app_key.credential_id != AppKey(ACCOUNT.app_key, "another").credential_id != app_key.key_id
