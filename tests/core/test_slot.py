"""One function unseals and parses a slot's token row, for the chain, the cache and the owner's commands."""

from __future__ import annotations

import pytest

from kis_token.core.slot import TOKEN_TYPE, PlainVault, Row, SealedWithoutKey, Slot, read_stored, read_token
from kis_token.errors import TokenError, TokenUnusable
from kis_token.store.sealing import SealingVault, TolerantVault
from tests.support import make_token

SEALING = SealingVault((b"k" * 32,))


def row_of(text: str) -> Row:
    """A token row whose column has an end in 2099."""
    return Row(text, "2099-01-01T00:00:00+00:00", 7)


@pytest.mark.parametrize("vault", [PlainVault(), SEALING], ids=["plain", "sealed"])
def test_token_row_is_read_by_its_vault(vault: PlainVault | SealingVault) -> None:
    """A row, plain or sealed, is read as a token with the row's version."""
    token = make_token()
    read = read_token(row_of(vault.seal(token.to_json(), "kis", TOKEN_TYPE)), "kis", vault)
    assert (read.token_id, read.version) == (token.token_id, 7)


def test_further_members_come_with_the_token() -> None:
    """Other members of the JSON, such as those that the cache adds, are returned beside the token."""
    token = make_token()
    read, members = read_stored(token.to_json(service_name="kis"), "kis", PlainVault())
    assert (read.token_id, read.version, members["service_name"]) == (token.token_id, None, "kis")


def test_unusable_row_differs_from_one_that_cannot_be_unsealed() -> None:
    """An unusable token and a value that cannot be unsealed are different errors: only the first can be replaced."""
    with pytest.raises(TokenUnusable):
        read_token(row_of("not JSON"), "kis", PlainVault())
    with pytest.raises(TokenError) as plain:
        read_token(row_of(make_token().to_json()), "kis", SEALING)
    with pytest.raises(SealedWithoutKey):
        read_token(row_of(SEALING.seal(make_token().to_json(), "kis", TOKEN_TYPE)), "kis", PlainVault())
    assert plain.value.code == "plain-with-key"


def test_empty_token_row_counts_as_absent() -> None:
    """A slot has a token row only if that row has more than blanks."""
    full, empty = row_of("x"), row_of(" \n")
    assert Slot({TOKEN_TYPE: full}, None).token_row is full
    assert Slot({TOKEN_TYPE: empty}, None).token_row is None
    assert Slot({}, None).token_row is None


def test_owner_s_commands_read_both_forms() -> None:
    """The tolerant vault reads plain and sealed values; the strict vault can read the values that the other seals."""
    vault = TolerantVault(SEALING)
    assert vault.unseal("plain", "kis", "app_key") == "plain"
    assert vault.unseal(vault.seal("sealed", "kis", "app_key"), "kis", "app_key") == "sealed"
    assert SEALING.unseal(vault.seal("sealed", "kis", "app_key"), "kis", "app_key") == "sealed"
