"""The view of a slot's rows: keys, rejected tokens, tokens of other accounts, sealed values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kis_token.core.lookup import enough, judge_row, look
from kis_token.core.slot import PlainVault, Row, Slot
from kis_token.errors import TokenError
from kis_token.store.sealing import SealingVault
from kis_token.token import AppKey, build_token
from tests.core.lookup_harness import (
    HOUR,
    NO_RETRY,
    NOON,
    OUTAGE,
    HeldCache,
    StillClock,
    answering,
    said,
    seen,
    slot_of,
    token_with,
)
from tests.support import APP_KEY, make_settings

OPAQUE = "opaque.token-of-a-test_0123456789"
OTHER = AppKey("PSzyxwvutsrqponmlkjihgfedcba76543210", "another-secret-of-the-form-that-kis-gives")


def test_stored_keys_win_over_given_ones() -> None:
    """Stored keys have precedence over given ones. If half of the stored pair is missing, the given pair is used."""
    settings = make_settings(KIS_APP_KEY=OTHER.key, KIS_APP_SECRET=OTHER.secret)
    half = slot_of(None)
    del half.rows["app_secret"]
    assert seen(slot_of(None), settings=settings).app_key == APP_KEY
    assert seen(half, settings=settings).app_key == OTHER
    assert seen(slot_of(None, keys=None), settings=settings).app_key == OTHER
    assert seen(slot_of(None, keys=None)).app_key is None


def test_blanks_around_stored_keys_are_cut_off() -> None:
    """Blanks and line breaks around stored keys are removed."""
    assert seen(slot_of(None, keys=AppKey(f" {APP_KEY.key}\n", f"{APP_KEY.secret}\n"))).app_key == APP_KEY


@pytest.mark.parametrize("value", ["", "{", '{"access_token": "1"}', "token"])
def test_unusable_row_has_its_version(value: str) -> None:
    """A broken row is not an error: the view has its version, so that a new token can replace the row."""
    slot = slot_of(None)
    slot.rows["access_token"] = Row(value, None, 9)
    view = seen(slot)
    assert (view.stored, view.unusable_version) == (None, 9)
    assert enough(view, make_settings()) is None
    assert judge_row(view, slot, make_settings(), PlainVault())[:2] == (None, 9)


def test_a_rejected_token_is_never_used() -> None:
    """A rejected token is used neither from the store nor from the cache, and its row will be replaced."""
    token = token_with(5 * HOUR)
    view = look(
        make_settings(),
        answering(slot_of(token)),
        HeldCache(token),
        PlainVault(),
        StillClock(),
        retry=NO_RETRY,
        rejected_id=token.token_id,
    )

    assert (view.stored, view.cached, view.unusable_version) == (None, None, 7)
    assert [text for _, text in said(view)] == ["KIS rejects its token"] * 2


def test_valid_token_of_another_app_key_is_an_error() -> None:
    """A valid token of another account is an error: the two accounts would replace each other's token for ever."""
    with pytest.raises(TokenError) as caught:
        seen(slot_of(token_with(3 * HOUR, OTHER)))
    assert caught.value.code == "token-of-another-key"


def test_expired_token_of_another_app_key_is_replaced() -> None:
    """An expired token of another app key is not an error: a new token replaces it."""
    view = seen(slot_of(token_with(-HOUR, OTHER)))
    assert view.stored is not None
    assert enough(view, make_settings()) is None


def test_valid_token_of_another_environment_is_an_error() -> None:
    """A paper token is an error for the production account."""
    token = build_token(OPAQUE, expiries=[NOON + HOUR], environment="paper")
    with pytest.raises(TokenError) as caught:
        seen(slot_of(token))
    assert caught.value.code == "token-of-another-environment"


def test_cached_token_of_another_account_is_a_miss() -> None:
    """In an outage, another account's cached token counts as absent, and the trace gives the reason."""
    settings = make_settings(KIS_APP_KEY=APP_KEY.key, KIS_APP_SECRET=APP_KEY.secret)
    view = seen(OUTAGE, token_with(3 * HOUR, OTHER), settings)
    assert view.cached is None
    assert "another app key" in said(view)[1][1]


def test_sealed_values_need_their_key() -> None:
    """If the caller has no encryption key, a sealed token or app key is an error: a new token would not help."""
    vault = SealingVault((bytes(range(32)),))
    for name in ("access_token", "app_key"):
        slot = slot_of(token_with(HOUR))
        slot.rows[name] = replace(slot.rows[name], value=vault.seal(slot.rows[name].value, "kis", name))
        with pytest.raises(TokenError) as caught:
            seen(slot)
        assert caught.value.code == "sealed-without-key"


def test_sealed_slot_is_opened_with_the_key() -> None:
    """With the encryption key a sealed slot works like any other."""
    vault = SealingVault((bytes(range(32)),))
    token = token_with(3 * HOUR)
    rows = {name: replace(row, value=vault.seal(row.value, "kis", name)) for name, row in slot_of(token).rows.items()}
    view = look(make_settings(), answering(Slot(rows, NOON)), None, vault, StillClock(), retry=NO_RETRY)
    assert view.app_key == APP_KEY
    assert view.stored is not None
    assert view.stored.token_id == token.token_id
