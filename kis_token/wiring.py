"""The chain put together from its real parts: what the action, the command and the client start from."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kis_token.cache import make_cache
from kis_token.clock import SystemClock
from kis_token.kis import KISIssuer
from kis_token.resolver import Resolver
from kis_token.sealing import make_vault
from kis_token.supabase import SupabaseCredentialManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.config import Settings


#: What is left of the timeout for handing out and saying goodbye.
MARGIN_SECONDS = 1.0


@contextmanager
def open_resolver(settings: Settings, started: float, tell: Callable[[str], None]) -> Iterator[Resolver]:
    """The chain for these settings; its connections are closed on the way out.

    ``started`` is when the work began, by time.monotonic: the settings' timeout counts from there. ``tell`` gets lines
    for people who wait.
    """
    vault = make_vault(settings.encryption_keys)
    store = SupabaseCredentialManager(settings.supabase_url, settings.supabase_key)
    try:
        yield Resolver(
            settings,
            store=store,
            cache=make_cache(settings, vault),
            issuer=KISIssuer(settings.base_url, settings.environment),
            vault=vault,
            clock=SystemClock(),
            deadline=started + settings.timeout.total_seconds() - MARGIN_SECONDS,
            tell=tell,
        )
    finally:
        store.close()
