"""Programs with a KISClient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.client.kis_client import KISClient
from tests.client.bots import Bot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.resolver_harness import Chain
    from tests.support import TurnedClock


@pytest.fixture
def make_bot(chain: Chain) -> Iterator[Callable[..., Bot]]:
    """A function that makes bots for the slot kis from inputs of the action."""
    made: list[Bot] = []

    def make(clock: TurnedClock | None = None, /, **inputs: str) -> Bot:
        clock = clock or chain.clock()
        made.append(Bot(chain, clock, KISClient(chain.settings(**inputs), clock=clock)))
        return made[-1]

    yield make
    for bot in made:
        bot.client.close()


@pytest.fixture
def bot(make_bot: Callable[..., Bot]) -> Bot:
    """A bot for an empty slot."""
    return make_bot()
