"""The chain in its modes: rotate, force and check, and allow-expired."""

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
from tests.resolver_harness import dead_token, stale_token
from tests.support import HOUR, MINUTE, Caller, make_token

if TYPE_CHECKING:
    from tests.resolver_harness import Chain


def test_rotate_leaves_a_young_token(chain: Chain) -> None:
    """A rotation that is not due uses the stored token and says when it will be."""
    chain.database.put_token(make_token(left=24 * HOUR, age=timedelta()))

    got = chain.resolve(mode="rotate", refresh_after="23h")
    assert (got.source, chain.issue_calls) == ("supabase", 0)
    assert "not due before" in got.trace[-1].text


def test_rotate_renews_an_old_token(chain: Chain) -> None:
    """A token older than refresh-after is renewed although it is fresh, and a cached copy is not put back."""
    token = make_token(left=12 * HOUR, age=12 * HOUR)
    chain.database.put_token(token)
    chain.cache_token(token)

    got = chain.resolve(mode="rotate", refresh_after="8h")

    assert (got.source, got.refreshed, chain.issue_calls) == ("oauth", True, 1)
    assert chain.database.stored_id() == got.token.token_id == chain.cached_id()


@pytest.mark.parametrize("mode", ["rotate", "force"])
def test_a_failed_rotation_keeps_the_token(chain: Chain, mode: str) -> None:
    """When KIS gives no new token a rotation is an error that says why, and the token that lives stays for others."""
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
    """Key and secret that KIS refused a moment ago are not tried again, and that is no success."""
    chain.database.put_token(make_token(left=12 * HOUR, age=12 * HOUR))
    chain.refuse_issue("EGW00103")
    for _ in range(2):
        with pytest.raises(IssuerRefused, match="EGW00103"):
            chain.resolve(mode=mode, refresh_after="8h")
    assert chain.issue_calls == 1


def test_a_rotation_waits_out_what_an_attempt_before_it_left(chain: Chain) -> None:
    """A rotation is in no hurry: when an attempt has just failed, it asks when KIS may be asked again."""
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
    """With Supabase down a rotation neither issues nor passes an old token off as a renewal."""
    chain.cache_token(make_token(left=12 * HOUR, age=12 * HOUR))
    chain.supabase.stop()
    with pytest.raises(StoreOutage):
        chain.resolve(mode=mode)
    assert chain.issue_calls == 0


def test_force_too_early_says_that_it_did_nothing(chain: Chain) -> None:
    """Within the minute of an issue nobody may ask again: force hands out what is there, with a warning."""
    first = chain.resolve()
    again = chain.resolve(mode="force")
    assert (again.token.token_id, again.refreshed) == (first.token.token_id, False)
    assert "not renewed" in again.warnings[0]
    assert chain.issue_calls == 1


def test_force_gets_a_new_token(chain: Chain) -> None:
    """Force renews whatever is stored."""
    token = make_token(left=16 * HOUR, age=8 * HOUR)
    chain.database.put_token(token)

    got = chain.resolve(mode="force")
    assert (got.source, got.refreshed) == ("oauth", True)
    assert chain.database.stored_id() == got.token.token_id != token.token_id


def test_force_within_six_hours_is_not_refreshed(chain: Chain) -> None:
    """KIS repeats a token younger than 6 h: it is handed out, refreshed is false and the row stays as it was."""
    first = chain.resolve()
    chain.pass_time(3600)
    before = chain.database.row()

    got = chain.resolve(mode="force")

    assert (got.token.token_id, got.refreshed) == (first.token.token_id, False)
    assert (chain.database.row(), chain.issue_calls) == (before, 2)


def test_check_never_issues(chain: Chain) -> None:
    """Check hands out what lives, stale or fresh, and otherwise fails without asking KIS."""
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
        (dead_token().to_json(), "supabase: its token has expired"),
        (None, "supabase: no token is stored"),
    ],
    ids=["empty", "text", "expired", "none"],
)
def test_check_says_why_there_is_no_token(chain: Chain, value: str | None, said: str) -> None:
    """The error has what each link said: a row that cannot be read is not the same as none."""
    if value is not None:
        chain.database.put("access_token", value)
    with pytest.raises(IssuanceError) as caught:
        chain.resolve(mode="check")
    reasons = f"{said}; cache: there is no cache file"
    assert f"{caught.value}" == f"Neither Supabase nor the cache has a valid token ({reasons}) [no-valid-token]"
    assert chain.issue_calls == 0


@pytest.mark.parametrize("mode", ["rotate", "force"])
@pytest.mark.parametrize("left", [HOUR, -MINUTE], ids=["living", "expired"])
def test_a_failed_renewal_is_an_error_whatever_is_allowed(chain: Chain, mode: str, left: timedelta) -> None:
    """allow-expired is for who wants a token: a renewal that fails is not hidden behind the old one."""
    chain.database.put_token(make_token(left=left, age=24 * HOUR))
    chain.kis.production.stop()
    with pytest.raises(IssuerOutage):
        chain.resolve(mode=mode, allow_expired="true")


def test_a_living_token_is_not_called_expired(chain: Chain) -> None:
    """A stale one that lives is handed out as what it is, with allow-expired too."""
    chain.database.put_token(stale_token())
    chain.kis.production.stop()
    got = chain.resolve(allow_expired="true")
    assert (got.expired, len(got.warnings)) == (False, 1)


@pytest.mark.parametrize(
    ("ended", "allow", "used"), [(MINUTE, "true", True), (2 * HOUR, "true", False), (MINUTE, "false", False)]
)
def test_allow_expired(chain: Chain, ended: timedelta, allow: str, used: bool) -> None:  # noqa: FBT001 - a table
    """Only where allowed, and only within an hour of its end, an expired token is handed out when none is to be had."""
    token = make_token(left=-ended, age=25 * HOUR)
    chain.database.put_token(token)
    chain.kis.production.stop()
    if used:
        got = chain.resolve(allow_expired=allow)
        assert (got.token.token_id, got.expired, bool(got.warnings)) == (token.token_id, True, True)
    else:
        with pytest.raises(IssuerOutage):
            chain.resolve(allow_expired=allow)
