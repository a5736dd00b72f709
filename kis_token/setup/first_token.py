"""Prove that the set-up works: get the token twice. The second call must get the token from Supabase."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.token import KST
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from kis_token.config import Settings
    from kis_token.core.resolution import Resolution
    from kis_token.setup.dialogue import State
    from kis_token.setup.options import Setup


def get_twice(setup: Setup, settings: Settings) -> list[tuple[State, str]]:
    """Get the token two times, each time in the same way as any other caller.

    Return one line about each call, with the token's fingerprint. Raises KisTokenError.
    """
    first, second = _get(setup, settings), _get(setup, settings)
    end = f"{first.token.expires_at.astimezone(KST):%Y-%m-%d %H:%M} KST"
    is_same = first.token.token_id == second.token.token_id
    return [
        ("new" if first.refreshed else "ok", f"{first.source}, {first.token.token_id}, valid until {end}"),
        ("ok", f"{second.source}, {'the same token' if is_same else second.token.token_id}"),
    ]


def _get(setup: Setup, settings: Settings) -> Resolution:
    with open_resolver(settings, setup.clock.monotonic(), setup.dialogue.warn, setup.clock) as resolver:
        resolution = resolver.resolve()
    for warning in resolution.warnings:
        setup.dialogue.warn(f"warning: {warning}")
    return resolution
