"""KISClient with the whole chain: its settings, its keys, its first token and its renewals on demand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kis_token.client.kis_client import KISClient
from kis_token.errors import (
    IssuanceError,
    IssuerOutage,
    IssuerRefused,
    SettingsError,
    TokenRefreshLimitError,
)
from kis_token.sandbox.kis_http import APPROVAL_PATH, PRICE_PATH, PRICE_TR_ID, TOKEN_PATH
from kis_token.sandbox.loopback import Response
from kis_token.token import fingerprint
from tests.client.bots import SAMSUNG, Bot, is_quote, let_hours_pass
from tests.resolver_harness import Chain, stale_token
from tests.support import APP_KEY, HOUR, make_token

if TYPE_CHECKING:
    from collections.abc import Callable


def test_first_request_issues_and_later_ones_do_not(bot: Bot) -> None:
    """On an empty slot, the first request issues a token; later requests do not call tokenP or the store."""
    assert is_quote(bot.quote())
    asked = len(bot.chain.store_calls)

    assert all(is_quote(bot.quote()) for _ in range(5))

    assert bot.chain.issue_calls == 1
    assert len(bot.chain.store_calls) == asked


def test_stored_token_is_used(bot: Bot) -> None:
    """If another machine has stored a token, the client gets it with one read."""
    bot.chain.resolve(cache_path="off")
    bot.chain.supabase.server.forget()

    assert is_quote(bot.quote())

    assert bot.chain.issue_calls == 1
    assert bot.chain.store_calls == ["read"]


def test_stale_token_at_the_start(bot: Bot) -> None:
    """A new program that finds a stale stored token renews the token."""
    bot.chain.database.put_token(stale_token())
    assert is_quote(bot.quote())
    assert bot.chain.issue_calls == 1


def test_calls_need_keys(make_bot: Callable[..., Bot]) -> None:
    """If a token is stored and no keys are known, a call raises the error missing-app-key."""
    bot = make_bot(app_key="", app_secret="")
    bot.chain.database.put_token(make_token())
    for use in (bot.quote, bot.client.approval_key, lambda: bot.client.app_key):
        with pytest.raises(IssuanceError) as caught:
            use()
        assert caught.value.code == "missing-app-key"


def test_stored_keys_win(make_bot: Callable[..., Bot]) -> None:
    """If keys are stored, they are used instead of the environment's keys."""
    bot = make_bot(app_key="PSabcdefghijklmnopqrstuvwxyz01234567", app_secret="c2VjcmV0LW9mLWEtdGVzdA==")
    bot.chain.database.put_keys()
    matches = (bot.client.app_key, bot.client.app_secret) == (APP_KEY.key, APP_KEY.secret)
    assert matches
    assert bot.chain.issue_calls == 0
    assert is_quote(bot.quote())


def test_approval_key_needs_no_token(bot: Bot) -> None:
    """Each call of `approval_key` returns another key for a WebSocket session, and needs no token."""
    first, second = bot.client.approval_key(), bot.client.approval_key()
    assert len(first) == 36
    assert first != second
    assert bot.chain.issue_calls == 0


@pytest.mark.parametrize("response", [Response(200, {}), Response(200, {"approval_key": " "})])
def test_answer_without_an_approval_key(bot: Bot, response: Response) -> None:
    """If KIS's answer has no valid approval key, the error is an outage."""
    bot.answer(APPROVAL_PATH, response)
    with pytest.raises(IssuerOutage) as caught:
        bot.client.approval_key()
    assert caught.value.code == "kis-answer-unusable"


def test_attributes_of_the_guide(chain: Chain) -> None:
    """A client has the attributes that the guide's code reads, and makes no request before one of them needs it."""
    with KISClient.from_env(chain.variables | {"KIS_ACCOUNT_NO": "12345678-01"}) as client:
        assert (client.account_no, client.base_url, client.environment) == (
            "12345678-01",
            chain.kis.production_url,
            "production",
        )
        assert chain.store_calls == []
        assert client.token_expires_at - client.token_issued_at == 24 * HOUR
        assert fingerprint(client.access_token) == chain.database.stored_id()
        matches = (client.app_key, client.app_secret) == (APP_KEY.key, APP_KEY.secret)
        assert matches
        shown = repr(client)
        assert shown == f"KISClient({chain.kis.production_url!r}, 'kis')"


def test_client_of_os_environ(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, a client uses the variables of the program, like the guide's client."""
    for name, value in chain.variables.items():
        monkeypatch.setenv(name, value)
    for client in (KISClient(), KISClient.from_env()):
        with client:
            assert client.base_url == chain.kis.production_url
            assert client.account_no is None


def test_client_without_settings() -> None:
    """If several settings are missing, one error names all of them."""
    with pytest.raises(SettingsError) as caught:
        KISClient.from_env({})
    assert {fault.code for fault in caught.value.faults} == {"missing-supabase-url", "missing-supabase-key"}


def test_paper_account(chain: Chain) -> None:
    """With KIS_ENVIRONMENT paper, the client uses the slot and the host of the paper environment."""
    account = chain.kis.accounts["paper"][0]
    env = chain.variables | {
        "KIS_ENVIRONMENT": "paper",
        "KIS_BASE_URL": chain.kis.paper_url,
        "KIS_APP_KEY": account.app_key,
        "KIS_APP_SECRET": account.app_secret,
    }
    with KISClient.from_env(env) as client:
        assert is_quote(client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, params=SAMSUNG))
        assert client.environment == "paper"
    assert (chain.issue_calls, chain.kis.counts("paper").calls) == (0, 1)
    assert chain.database.row("kis-paper")


def test_young_token_is_not_refreshed(bot: Bot) -> None:
    """A token younger than 23 h is not renewed: the error is TokenRefreshLimitError, and KIS is not called."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 22)
    with pytest.raises(TokenRefreshLimitError) as caught:
        bot.client.refresh_token()
    assert (caught.value.code, bot.chain.issue_calls) == ("token-too-young", 1)


def test_refresh_by_force(bot: Bot) -> None:
    """With ``force``, a token that is 7 h old is renewed."""
    old = bot.token_id
    let_hours_pass(bot, 7)
    bot.client.refresh_token(force=True)
    assert (bot.token_id != old, bot.chain.issue_calls) == (True, 2)
    assert bot.chain.database.stored_id() == bot.token_id


def test_refresh_by_force_that_fails(bot: Bot) -> None:
    """If a renewal with ``force`` fails, the error is raised, and the old valid token is still used."""
    old = bot.token_id
    let_hours_pass(bot, 7)
    bot.chain.refuse_issue("EGW00105")
    with pytest.raises(IssuerRefused):
        bot.client.refresh_token(force=True)
    assert bot.token_id == old


def test_settings_may_be_given(chain: Chain) -> None:
    """A program may pass Settings of its own; the client ignores the mode in them."""
    with KISClient(replace(chain.settings(), mode="check")) as client:
        assert fingerprint(client.access_token) == chain.database.stored_id()
    assert chain.kis.production.seen[0].path == TOKEN_PATH
