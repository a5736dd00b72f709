"""A read-only key that is made as docs/security.md describes reads the token and has no other permission."""

from __future__ import annotations

import getpass
import re
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import KisTokenError, StoreMisconfigured
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.settings.pasted_values import parse_claims
from tests.resolver_harness import Chain, expired_token, stale_token
from tests.support import ANON_KEY, APP_KEY, SERVICE_KEY, make_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kis_token.sandbox.emulator import KISEmulator
    from tests.support import Database


@pytest.fixture
def reader_jwt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The output of the program in docs/security.md."""
    page = (CHECKOUT / "docs" / "security.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(getpass, "getpass", lambda _: "a-made-up-jwt-secret-of-32-characters")
    exec(program, {})  # noqa: S102 - the document's own program
    return capsys.readouterr().out.strip()


@pytest.fixture
def chain(database: Database, kis: KISEmulator, tmp_path: Path, reader_jwt: str) -> Iterator[Chain]:
    """A project that accepts the read-only key."""
    keys = {reader_jwt: str(parse_claims(reader_jwt)["role"])}
    with PostgRESTStandIn(
        database.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY, further_keys=keys
    ) as supabase:
        chain = Chain(supabase, kis, database, tmp_path)
        yield chain
        for store in chain.stores:
            store.close()


@pytest.fixture
def reader(reader_jwt: str) -> dict[str, str]:
    """The inputs of a caller with the read-only key, whose form is two lines, as in the document."""
    return {"supabase_key": f"{ANON_KEY}\n{reader_jwt}", "app_key": "", "app_secret": ""}


def test_reader_gets_the_token_and_no_keys(chain: Chain, reader: dict[str, str]) -> None:
    """A caller gets a fresh token with one read, and cannot see the stored key and secret."""
    token = make_token()
    chain.database.put_keys()
    chain.database.put_token(token)

    got = chain.resolve(**reader)

    assert (got.token.token_id, got.source, got.app_key) == (token.token_id, "supabase", None)
    assert chain.store_calls == ["read"]


def test_reader_uses_a_stale_token(chain: Chain, reader: dict[str, str]) -> None:
    """A stale token is handed out, with a warning that a read-only key cannot renew a token."""
    token = stale_token()
    chain.database.put_token(token)

    got = chain.resolve(**reader)

    assert got.token.token_id == token.token_id
    assert "[store-read-only]" in got.warnings[-1]


@pytest.mark.parametrize("mode", ["resolve", "rotate", "force"])
@pytest.mark.parametrize("keys", [{}, {"app_key": APP_KEY.key, "app_secret": APP_KEY.secret}], ids=["", "with keys"])
def test_reader_never_issues(chain: Chain, reader: dict[str, str], mode: str, keys: dict[str, str]) -> None:
    """If a token must be issued, the caller gets the error store-read-only, and begin is not called."""
    chain.database.put_token(expired_token())

    with pytest.raises(StoreMisconfigured) as caught:
        chain.resolve(**reader | keys, mode=mode)

    assert (caught.value.code, chain.issue_calls, chain.store_calls) == ("store-read-only", 0, ["read"])


@pytest.mark.parametrize("mode", ["resolve", "check"])
def test_reader_s_key_on_a_machine_that_has_a_revoked_token_cached(
    chain: Chain, reader: dict[str, str], mode: str
) -> None:
    """A read-only key also reads the rejected tokens, so a revoked token in the cache is not used."""
    token = make_token()
    version = chain.database.put_token(token)
    assert chain.resolve(**reader, mode=mode).source == "supabase"
    arguments = {"service": "kis", "version": version, "token_id": token.token_id, "label": "an owner"}
    assert chain.database.call("revoke_token", **arguments)["status"] == "revoked"
    assert chain.cached_id() == token.token_id

    with pytest.raises(KisTokenError) as caught:
        chain.resolve(**reader, mode=mode)
    assert caught.value.code == ("no-valid-token" if mode == "check" else "store-read-only")
