"""A program with a KISClient, and its calls to KIS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID
from kis_token.sandbox.loopback import Fault, Response
from kis_token.token import fingerprint

if TYPE_CHECKING:
    from kis_token.client.kis_client import KISClient
    from kis_token.kis.session import Response as Answer
    from tests.resolver_harness import Chain
    from tests.support import TurnedClock


SAMSUNG = {"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"}
ORDER_PATH = "/uapi/domestic-stock/v1/trading/order-cash"
ACCEPTED = Response(200, {"rt_cd": "0", "msg_cd": "APBK0013", "output": {"ODNO": "1"}})


@dataclass
class Bot:
    """A client, its clock, and the servers that it calls."""

    chain: Chain
    clock: TurnedClock
    client: KISClient

    def quote(self, *, timeout: float = 10.0) -> Answer:
        """Ask for a price."""
        return self.client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, params=SAMSUNG, timeout=timeout)

    def order(self, *, timeout: float = 10.0) -> Answer:
        """Send an order to buy."""
        return self.client.request("POST", ORDER_PATH, tr_id="TTTC0802U", json={"PDNO": "005930"}, timeout=timeout)

    def answer(self, path: str, response: Response, times: int = 1) -> None:
        """Let KIS give this answer to the next ``times`` calls of ``path``."""
        self.chain.kis.production.add_fault(Fault("answer", path, times, response))

    def sent(self, path: str) -> int:
        """The number of calls to ``path``."""
        return sum(seen.path == path for seen in self.chain.kis.production.seen)

    @property
    def token_id(self) -> str:
        """The fingerprint of the token in use."""
        return fingerprint(self.client.access_token)


def is_quote(answer: Answer) -> bool:
    """Whether KIS answered with a price."""
    return answer.status_code == 200 and answer.json()["output"]["stck_prpr"] == "71500"


def let_hours_pass(bot: Bot, hours: float) -> None:
    """Let time pass for KIS, the lease and the bot."""
    bot.clock.sleep(hours * 3600)
