"""The chain put together from its real parts: what the action, the command and the client start from."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from kis_token.cache import make_cache
from kis_token.clock import SystemClock
from kis_token.kis import KISIssuer
from kis_token.limits import usable
from kis_token.resolver import Resolver
from kis_token.sealing import make_vault
from kis_token.supabase import SupabaseStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.clock import Clock
    from kis_token.config import Settings


_CLOCK = SystemClock()


@contextmanager
def open_store(settings: Settings, started: float, clock: Clock = _CLOCK) -> Iterator[SupabaseStore]:
    """The shared store for these settings; its connections are closed on the way out. ``started`` as below."""
    deadline = _deadline(settings, started)
    store = SupabaseStore(settings.supabase_url, settings.supabase_key, left=lambda: deadline - clock.monotonic())
    try:
        yield store
    finally:
        store.close()


@contextmanager
def open_resolver(
    settings: Settings, started: float, tell: Callable[[str], None], clock: Clock = _CLOCK
) -> Iterator[Resolver]:
    """The chain for these settings; its connections are closed on the way out.

    ``started`` is when the work began, by the clock's counter (time.monotonic, unless another clock is given): the
    settings' timeout counts from there. ``tell`` gets lines for people who wait.
    """
    deadline = _deadline(settings, started)
    vault = make_vault(settings.encryption_keys)
    issuer = KISIssuer(settings.base_url, settings.environment, left=lambda: deadline - clock.monotonic())
    with open_store(settings, started, clock) as store, closing(issuer):
        yield Resolver(
            settings,
            store=store,
            cache=make_cache(settings, vault),
            issuer=issuer,
            vault=vault,
            clock=clock,
            deadline=deadline,
            tell=tell,
        )


def _deadline(settings: Settings, started: float) -> float:
    return started + usable(settings.timeout.total_seconds())
