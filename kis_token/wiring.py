"""Connects the store, the cache and KIS to one chain, for the action, the command and the client."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from kis_token.clock import SystemClock
from kis_token.core.context import Context
from kis_token.core.resolver import Resolver
from kis_token.core.retry import Retry
from kis_token.deadline import Deadline, usable
from kis_token.kis.api import KISIssuer
from kis_token.local.cache import make_cache
from kis_token.local.machine_lock import local_machine
from kis_token.store.sealing import make_vault
from kis_token.store.supabase import SupabaseStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.config import Settings
    from kis_token.core.ports import Clock


_CLOCK = SystemClock()


@contextmanager
def open_store(
    settings: Settings, started: float, tell: Callable[[str], None], clock: Clock = _CLOCK
) -> Iterator[SupabaseStore]:
    """Open the store for these settings. A failed call of the store is repeated for some seconds.

    The arguments have the same meaning as in `open_resolver`.
    """
    left = _deadline(settings, started, clock).left
    with closing(_make_store(settings, left, Retry(clock, left, tell))) as store:
        yield store


@contextmanager
def open_public_store(settings: Settings, public_key: str, clock: Clock = _CLOCK) -> Iterator[SupabaseStore]:
    """Open the store with the project's public key. A failed call is not repeated."""
    left = _deadline(settings, clock.monotonic(), clock).left
    with closing(SupabaseStore(settings.supabase_url, public_key, left=left)) as store:
        yield store


@contextmanager
def open_resolver(
    settings: Settings,
    started: float,
    tell: Callable[[str], None],
    clock: Clock = _CLOCK,
    *,
    mask: Callable[[str], None] = lambda _: None,
) -> Iterator[Resolver]:
    """Open the chain for these settings. The end of the block closes the chain's connections.

    ``started`` is the time at which the work began, a value of the clock's counter (``time.monotonic`` by default). The
    timeout in the settings counts from ``started``. ``tell`` gets a line for the log when the call has to wait.
    ``mask`` gets each secret that the chain obtains, such as an ID token, before the secret is used.
    """
    deadline, vault = _deadline(settings, started, clock), make_vault(settings.encryption_keys)
    issuer = KISIssuer(settings.base_url, settings.environment, left=deadline.left)
    store = _make_store(settings, deadline.left, mask=mask)
    cache, machine = make_cache(settings, vault), local_machine()
    with closing(store), closing(issuer):
        yield Resolver(Context(settings, store, cache, machine, issuer, vault, clock, deadline, tell))


def _make_store(
    settings: Settings,
    left: Callable[[], float],
    retry: Retry | None = None,
    mask: Callable[[str], None] = lambda _: None,
) -> SupabaseStore:
    url, key = settings.supabase_url, settings.supabase_key
    if settings.id_token_request is None:
        return SupabaseStore(url, key, left=left, retry=retry)
    from kis_token.store.id_token import IDTokens  # only jobs without a key need this module
    from kis_token.store.keyless_store import KeylessStore

    return KeylessStore(url, key, IDTokens(settings.id_token_request, url, left, mask), left=left, retry=retry)


def _deadline(settings: Settings, started: float, clock: Clock) -> Deadline:
    return Deadline(clock.monotonic, started + usable(settings.timeout.total_seconds()))
