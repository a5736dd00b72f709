"""The whole chain for tests: the real store on PostgreSQL, the emulated KIS over HTTP, a real cache, a test clock."""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.config import Settings
from kis_token.core.context import Context
from kis_token.core.resolver import Resolver
from kis_token.deadline import Deadline
from kis_token.kis.api import KISIssuer
from kis_token.local.cache import FileCache, make_cache
from kis_token.local.machine_lock import LocalMachine
from kis_token.sandbox.kis_http import TOKEN_PATH, error_response
from kis_token.sandbox.loopback import Fault
from kis_token.store.sealing import make_vault
from kis_token.store.supabase import SupabaseStore
from kis_token.token import AppKey
from kis_token.wiring import open_resolver
from tests.support import ACCOUNT, HOUR, MINUTE, SERVICE_KEY, TurnedClock, make_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from kis_token.core.ports import Clock, Issuer
    from kis_token.core.resolution import Resolution
    from kis_token.sandbox import Sandbox
    from kis_token.sandbox.emulator import KISEmulator
    from kis_token.sandbox.postgrest import PostgRESTStandIn
    from kis_token.token import Token
    from tests.support import Database

ENCRYPTION_KEY = base64.b64encode(hashlib.sha256(b"made up for the tests").digest()).decode()

OTHER = AppKey("PSz9y8x7w6v5u4t3s2r1q0p9o8n7m6l5k4j3", base64.b64encode(b"other" * 27).decode())


def stale_token() -> Token:
    """A stale token that is older than 6 h, so that KIS issues a new token."""
    return make_token(left=5 * MINUTE, age=23 * HOUR)


def expired_token() -> Token:
    """An expired token."""
    return make_token(left=-MINUTE, age=24 * HOUR + MINUTE)


def issue_token(sandbox: Sandbox, **variables: str) -> Token:
    """Issue and store the first token of a sandbox, without a child process and without a cache."""
    settings = Settings.from_env({**sandbox.variables, "KIS_TOKEN_CACHE": "off", **variables})
    with open_resolver(settings, time.monotonic(), lambda _: None) as resolver:
        resolution = resolver.resolve()
    assert resolution.source == "oauth"
    return resolution.token


def put_key_end(chain: Chain, end: datetime, service: str = "kis") -> None:
    """Store the end of a slot's key and secret."""
    statement = "update public.api_credentials set expires_at = %s where service_name = %s and credential_type like %s"
    chain.database.owner.execute(statement, [end, service, "app%"])


