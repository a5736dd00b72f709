"""A sealed slot that is tampered with: any change of its rows is an error with a code, and no token is issued."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import TokenError
from kis_token.store.sealing import SealingVault
from tests.resolver_harness import ENCRYPTION_KEY, expired_token, stale_token
from tests.support import APP_KEY, Caller, make_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.token import Token
    from tests.resolver_harness import Chain

TYPES = ("access_token", "app_key", "app_secret")
VAULT = SealingVault((base64.b64decode(ENCRYPTION_KEY),))
ELSEWHERE = SealingVault((bytes(32),))


def fill(chain: Chain, token: Token) -> dict[str, str]:
    """Seal and store the slot's values; return the plain values."""
    values = {"access_token": token.to_json(), "app_key": APP_KEY.key, "app_secret": APP_KEY.secret}
    for name, value in values.items():
        put(chain, name, VAULT.seal(value, "kis", name), token)
    return values


def put(chain: Chain, name: str, form: str, token: Token) -> None:
    """Store one row directly, as any owner of the service key can."""
    chain.database.put(name, form, token.expires_at if name == "access_token" else None)


def flipped(form: str) -> str:
    """The envelope with one bit of its last byte changed."""
    head, _, body = form.rpartition(":")
    data = bytearray(base64.urlsafe_b64decode(body))
    data[-1] ^= 1
    return f"{head}:{base64.urlsafe_b64encode(bytes(data)).decode()}"


#: Ways to change a stored value, and the error code that each one causes.
DEEDS: dict[str, tuple[Callable[[str, str], str], str]] = {
    "with another key": (lambda value, name: ELSEWHERE.seal(value, "kis", name), "seal-broken"),
    "cut": (lambda value, name: VAULT.seal(value, "kis", name)[:-8], "seal-broken"),
    "one bit": (lambda value, name: flipped(VAULT.seal(value, "kis", name)), "seal-broken"),
    "no body": (lambda value, name: VAULT.seal(value, "kis", name).rpartition(":")[0] + ":", "seal-broken"),
    "from another slot": (lambda value, name: VAULT.seal(value, "kis-paper", name), "seal-broken"),
    "from another type": (lambda value, name: VAULT.seal(value, "kis", f"old_{name}"), "seal-broken"),
    "downgraded to plain": (lambda value, _: value, "plain-with-key"),
}


@pytest.mark.parametrize(
    ("stored", "mode"),
    [
        (make_token, "resolve"),
        (stale_token, "resolve"),
        (expired_token, "resolve"),
        (stale_token, "rotate"),
        (make_token, "force"),
        (make_token, "check"),
    ],
    ids=["fresh", "stale", "expired", "rotate", "force", "check"],
)
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("deed", DEEDS)
def test_row_that_was_tampered_with(chain: Chain, deed: str, name: str, stored: Callable[[], Token], mode: str) -> None:
    """The error names the changed row. KIS is not called, no cached token is used, and the row is kept as evidence."""
    token = stored()
    values = fill(chain, token)
    chain.cache(encryption_key=ENCRYPTION_KEY).write(make_token())
    change, code = DEEDS[deed]
    form = change(values[name], name)
    put(chain, name, form, token)

    with pytest.raises(TokenError, match=f"{name} of kis") as caught:
        chain.resolve(encryption_key=ENCRYPTION_KEY, app_key="", app_secret="", mode=mode)

    assert (caught.value.code, chain.issue_calls, chain.store_calls) == (code, 0, ["read"])
    rows = chain.stores[-1].read_all("kis").rows
    is_kept = rows[name].value == form
    assert is_kept


def test_values_of_two_rows_that_are_swapped(chain: Chain) -> None:
    """If the values of key and secret are swapped, neither is used."""
    token = make_token()
    values = fill(chain, token)
    put(chain, "app_key", VAULT.seal(values["app_secret"], "kis", "app_secret"), token)
    put(chain, "app_secret", VAULT.seal(values["app_key"], "kis", "app_key"), token)

    with pytest.raises(TokenError) as caught:
        chain.resolve(encryption_key=ENCRYPTION_KEY, app_key="", app_secret="")

    assert (caught.value.code, chain.issue_calls) == ("seal-broken", 0)


def test_plain_token_that_comes_in_while_one_waits(chain: Chain) -> None:
    """A caller that waits for another caller's token does not use a token that is not sealed."""
    fill(chain, expired_token())
    assert Caller(chain.database, label="another").begin()["status"] == "granted"
    clock = chain.clock()
    clock.on_sleep = lambda _: chain.database.put_token(make_token())

    with pytest.raises(TokenError) as caught:
        chain.resolve(clock, encryption_key=ENCRYPTION_KEY)

    assert (caught.value.code, chain.issue_calls) == ("plain-with-key", 0)
