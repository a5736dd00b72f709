"""The chain in the modes rotate, force and check, and with allow-expired."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import (
    IssuanceError,
    IssuerOutage,
    IssuerRefused,
    StoreOutage,
)
from tests.resolver_harness import expired_token, stale_token
from tests.support import HOUR, MINUTE, Caller, make_token

if TYPE_CHECKING:
    from tests.resolver_harness import Chain


def test_rotate_leaves_a_young_token(chain: Chain) -> None:
    """If the stored token is not due, a rotation hands it out, and the trace has the time from which it is due."""
    chain.database.put_token(make_token(left=24 * HOUR, age=timedelta()))

    got = chain.resolve(mode="rotate", refresh_after="23h")
    assert (got.source, chain.issue_calls) == ("supabase", 0)
    assert "not due before" in got.trace[-1].text


def test_rotate_renews_an_old_token(chain: Chain) -> None:
    """A token older than refresh-after is renewed, although it is fresh and the cache has a copy of it."""
    token = make_token(left=12 * HOUR, age=12 * HOUR)
    chain.database.put_token(token)
    chain.cache_token(token)

    got = chain.resolve(mode="rotate", refresh_after="8h")

    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)
    assert chain.database.stored_id() == got.token.token_id == chain.cached_id()


@pytest.mark.parametrize("mode", ["rotate", "force"])
def test_a_failed_rotation_keeps_the_token(chain: Chain, mode: str) -> None:
    """If KIS gives no new token, the rotation fails with the reason, and the valid token is kept for others."""
    token = make_token(left=12 * HOUR, age=12 * HOUR)
    chain.database.put_token(token)
    before = chain.database.row()
    chain.refuse_issue("EGW00103")

    with pytest.raises(IssuerRefused):
        chain.resolve(mode=mode, refresh_after="8h")

    assert chain.database.row() == before
    assert chain.resolve().token.token_id == token.token_id


@pytest.mark.parametrize("mode", ["rotate", "force"])
def test_a_rotation_after_another_s_refusal_fails_as_well(chain: Chain, mode: str) -> None:
    """If KIS has just refused a key and secret, the next rotation does not try them again, and fails."""
    chain.database.put_token(make_token(left=12 * HOUR, age=12 * HOUR))
    chain.refuse_issue("EGW00103")
    for _ in range(2):
        with pytest.raises(IssuerRefused, match="EGW00103"):
            chain.resolve(mode=mode, refresh_after="8h")
    assert chain.issue_calls == 1


def test_a_rotation_waits_after_a_failed_attempt(chain: Chain) -> None:
    """If another caller's attempt has just failed, a rotation waits until KIS may be called again."""
    chain.database.put_token(make_token(left=12 * HOUR, age=12 * HOUR))
    holder = Caller(chain.database)
    holder.begin(rejected_version=chain.database.row()["version"])
    clock = chain.clock()
    begun = clock.monotonic()
    holder.abort("kis-answer-unusable")

    got = chain.resolve(clock, mode="rotate", refresh_after="8h")

    assert (got.refreshed, chain.issue_calls) == (True, 1)
    assert 60 < clock.monotonic() - begun < 75


@pytest.mark.parametrize("mode", ["rotate", "force"])
def test_a_rotation_without_the_store_is_an_error(chain: Chain, mode: str) -> None:
    """If Supabase does not answer, a rotation fails: it issues no token, and does not return the cached one."""
    chain.cache_token(make_token(left=12 * HOUR, age=12 * HOUR))
    chain.supabase.stop()
    with pytest.raises(StoreOutage):
        chain.resolve(mode=mode)
    assert chain.issue_calls == 0


def test_force_too_early_says_that_it_did_nothing(chain: Chain) -> None:
    """Less than a minute after an issue, `force` cannot issue: it hands out the stored token, with a warning."""
    first = chain.resolve()
    again = chain.resolve(mode="force")
    assert (again.token.token_id, again.refreshed) == (first.token.token_id, False)
    assert "not renewed" in again.warnings[0]
    assert chain.issue_calls == 1


