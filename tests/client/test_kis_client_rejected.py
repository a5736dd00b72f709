"""KISClient with the whole chain: a token's end, a rejected token and an outage."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import (
    IssuanceError,
    KisTokenError,
)
from kis_token.kis.api import TOKEN_CODES
from kis_token.sandbox.kis_http import PRICE_PATH, error_response
from kis_token.sandbox.loopback import Response
from tests.client.bots import ACCEPTED, Bot, is_quote, let_hours_pass
from tests.resolver_harness import Chain, expired_token
from tests.support import HOUR, TurnedClock, make_token

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("status", [200, 401, 403, 500])
@pytest.mark.parametrize("code", sorted(TOKEN_CODES))
def test_newer_stored_token_is_taken(bot: Bot, code: str, status: int) -> None:
    """If KIS rejects the token and another caller has renewed it, the new token is used without a tokenP call."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    newer = bot.chain.resolve(bot.clock, mode="force", cache_path="off").token
    before = bot.sent(PRICE_PATH)
    bot.answer(PRICE_PATH, error_response(code, PRICE_PATH, status=status))

    assert is_quote(bot.quote())

    assert bot.sent(PRICE_PATH) - before == 2
    assert bot.token_id == newer.token_id
    assert bot.chain.issue_calls == 2, "the bot has asked as well"


def test_rejected_token_is_replaced_by_force(bot: Bot, caplog: pytest.LogCaptureFixture) -> None:
    """If a token is rejected 7 h after its issue and no other token is stored, one is issued, with a warning."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    bot.chain.kis.kill_token(bot.client.access_token)

    with caplog.at_level(logging.WARNING, "kis_token"):
        assert is_quote(bot.quote())

    assert bot.chain.issue_calls == 2
    assert bot.chain.database.stored_id() == bot.token_id
    said = [record.getMessage() for record in caplog.records if "A new token is issued now" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("KIS rejects the token. The token was issued less than 23 h ago, at ")


def test_old_token_is_replaced_without_a_warning(bot: Bot, caplog: pytest.LogCaptureFixture) -> None:
    """A rejected token that is older than 23 h is renewed without the warning that names the age."""
    bot.chain.kis.configure(expires_in=90 * 86400)
    assert is_quote(bot.quote())
    let_hours_pass(bot, 23.1)
    bot.chain.kis.kill_token(bot.client.access_token)

    with caplog.at_level(logging.WARNING, "kis_token"):
        assert is_quote(bot.quote())

    assert bot.chain.issue_calls == 2
    assert "A new token is issued now" not in caplog.text


def test_token_that_kis_repeats_is_an_error(bot: Bot) -> None:
    """If KIS repeats the rejected token, the error says when KIS gives another one, and tokenP is called once."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 1)
    bot.chain.kis.kill_token(bot.client.access_token)
    issued_at = bot.client.token_issued_at

    for _ in range(2):
        with pytest.raises(IssuanceError) as caught:
            bot.quote()
        assert caught.value.code == "token-repeated"
        assert f"{issued_at + 6 * HOUR:%H:%M:%S} UTC" in f"{caught.value}"

    assert bot.chain.issue_calls == 2
    assert bot.sent(PRICE_PATH) == 3


