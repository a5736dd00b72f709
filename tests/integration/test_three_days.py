"""A bot runs for three days with rotations, outages and early ends: each call succeeds, with one issue a day."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from kis_token.sandbox.kis_http import TOKEN_PATH
from kis_token.token import KST, fingerprint
from tests.simulated_environment import BEGIN, ask_price, open_environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kis_token.client.kis_client import KISClient
    from kis_token.sandbox.postgres import EmbeddedPostgres
    from tests.simulated_environment import SimulatedEnvironment

DAYS = 3

#: The pause between two calls of a bot (``PAUSE``) and of a busy bot (``SHORT``).
PAUSE, SHORT = timedelta(minutes=30), timedelta(minutes=10)


def at(day: int, clock: str) -> datetime:
    """Return the time ``clock`` in Korea on a day. The bot starts on day 1."""
    return datetime.fromisoformat(f"{BEGIN:%Y-%m}-{BEGIN.day + day - 1:02}T{clock}+09:00")


class Days:
    """A bot, and the events of its three days."""

    def __init__(self, environment: SimulatedEnvironment, pause: timedelta) -> None:
        self.environment = environment
        self.pause = pause
        self.bot: KISClient = environment.client()
        self.calls: Counter[bool] = Counter()
        self.rotations: list[bool] = []
        self.events: dict[datetime, Callable[[], object]] = {
            # A rotation. The new token ends the bot's old token, and the bot finds the new token in the store.
            at(2, "06:13"): self.rotate,
            at(2, "06:43"): self.rotate,
            # An outage during the Korean session. The bot restarts during this outage.
            at(2, "09:05"): environment.supabase.stop,
            at(2, "11:05"): self.restart,
            at(2, "15:05"): environment.supabase.start,
            # During an outage of Supabase at night, KIS ends the token early, and the bot's machine issues a token for
            # itself.
            at(3, "01:05"): environment.supabase.stop,
            at(3, "01:35"): self.expire,
            at(3, "03:05"): environment.supabase.start,
            # The rotation finds the bot's token in the store and does not renew it.
            at(3, "06:13"): self.rotate,
            at(3, "06:43"): self.rotate,
        }

    def run(self) -> None:
        """Run the bot and its events for three days."""
        self.environment.kis.configure(reissue_kills_previous=True, expired_status=200)
        while self.environment.clock.now() < BEGIN + timedelta(days=DAYS):
            for moment in [moment for moment in self.events if moment <= self.environment.clock.now()]:
                self.events.pop(moment)()
            self.calls[ask_price(self.bot)] += 1
            self.environment.clock.jump(self.pause.total_seconds())

    def rotate(self) -> None:
        """Run one tick of the rotation workflow."""
        self.rotations.append(self.environment.rotate().refreshed)

    def restart(self) -> None:
        """Close the bot's client, and start a new client on the same machine."""
        self.bot.close()
        self.bot = self.environment.client()

    def expire(self) -> None:
        """Make KIS end the bot's token early."""
        self.environment.kis.expire_token(self.bot.access_token)


def test_three_days(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """Despite rotations, two outages, a restart and an early end of a token, no call fails. Each day has one issue."""
    with open_environment(postgres, tmp_path) as environment:
        days = Days(environment, PAUSE)

        days.run()

        assert days.events == {}
        assert days.calls == {True: timedelta(days=DAYS) // PAUSE}
        assert days.rotations == [True, False, False, False]
        assert issued_by_day(environment) == {1: 1, 2: 1, 3: 1, 4: 1}
        assert environment.database.stored_id() == fingerprint(days.bot.access_token)


def test_outage_that_outlasts_the_token(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """If Supabase is down for two days, the bot issues for itself. After the outage, the bot stores its token."""
    shared: list[bool] = []
    with open_environment(postgres, tmp_path) as environment:
        days = Days(environment, SHORT)

        def compare() -> None:
            shared.append(environment.database.stored_id() == fingerprint(days.bot.access_token))

        days.events = {
            at(1, "09:05"): environment.supabase.stop,
            at(3, "09:05"): compare,
            at(3, "09:15"): environment.supabase.start,
            at(3, "09:25"): compare,
            at(3, "09:35"): compare,
        }
        days.run()

        assert days.calls == {True: timedelta(days=DAYS) // SHORT}
        assert shared == [False, True, True]
        assert issued_by_day(environment) == {1: 1, 2: 1, 3: 1, 4: 1}


def issued_by_day(environment: SimulatedEnvironment) -> Counter[int]:
    """Count new tokens by day in Korea.

    A tokenP call that repeats a token, within 6 hours of its issue, is left out.
    """
    times: list[datetime] = []
    for seen in environment.kis.requests:
        if seen.path == TOKEN_PATH and seen.status == 200 and not (times and seen.at < times[-1] + timedelta(hours=6)):
            times.append(seen.at)
    assert len(times) == environment.kis.counts("production").issues
    return Counter(time.astimezone(KST).day - BEGIN.day + 1 for time in times)
