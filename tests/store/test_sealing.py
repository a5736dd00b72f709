"""An envelope can be unsealed only with its key, only if it is complete, and only for its own row."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.core.slot import SEALED_PREFIX, PlainVault
from kis_token.errors import TokenError
from kis_token.store import libcrypto
from kis_token.store.sealing import SealingVault, decrypt_by_package, make_vault
from tests.support import make_token

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))
VAULT = SealingVault((FIRST,))
#: Both ways to unseal a value.
WAYS = {"libcrypto": libcrypto.load(), "package": decrypt_by_package}
ROW = ("kis", "access_token")
VALUE = make_token().to_json()
#: An envelope that the first release made. Do not replace this value.
KNOWN = "enc:v1:ff76b76d:WQ8aBnQlKNFR-YlktQz-abCoSCEfrOvdZaF8nIghf3vg1WxAhaUlgUTTRkArOSiEHduCBzmYNItvo5NA"
SEALED = VAULT.seal(VALUE, *ROW)

each_way = pytest.mark.parametrize(
    "vault", [pytest.param(SealingVault((FIRST,), decrypt), id=name) for name, decrypt in WAYS.items() if decrypt]
)
rows = st.tuples(st.from_regex(r"\A[a-z][a-z.-]{0,20}\Z"), st.sampled_from(["app_key", "app_secret", "access_token"]))


def refused(vault: SealingVault | PlainVault, text: str, row: tuple[str, str] = ROW) -> str:
    """Assert that ``text`` cannot be unsealed, and that the error does not show it. Return the error code."""
    with pytest.raises(TokenError) as caught:
        vault.unseal(text, *row)
    assert len(text) < 20 or text not in f"{caught.value}", "the value is shown"
    assert f"{row[1]} of {row[0]}" in f"{caught.value}"
    return caught.value.code


def parts(sealed: str) -> tuple[str, bytes]:
    """The prefix with the key id, and the bytes after it."""
    head, _, body = sealed.rpartition(":")
    return head, base64.urlsafe_b64decode(body)


def joined(head: str, data: bytes) -> str:
    """An envelope of these parts."""
    return f"{head}:{base64.urlsafe_b64encode(data).decode()}"


@each_way
@given(st.text(), rows)
def test_sealed_value_survives_a_round_trip(vault: SealingVault, value: str, row: tuple[str, str]) -> None:
    """Any value that was sealed for a row is unsealed for that row without a change."""
    assert vault.unseal(vault.seal(value, *row), *row) == value


def test_envelope_has_its_form() -> None:
    """The envelope is enc:v1, eight hex digits that name the key, and base64url of nonce, ciphertext and tag."""
    head, data = parts(SEALED)
    assert head.startswith(SEALED_PREFIX)
    assert len(bytes.fromhex(head.removeprefix(SEALED_PREFIX))) == 4
    assert len(data) == 12 + len(VALUE.encode()) + 16


def test_no_two_envelopes_are_alike() -> None:
    """Each envelope has a new nonce."""
    assert len({VAULT.seal(VALUE, *ROW) for _ in range(50)}) == 50


@each_way
def test_envelope_of_an_earlier_release_opens(vault: SealingVault) -> None:
    """The form is fixed: every later release must unseal an old envelope."""
    assert vault.unseal(KNOWN, *ROW) == "a value that was sealed long ago"


@each_way
@given(st.integers(0, 12 + len(VALUE.encode()) + 15), st.integers(1, 255))
def test_changed_byte_is_noticed(vault: SealingVault, place: int, change: int) -> None:
    """With one changed byte anywhere, in nonce, ciphertext or tag, the value is not returned."""
    head, data = parts(SEALED)
    changed = bytes([*data[:place], data[place] ^ change, *data[place + 1 :]])
    assert refused(vault, joined(head, changed)) == "seal-broken"


@each_way
@given(st.integers(0, len(SEALED) - 1), st.characters(codec="utf-8"))
def test_changed_character_never_gives_another_value(vault: SealingVault, place: int, character: str) -> None:
    """One changed character is an error or, if base64 has two forms of the same bytes, gives the same value."""
    changed = SEALED[:place] + character + SEALED[place + 1 :]
    try:
        assert vault.unseal(changed, *ROW) == VALUE
    except TokenError as error:
        assert error.code in ("seal-broken", "plain-with-key")  # noqa: PT017 - either outcome is right


@each_way
@given(st.integers(0, len(SEALED) - 1))
def test_cut_envelope_is_noticed(vault: SealingVault, length: int) -> None:
    """An envelope that is cut at any place is refused."""
    assert refused(vault, SEALED[:length]) in ("seal-broken", "plain-with-key")


@each_way
@given(st.text())
def test_any_text_is_a_value_or_a_token_error(vault: SealingVault, text: str) -> None:
    """No other error than TokenError is raised, even with the right prefix and key id."""
    for sealed in (text, SEALED_PREFIX + text, f"{parts(SEALED)[0]}:{text}"):
        with pytest.raises(TokenError):
            vault.unseal(sealed, *ROW)


@each_way
@pytest.mark.parametrize("row", [("kis-paper", "access_token"), ("kis", "app_secret"), ("ki", "saccess_token")])
def test_value_cannot_be_moved_to_another_row(vault: SealingVault, row: tuple[str, str]) -> None:
    """A value that was sealed for one service and type cannot be unsealed for another."""
    assert refused(vault, SEALED, row) == "seal-broken"


@each_way
def test_wrong_key_opens_nothing(vault: SealingVault) -> None:
    """A wrong key is detected by the id in the envelope or, if the id is forged, by the tag."""
    other = SealingVault((SECOND,), vault._decrypt)
    assert refused(other, SEALED) == "seal-broken"
    claimed = joined(parts(other.seal("x", *ROW))[0], parts(SEALED)[1])
    assert refused(other, claimed) == "seal-broken"


@each_way
def test_first_key_seals_and_all_open(vault: SealingVault) -> None:
    """With two keys, values of both keys can be unsealed, and new values are sealed with the first key."""
    both = SealingVault((SECOND, FIRST), vault._decrypt)
    sealed = both.seal(VALUE, *ROW)
    assert both.unseal(SEALED, *ROW) == VALUE
    assert both.unseal(sealed, *ROW) == VALUE
    assert SealingVault((SECOND,)).unseal(sealed, *ROW) == VALUE
    assert refused(vault, sealed) == "seal-broken"


def test_key_id_shows_no_part_of_the_key_and_is_the_same_everywhere() -> None:
    """Two machines with one key use the same id, two keys have two ids, and no id is a part of the key."""
    names = [
        parts(SealingVault((key,)).seal("x", *ROW))[0].removeprefix(SEALED_PREFIX) for key in (FIRST, FIRST, SECOND)
    ]
    assert names[0] == names[1] != names[2]
    assert names[0] not in FIRST.hex()


def test_plain_value_is_refused_with_a_key() -> None:
    """With an encryption key a plain value is refused, so a sealed value cannot be replaced by a plain one."""
    assert refused(VAULT, VALUE) == "plain-with-key"
    assert refused(VAULT, SEALED.replace("enc:v1", "enc:v2")) == "plain-with-key"


def test_sealed_value_is_refused_without_a_key() -> None:
    """Without a key a sealed value is an error with its own code, and a plain one is returned unchanged."""
    plain = make_vault(())
    assert isinstance(plain, PlainVault)
    assert refused(plain, SEALED) == "sealed-without-key"
    assert plain.unseal(VALUE, *ROW) == plain.seal(VALUE, *ROW) == VALUE


def test_a_key_makes_a_sealing_vault() -> None:
    """With an encryption key the vault seals, and its repr does not show the key."""
    vault = make_vault((FIRST,))
    assert isinstance(vault, SealingVault)
    assert repr(FIRST) not in repr(vault)
    assert FIRST.hex() not in repr(vault)