def test_refusal_in_euc_kr(bot: Bot) -> None:
    """If the message of a rejection is in EUC-KR, the client still finds the code."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    body = '{"rt_cd":"1","msg_cd":"EGW00123","msg1":"기간이 만료된 token 입니다."}'.encode("cp949")
    bot.answer(PRICE_PATH, Response(500, body))

    assert is_quote(bot.quote())

    assert (bot.sent(PRICE_PATH), bot.chain.issue_calls) == (3, 2)


def test_second_refusal_is_the_answer(bot: Bot) -> None:
    """A request is sent again only once. If KIS rejects the second token too, that answer is returned."""
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    bot.answer(PRICE_PATH, error_response("EGW00121", PRICE_PATH), times=5)

    answer = bot.quote()

    assert answer.json()["msg_cd"] == "EGW00121"
    assert bot.sent(PRICE_PATH) == 3
    assert bot.chain.issue_calls == 2


@pytest.mark.parametrize(
    "response",
    [
        Response(401, b""),
        Response(500, b"EGW00121, but no JSON"),
        Response(500, b"[" * 100_000 + b"EGW00121"),
        Response(200, ["EGW00121"]),
        Response(200, {"rt_cd": "0", "msg_cd": "EGW00121"}),
        Response(200, {"rt_cd": "1", "msg_cd": "APBK0919", "msg1": "EGW00121"}),
        error_response("EGW00304", PRICE_PATH),
    ],
    ids=["401", "text", "deep", "list", "success", "elsewhere", "EGW00304"],
)
def test_other_answers_do_not_reject_the_token(bot: Bot, response: Response) -> None:
    """Only KIS's three codes for a token, in the field of the code, mean that a token is rejected.

    Any other answer is returned to the caller.
    """
    bot.answer(PRICE_PATH, response)
    assert bot.quote().status_code == response.status
    assert (bot.sent(PRICE_PATH), bot.chain.issue_calls) == (1, 1)


THREADS = 16


def in_threads(work: Callable[[], object]) -> list[object]:
    """The results of ``work`` in THREADS threads that start together. For an error, the result is its code."""
    barrier = threading.Barrier(THREADS)

    def run() -> object:
        barrier.wait()
        try:
            return work()
        except KisTokenError as error:
            return error.code

    with ThreadPoolExecutor(THREADS) as pool:
        return [each.result() for each in [pool.submit(run) for _ in range(THREADS)]]


def test_threads_start_with_one_issue(bot: Bot) -> None:
    """On an empty slot, all threads get a price after one tokenP call and one read of the store."""
    bot.chain.kis.configure(calls_per_second=100)

    assert in_threads(lambda: is_quote(bot.quote())) == [True] * THREADS

    assert bot.chain.issue_calls == 1
    assert bot.chain.store_calls == ["read", "begin_issuance", "commit_issuance"]


def test_threads_refused_at_once_make_one_refresh(bot: Bot) -> None:
    """If all threads have a rejected token, they get a price after one tokenP call and one lease."""
    bot.chain.kis.configure(calls_per_second=100)
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    bot.chain.kis.kill_token(bot.client.access_token)
    bot.chain.supabase.server.forget()

    assert in_threads(lambda: is_quote(bot.quote())) == [True] * THREADS

    assert bot.chain.issue_calls == 2
    assert bot.chain.store_calls.count("begin_issuance") == 1


def test_two_programs_refused_at_once_make_one_refresh(bot: Bot, make_bot: Callable[..., Bot]) -> None:
    """If two machines have the same rejected token, the first machine renews it, and the second uses the new token."""
    other = make_bot(bot.clock, cache_path="off")
    assert is_quote(bot.quote())
    assert is_quote(other.quote())
    let_hours_pass(bot, 7)
    bot.chain.kis.kill_token(bot.client.access_token)

    assert is_quote(bot.quote())
    assert is_quote(other.quote())

    assert bot.chain.issue_calls == 2
    assert bot.token_id == other.token_id


def test_token_that_has_just_ended_is_tried(bot: Bot) -> None:
    """If the renewal fails, a token that has just expired is sent, because KIS may still accept the token."""
    token = expired_token()
    bot.chain.database.put_token(token)
    bot.chain.refuse_issue("EGW00105")
    bot.answer(PRICE_PATH, ACCEPTED)

    assert bot.quote().ok

    assert (bot.token_id, bot.chain.issue_calls) == (token.token_id, 1)


def test_outage_with_a_valid_token(bot: Bot) -> None:
    """While the token is valid, a client needs no request to Supabase."""
    assert is_quote(bot.quote())
    bot.chain.supabase.stop()
    assert is_quote(bot.quote())


def test_outage_when_the_token_expires(make_bot: Callable[..., Bot]) -> None:
    """In an outage, a client can replace a rejected token, because it has read the keys from Supabase before."""
    bot = make_bot(app_key="", app_secret="")
    bot.chain.database.put_keys()
    assert is_quote(bot.quote())
    let_hours_pass(bot, 7)
    bot.chain.kis.kill_token(bot.client.access_token)
    bot.chain.supabase.stop()

    assert is_quote(bot.quote())

    assert bot.chain.issue_calls == 2
    assert bot.chain.cached_id() == bot.token_id


@pytest.mark.parametrize("hours", [-3, 3])
def test_wrong_clock_renews_nothing(chain: Chain, make_bot: Callable[..., Bot], hours: int) -> None:
    """A client uses the store's time, even between two answers: if its clock is hours off, it keeps a valid token."""
    clock = TurnedClock(wrong_by=hours * HOUR)
    clock.on_sleep = chain.pass_time
    bot, token = make_bot(clock), make_token(left=2 * HOUR, age=22 * HOUR)
    chain.database.put_token(token)
    assert bot.token_id == token.token_id
    chain.supabase.server.forget()

    assert bot.token_id == token.token_id

    assert (chain.store_calls, chain.issue_calls) == ([], 0)
