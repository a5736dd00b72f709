"""The chain in outages and in its other modes, sealed, with wrong clocks and with one key in two slots."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import (
    IssuanceError,
    IssuerError,
    IssuerOutage,
    IssuerRateLimited,
    IssuerRefused,
    StoreMisconfigured,
    StoreOutage,
    TokenError,
)
from kis_token.sandbox.kis_http import html_response
from kis_token.sandbox.loopback import Fault
from tests.resolver_harness import ENCRYPTION_KEY, dead_token, stale_token
from tests.support import APP_KEY, HOUR, MINUTE, Contender, TurnedClock, make_token, utc_now

if TYPE_CHECKING:
    from tests.resolver_harness import Chain


# Supabase does not work


def test_down_with_a_cached_token(chain: Chain) -> None:
    """In an outage any cached token that lives is used, with a warning, and KIS is left alone."""
    token = stale_token()
    chain.cache_token(token)
    chain.supabase.stop()

    got = chain.resolve()

    assert (got.token.token_id, got.source, chain.issue_calls) == (token.token_id, "cache", 0)
    assert "the cached token is used" in got.warnings[0]


def test_down_with_nothing_issues_once(chain: Chain) -> None:
    """In an outage without a cached token, callers of one machine share one call under the cache's lock."""
    chain.supabase.stop()
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda _: chain.resolve(), range(6)))

    assert chain.issue_calls == 1
    assert len({each.token.token_id for each in got}) == 1
    assert sorted(each.source for each in got) == ["cache"] * 5 + ["oauth"]
    assert all(each.warnings for each in got)


def test_down_and_kis_says_not_now(chain: Chain) -> None:
    """In an outage EGW00133 ends the try: no second call, since forty jobs would make eighty."""
    chain.supabase.stop()
    chain.refuse_issue("EGW00133")
    with pytest.raises(Exception, match="EGW00133"):
        chain.resolve()
    assert chain.issue_calls == 1


@pytest.mark.parametrize("code", ["EGW00133", "EGW00105", "EGW00999"])
def test_down_and_asked_in_vain_is_told_to_the_machine(chain: Chain, code: str) -> None:
    """A call that brought nothing is the machine's only one for a minute; then the next process may try."""
    chain.supabase.stop()
    chain.refuse_issue(code)
    with pytest.raises(IssuerError):
        chain.resolve()

    for _ in range(3):
        with pytest.raises(IssuerRateLimited, match="no caller on this machine asks KIS"):
            chain.resolve()
    assert chain.issue_calls == 1
    chain.machine.hold_back(APP_KEY.key_id, utc_now())
    chain.kis.advance(61)
    assert (chain.resolve().source, chain.issue_calls) == ("oauth", 2)


def test_down_and_kis_as_well_is_tried_by_each(chain: Chain) -> None:
    """A call that was never sent uses no minute up: as soon as KIS is there again the next process gets a token."""
    chain.supabase.stop()
    chain.kis.production.stop()
    with pytest.raises(IssuerOutage):
        chain.resolve()
    chain.kis.production.start()
    assert chain.resolve().source == "oauth"


def test_down_with_the_keys_inside_is_called_an_outage(chain: Chain) -> None:
    """Where only Supabase has the keys its outage is the error, not keys that seem to be missing."""
    chain.supabase.stop()
    with pytest.raises(StoreOutage):
        chain.resolve(app_key="", app_secret="")
    assert chain.issue_calls == 0


def test_down_and_told_to_fail(chain: Chain) -> None:
    """With on-store-outage: fail nothing is issued; a cached token is still used."""
    chain.supabase.stop()
    with pytest.raises(StoreOutage):
        chain.resolve(on_store_outage="fail")
    chain.cache_token(make_token())
    assert chain.resolve(on_store_outage="fail").source == "cache"
    assert chain.issue_calls == 0


def test_down_without_a_cache(chain: Chain) -> None:
    """With the cache turned off an outage still ends in one call."""
    chain.supabase.stop()

    assert chain.resolve(cache_path="off").source == "oauth"


def test_down_at_begin_uses_what_was_read(chain: Chain) -> None:
    """When Supabase fails between read and begin, a stale token that was read is used."""
    token = stale_token()
    chain.database.put_token(token)
    chain.supabase.server.add_fault(Fault("answer", "/rest/v1/rpc/begin", 99, html_response(503)))

    got = chain.resolve()
    assert (got.token.token_id, bool(got.warnings), chain.issue_calls) == (token.token_id, True, 0)


def test_misconfigured_does_not_fall_back(chain: Chain) -> None:
    """A key of another project is a mistake that a cached token must not hide."""
    chain.cache_token(make_token())
    with pytest.raises(StoreMisconfigured):
        chain.resolve(supabase_key="sb_secret_of_another_project")
    assert chain.issue_calls == 0


def test_a_page_is_not_an_empty_table(chain: Chain) -> None:
    """A proxy's page with status 200 is an outage, not a slot without a token."""
    chain.supabase.server.add_fault(Fault("answer", times=9, response=html_response(200)))
    chain.cache_token(make_token())

    assert chain.resolve().source == "cache"


# the modes


def test_rotate_leaves_a_young_token(chain: Chain) -> None:
    """A rotation that is not due uses the stored token and says when it will be."""
    chain.database.put_token(make_token(left=24 * HOUR, age=timedelta()))

    got = chain.resolve(mode="rotate", refresh_after="23h")
    assert (got.source, chain.issue_calls) == ("supabase", 0)
    assert "not due before" in got.links[-1].said


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
    holder = Contender(chain.database)
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


# sealed values


