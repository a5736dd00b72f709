"""The chain with sealed values, with one app key in two slots, and with refused app keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.errors import (
    IssuanceError,
    IssuerRefused,
    TokenError,
)
from tests.resolver_harness import ENCRYPTION_KEY

if TYPE_CHECKING:
    from tests.resolver_harness import Chain


def test_sealed_all_the_way(chain: Chain) -> None:
    """With an encryption key, store and cache contain only sealed tokens, and the next caller can read them."""
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
    """A plain token is an error with an encryption key, a sealed token without one; neither is replaced."""
    chain.resolve(encryption_key=writer)
    with pytest.raises(TokenError) as caught:
        chain.resolve(encryption_key=reader)
    assert (caught.value.code, chain.issue_calls) == (code, 1)


def test_force_repeats_a_sealed_token(chain: Chain) -> None:
    """If KIS repeats a token whose stored value is sealed, refreshed is false and the row stays unchanged."""
    chain.resolve(encryption_key=ENCRYPTION_KEY)
    chain.pass_time(3600)
    before = chain.database.row()

    assert not chain.resolve(encryption_key=ENCRYPTION_KEY, mode="force").refreshed
    assert chain.database.row() == before


def test_one_key_in_two_slots(chain: Chain) -> None:
    """A second slot with the same app key gets an error that names the first slot, and KIS is not called."""
    chain.resolve()
    with pytest.raises(IssuanceError, match="The slot kis has") as caught:
        chain.resolve(service_name="kis-second", cache_path="off")
    assert (caught.value.code, chain.issue_calls) == ("key-in-two-slots", 1)


@pytest.mark.parametrize("code", ["EGW00103", "EGW00105", "EGW00002"])
def test_a_refusal_is_not_retried(chain: Chain, code: str) -> None:
    """After KIS has refused a key and secret, the next caller with the same pair gets that refusal without a call."""
    chain.refuse_issue(code)
    with pytest.raises(IssuerRefused, match=code):
        chain.resolve()
    with pytest.raises(IssuerRefused, match=code) as caught:
        chain.resolve()
    assert (caught.value.kis_code, caught.value.retryable, chain.issue_calls) == (code, False, 1)


def test_a_refusal_is_not_waited_out(chain: Chain) -> None:
    """A caller does not wait until a refused credential may be tried again, however much time it has."""
    chain.refuse_issue("EGW00105")
    with pytest.raises(IssuerRefused):
        chain.resolve()
    clock = chain.clock()
    with pytest.raises(IssuerRefused):
        chain.resolve(clock, timeout="2h")
    assert (clock.slept, chain.issue_calls) == ([], 1)


def test_a_corrected_secret_is_not_held_up(chain: Chain) -> None:
    """After a refused secret, the corrected one issues at once, because KIS's rate limit ignores refused calls."""
    with pytest.raises(IssuerRefused):
        chain.resolve(app_secret="d3Jvbmc=")

    assert chain.resolve().source == "oauth"
    assert chain.issue_calls == 2