@dataclass
class Chain:
    """The services and files of one slot's callers. By default, a caller has ACCOUNT's keys and the slot kis."""

    supabase: PostgRESTStandIn
    kis: KISEmulator
    database: Database
    folder: Path
    told: list[str] = field(default_factory=list)
    stores: list[SupabaseStore] = field(default_factory=list)

    def settings(self, **inputs: str) -> Settings:
        """The settings for ``inputs``, which are inputs by their names, with underscores."""
        given = {
            "supabase_url": self.supabase.url,
            "supabase_key": SERVICE_KEY,
            "app_key": ACCOUNT.app_key,
            "app_secret": ACCOUNT.app_secret,
            "base_url": self.kis.production_url,
            "cache_path": str(self.folder / "cache.json"),
            **inputs,
        }
        env = {f"INPUT_{name.upper()}": value for name, value in given.items()}
        return Settings.from_env({**env, "USER": "somebody", "HOSTNAME": "laptop"})

    @property
    def machine(self) -> LocalMachine:
        """The notes of the machine on which all callers run."""
        return LocalMachine(lambda: [self.machine_folder])

    @property
    def machine_folder(self) -> Path:
        """The folder of the machine's notes. The folder is outside of ``folder``, where callers leave other files."""
        return self.folder.with_name(f"{self.folder.name}-machine")

    @property
    def variables(self) -> dict[str, str]:
        """The environment for a program on a machine with the chain's cache."""
        return {
            "SUPABASE_URL": self.supabase.url,
            "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
            "KIS_APP_KEY": ACCOUNT.app_key,
            "KIS_APP_SECRET": ACCOUNT.app_secret,
            "KIS_BASE_URL": self.kis.production_url,
            "KIS_TOKEN_CACHE": str(self.folder / "cache.json"),
        }

    def resolver(self, clock: Clock | None = None, issuer: Issuer | None = None, /, **inputs: str) -> Resolver:
        """The resolver of one caller."""
        settings = self.settings(**inputs)
        clock = clock or self.clock()
        vault = make_vault(settings.encryption_keys)
        deadline = Deadline(clock.monotonic, clock.monotonic() + settings.timeout.total_seconds())
        store = SupabaseStore(settings.supabase_url, settings.supabase_key, left=deadline.left)
        self.stores.append(store)
        return Resolver(
            Context(
                settings,
                store=store,
                cache=make_cache(settings, vault),
                machine=self.machine,
                issuer=issuer or KISIssuer(settings.base_url, settings.environment, left=deadline.left),
                vault=vault,
                clock=clock,
                deadline=deadline,
                tell=self.told.append,
            )
        )

    def resolve(self, clock: Clock | None = None, issuer: Issuer | None = None, /, **inputs: str) -> Resolution:
        """Resolve as one caller."""
        return self.resolver(clock, issuer, **inputs).resolve()

    def replace(self, rejected: Token, issuer: Issuer | None = None, /, **inputs: str) -> Resolution:
        """Replace a rejected token as one caller."""
        resolver = self.resolver(None, issuer, **inputs)
        return resolver.resolve(resolver.look(rejected.token_id))

    def clock(self) -> TurnedClock:
        """A clock whose sleep lets time pass also for the lease and for KIS."""
        clock = TurnedClock()
        clock.on_sleep = self.pass_time
        return clock

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the lease and for KIS."""
        self.database.age(seconds)
        self.kis.advance(seconds)

    def cache(self, **inputs: str) -> FileCache:
        """The cache that callers use."""
        settings = self.settings(**inputs)
        assert settings.cache_path is not None
        return FileCache(settings.cache_path, make_vault(settings.encryption_keys), settings.service_name)

    def cached_id(self) -> str:
        """The fingerprint of the cached token."""
        return self.cache().read().token_id

    def cache_token(self, token: Token) -> None:
        """Put a token into the cache."""
        self.cache().write(token)

    def refuse_issue(self, code: str, times: int = 1) -> None:
        """Let the next tokenP calls end with ``code``."""
        response = error_response(code, TOKEN_PATH)
        self.kis.production.add_fault(Fault("answer", TOKEN_PATH, times, response))

    @property
    def store_calls(self) -> list[str]:
        """The calls of Supabase: read, or the name of a function."""
        return [seen.path.rpartition("/")[2] if "/rpc/" in seen.path else "read" for seen in self.supabase.server.seen]

    @property
    def issue_calls(self) -> int:
        """The number of tokenP calls."""
        return self.kis.counts("production").calls


class WatchedIssuer:
    """The real issuer, with a callback before or after each call."""

    def __init__(
        self, chain: Chain, *, before: Callable[[], object] = bool, after: Callable[[Token], object] = bool
    ) -> None:
        self._issuer = KISIssuer(chain.kis.production_url, "production")
        self._before = before
        self._after = after

    def issue(self, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
        """Call tokenP once."""
        self._before()
        token = self._issuer.issue(app_key, now, may_send)
        self._after(token)
        return token

    def verify(self, token: Token, app_key: AppKey) -> str | None:
        """Verify as KIS does."""
        return self._issuer.verify(token, app_key)


class GivesAgain:
    """An issuer that always returns the same token, as KIS does within 6 hours of an issue."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def issue(self, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
        """Return the earlier token."""
        assert may_send is None or may_send()
        assert (app_key.key_id, self._token.remaining(now) > timedelta()) == (self._token.app_key_id, True)
        return self._token

    def verify(self, token: Token, app_key: AppKey) -> str | None:
        """Accept any token."""
        assert token.app_key_id == app_key.key_id
        return None