def test_sealed_all_the_way(chain: Chain) -> None:
    """With an encryption key nothing readable is stored or cached, and the next caller reads it."""
    first = chain.resolve(encryption_key=ENCRYPTION_KEY)
    second = chain.resolve(encryption_key=ENCRYPTION_KEY)

    assert first.token.token_id == second.token.token_id
    assert (first.source, second.source, chain.issue_calls) == ("oauth", "supabase", 1)
    assert chain.database.row()["credential_value"].startswith("enc:v1:")
    assert (chain.folder / "cache.json").read_text(encoding="utf-8").startswith("enc:v1:")


@pytest.mark.parametrize(
    ("writer", "reader", "code"),
    [("", ENCRYPTION_KEY, "plain-with-key"), (ENCRYPTION_KEY, "", "sealed-without-key")],
    ids=["plain", "sealed"],
)
def test_no_silent_downgrade(chain: Chain, writer: str, reader: str, code: str) -> None:
    """A plain value where a key is given, and a sealed one where none is, are errors and replaced by nobody."""
    chain.resolve(encryption_key=writer)
    with pytest.raises(TokenError) as caught:
        chain.resolve(encryption_key=reader)
    assert (caught.value.code, chain.issue_calls) == (code, 1)


def test_force_repeats_a_sealed_token(chain: Chain) -> None:
    """Sealed or not, a token that KIS repeats is recognised: refreshed is false and the row stays."""
    chain.resolve(encryption_key=ENCRYPTION_KEY)
    chain.pass_time(3600)
    before = chain.database.row()

    assert not chain.resolve(encryption_key=ENCRYPTION_KEY, mode="force").refreshed
    assert chain.database.row() == before


# time


def test_without_a_date_begin_judges(chain: Chain) -> None:
    """When the answer has no Date, this machine's clock is not believed: the store is asked by begin, and KIS not."""
    chain.supabase.server.send_date = False
    token = make_token()
    chain.database.put_token(token)

    got = chain.resolve(TurnedClock(wrong_by=-9 * HOUR))

    assert (got.token.token_id, got.source) == (token.token_id, "supabase")
    assert (chain.store_calls, chain.issue_calls) == (["read", "begin_issuance"], 0)


def test_without_a_date_rotate_is_judged_by_the_database(chain: Chain) -> None:
    """A rotation without a Date learns the time from the database: a young token stays, an old one is renewed."""
    chain.supabase.server.send_date = False
    chain.database.put_token(make_token(left=24 * HOUR, age=timedelta()))
    young = chain.resolve(TurnedClock(wrong_by=30 * HOUR), mode="rotate", cache_path="off")
    assert (young.refreshed, chain.issue_calls) == (False, 0)
    assert "not due before" in young.links[-1].said

    chain.database.put_token(make_token(left=12 * HOUR, age=12 * HOUR))
    old = chain.resolve(TurnedClock(wrong_by=-9 * HOUR), mode="rotate", refresh_after="8h", cache_path="off")
    assert (old.refreshed, chain.issue_calls) == (True, 1)


@pytest.mark.parametrize("wrong_by", [-9 * HOUR, 9 * HOUR, 300 * HOUR])
def test_a_wrong_clock_changes_nothing(chain: Chain, wrong_by: timedelta) -> None:
    """A machine hours off gets and keeps the same tokens as all others, and is told of its clock."""
    token = make_token()
    chain.database.put_token(token)
    got = chain.resolve(TurnedClock(wrong_by=wrong_by))
    assert (got.token.token_id, got.source) == (token.token_id, "supabase")
    assert "clock" in got.warnings[0]

    chain.database.put_token(dead_token())
    issued = chain.resolve(TurnedClock(wrong_by=wrong_by), cache_path="off")
    assert (issued.source, chain.issue_calls) == ("oauth", 1)


def test_a_slightly_wrong_clock_is_not_mentioned(chain: Chain) -> None:
    """A minute is no reason for a warning."""
    chain.database.put_token(make_token())

    assert chain.resolve(TurnedClock(wrong_by=MINUTE)).warnings == ()


# two slots


def test_one_key_in_two_slots(chain: Chain) -> None:
    """A second slot with the same app key is told which slot has it, and KIS is not asked."""
    chain.resolve()
    with pytest.raises(IssuanceError, match="The slot kis has") as caught:
        chain.resolve(service_name="kis-second", cache_path="off")
    assert (caught.value.code, chain.issue_calls) == ("key-in-two-slots", 1)


@pytest.mark.parametrize("code", ["EGW00103", "EGW00105", "EGW00002"])
def test_a_refusal_is_not_retried(chain: Chain, code: str) -> None:
    """KIS's final no is noted; the next caller with that very credential fails with it without calling KIS."""
    chain.refuse_issue(code)
    with pytest.raises(IssuerRefused, match=code):
        chain.resolve()
    with pytest.raises(IssuerRefused, match=code) as caught:
        chain.resolve()
    assert (caught.value.kis_code, caught.value.retryable, chain.issue_calls) == (code, False, 1)


def test_a_refusal_is_not_waited_out(chain: Chain) -> None:
    """However much time a caller has, it does not wait until a refused credential may be tried again."""
    chain.refuse_issue("EGW00105")
    with pytest.raises(IssuerRefused):
        chain.resolve()
    clock = chain.clock()
    with pytest.raises(IssuerRefused):
        chain.resolve(clock, timeout="2h")
    assert (clock.slept, chain.issue_calls) == ([], 1)


def test_a_corrected_secret_is_not_held_up(chain: Chain) -> None:
    """After a wrong secret the right one issues at once, except for KIS's own minute, which a refusal does not use."""
    with pytest.raises(IssuerRefused):
        chain.resolve(app_secret="d3Jvbmc=")

    assert chain.resolve().source == "oauth"
    assert chain.issue_calls == 2
