"""An environment with simulated time: one clock for programs, KIS, the database's functions and Supabase's Date."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

from kis_token.client.kis_client import KISClient
from kis_token.config import Settings
from kis_token.sandbox.database import migrations_folder, prepare_database
from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.kis_http import PRICE_PATH, PRICE_TR_ID
from kis_token.sandbox.postgrest import PostgRESTStandIn
from kis_token.wiring import open_resolver
from tests.support import ACCOUNT, ANON_KEY, SERVICE_KEY, Database, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kis_token.core.resolution import Resolution
    from kis_token.sandbox.loopback import Request, Response
    from kis_token.sandbox.postgres import EmbeddedPostgres

#: The simulated time at the start: an ordinary day, 07:00 in Korea.
BEGIN = datetime.fromisoformat("2027-03-02T07:00:00+09:00")

_CLOCK = """
create table public.test_clock (ahead interval not null);
insert into public.test_clock values ('0 s');
create function public.test_now() returns timestamptz language sql security definer as $$
    select clock_timestamp() + ahead from public.test_clock
$$;
grant execute on function public.test_now() to service_role;
"""


class SimulatedClock:
    """A clock that starts at ``BEGIN``. If a caller sleeps, the time jumps, so the caller does not wait."""

    def __init__(self, database: Database) -> None:
        self.slept: list[float] = []
        self._database = database
        self._ahead = BEGIN - utc_now()
        self._jumped = 0.0
        self.jump(0)

    def now(self) -> datetime:
        """Return the simulated present, in UTC."""
        return utc_now() + self._ahead

    def monotonic(self) -> float:
        """Return a number of seconds that never decreases."""
        return utc_now().timestamp() + self._jumped

    def sleep(self, seconds: float) -> None:
        """Let time pass for the whole environment."""
        self.slept.append(seconds)
        self.jump(seconds)

    def jitter(self, low: float, high: float) -> float:
        """Return the middle, so that no result depends on chance."""
        return (low + high) / 2

    def jump(self, seconds: float) -> None:
        """Set the clock forward by ``seconds``."""
        self._jumped += seconds
        self._ahead += timedelta(seconds=seconds)
        self._database.owner.execute("update public.test_clock set ahead = %s", (self._ahead,))


class SimulatedSupabase(PostgRESTStandIn):
    """Supabase with answers that are dated by the simulated clock."""

    def __init__(self, database: Database, clock: SimulatedClock) -> None:
        super().__init__(database.project.api, service_key=SERVICE_KEY, anon_key=ANON_KEY)
        self.server.send_date = False
        self._clock = clock

    def _handle(self, request: Request) -> Response:
        response = super()._handle(request)
        return replace(response, headers={**response.headers, "Date": format_datetime(self._clock.now(), usegmt=True)})


@dataclass
class SimulatedEnvironment:
    """The services for the programs of one slot. Each machine has its own cache, in a folder of its name."""

    clock: SimulatedClock
    database: Database
    supabase: SimulatedSupabase
    kis: KISEmulator
    folder: Path
    clients: list[KISClient] = field(default_factory=list)

    def settings(self, machine: str = "bot", **inputs: str) -> Settings:
        """Return the settings of a machine that has ACCOUNT's keys, with changes."""
        given = {
            "supabase_url": self.supabase.url,
            "supabase_key": SERVICE_KEY,
            "app_key": ACCOUNT.app_key,
            "app_secret": ACCOUNT.app_secret,
            "base_url": self.kis.production_url,
            "cache_path": str(self.folder / machine / "cache.json"),
            **inputs,
        }
        return Settings.from_env({f"INPUT_{name.upper()}": value for name, value in given.items()})

    def client(self, machine: str = "bot", **inputs: str) -> KISClient:
        """Return a program's client."""
        self.clients.append(KISClient(self.settings(machine, **inputs), clock=self.clock))
        return self.clients[-1]

    def rotate(self) -> Resolution:
        """Run the nightly workflow, on a fresh machine."""
        settings = self.settings(mode="rotate", cache_path="off")
        with open_resolver(settings, self.clock.monotonic(), print, self.clock) as resolver:
            return resolver.resolve()

    @property
    def issue_calls(self) -> int:
        """The number of tokenP calls."""
        return self.kis.counts("production").calls

    def quotes(self) -> int:
        """Return the number of requests for a price."""
        return sum(seen.path == PRICE_PATH for seen in self.kis.production.seen)


@contextmanager
def open_environment(postgres: EmbeddedPostgres, folder: Path) -> Iterator[SimulatedEnvironment]:
    """Yield an environment with an empty slot at ``BEGIN``."""
    project = prepare_database(postgres.create_database())
    with Database(project) as database:
        database.owner.execute(_CLOCK)
        for path in sorted(migrations_folder().glob("*.sql")):
            migration = path.read_text(encoding="utf-8")
            database.owner.execute(migration.replace("clock_timestamp()", "public.test_now()").encode())
        clock = SimulatedClock(database)
        with SimulatedSupabase(database, clock) as supabase, KISEmulator(production=ACCOUNT, clock=clock) as kis:
            environment = SimulatedEnvironment(clock, database, supabase, kis, folder)
            yield environment
            for client in environment.clients:
                client.close()


def ask_price(client: KISClient) -> bool:
    """Ask KIS for a price, and return whether the answer has a price."""
    samsung = {"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"}
    answer = client.request("GET", PRICE_PATH, tr_id=PRICE_TR_ID, params=samsung)
    return answer.status_code == 200 and answer.json()["rt_cd"] == "0"