def test_force_gets_a_new_token(chain: Chain) -> None:
    """`force` renews any stored token."""
    token = make_token(left=16 * HOUR, age=8 * HOUR)
    chain.database.put_token(token)

    got = chain.resolve(mode="force")
    assert (got.source, got.refreshed) == ("oauth", True)
    assert chain.database.stored_id() == got.token.token_id != token.token_id


def test_force_within_six_hours_is_not_refreshed(chain: Chain) -> None:
    """If KIS repeats a token younger than 6 h, `force` hands it out with refreshed false, and the row stays."""
    first = chain.resolve()
    chain.pass_time(3600)
    before = chain.database.row()

    got = chain.resolve(mode="force")

    assert (got.token.token_id, got.refreshed) == (first.token.token_id, False)
    assert (chain.database.row(), chain.issue_calls) == (before, 2)


def test_check_never_issues(chain: Chain) -> None:
    """`check` hands out a valid token, stale or fresh. If no token is valid, `check` fails and does not call KIS."""
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(mode="check")
    assert caught.value.code == "no-valid-token"
    token = stale_token()
    chain.database.put_token(token)
    assert chain.resolve(mode="check").token.token_id == token.token_id
    assert (chain.issue_calls, set(chain.store_calls)) == (0, {"read"})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{}", "supabase: The stored value is not JSON with a member access_token"),
        ("not JSON", "supabase: The stored value is not JSON with a member access_token"),
        (expired_token().to_json(), "supabase: its token has expired"),
        (None, "supabase: no token is stored"),
    ],
    ids=["empty", "text", "expired", "none"],
)
def test_check_says_why_there_is_no_token(chain: Chain, value: str | None, said: str) -> None:
    """The error has the reason of each source, so that an unreadable row and a missing one differ."""
    if value is not None:
        chain.database.put("access_token", value)
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(mode="check")
    reasons = f"{said}; cache: there is no cache file"
    assert caught.value.brief == f"Neither Supabase nor the cache has a valid token ({reasons}) [no-valid-token]"
    assert chain.issue_calls == 0


@pytest.mark.parametrize("mode", ["rotate", "force"])
@pytest.mark.parametrize("left", [HOUR, -MINUTE], ids=["valid", "expired"])
def test_a_failed_renewal_is_an_error_with_allow_expired(chain: Chain, mode: str, left: timedelta) -> None:
    """If a renewal fails, `rotate` and `force` raise the error, also with allow-expired."""
    chain.database.put_token(make_token(left=left, age=24 * HOUR))
    chain.kis.production.stop()
    with pytest.raises(IssuerOutage):
        chain.resolve(mode=mode, allow_expired="true")


def test_a_valid_token_is_not_called_expired(chain: Chain) -> None:
    """With allow-expired, a stale token that is still valid is not marked as expired."""
    chain.database.put_token(stale_token())
    chain.kis.production.stop()
    got = chain.resolve(allow_expired="true")
    assert (got.expired, len(got.warnings)) == (False, 1)


@pytest.mark.parametrize(
    ("ended", "allow", "used"), [(MINUTE, "true", True), (2 * HOUR, "true", False), (MINUTE, "false", False)]
)
def test_allow_expired(chain: Chain, ended: timedelta, allow: str, used: bool) -> None:  # noqa: FBT001 - a table
    """If the renewal fails, an expired token is handed out only with allow-expired and within an hour of its end."""
    token = make_token(left=-ended, age=25 * HOUR)
    chain.database.put_token(token)
    chain.kis.production.stop()
    if used:
        got = chain.resolve(allow_expired=allow)
        assert (got.token.token_id, got.expired, bool(got.warnings)) == (token.token_id, True, True)
    else:
        with pytest.raises(IssuerOutage):
            chain.resolve(allow_expired=allow)
