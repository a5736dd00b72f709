"""Functions that return the findings of ``kis-token check`` for the tests of the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.admin.check import examine
from kis_token.kis.api import KISIssuer
from kis_token.store.supabase import SupabaseStore
from tests.support import TurnedClock

if TYPE_CHECKING:
    from kis_token.admin.finding import Finding
    from tests.resolver_harness import Chain


def findings(chain: Chain, *, clock: TurnedClock | None = None, **inputs: str) -> dict[str, list[Finding]]:
    """Return the findings of ``kis-token check`` by checked part."""
    settings = chain.settings(**inputs)
    store = SupabaseStore(settings.supabase_url, settings.supabase_key)
    chain.stores.append(store)
    issuer = KISIssuer(settings.base_url, settings.environment)
    found: dict[str, list[Finding]] = {}
    for finding in examine(settings, store, issuer, clock or TurnedClock()):
        found.setdefault(finding.what, []).append(finding)
    return found


def faults(found: dict[str, list[Finding]]) -> list[tuple[str, str]]:
    """Return each wrong part with its error code, or "" without a code. Assert that each wrong finding has a remedy."""
    wrong = [finding for each in found.values() for finding in each if finding.state == "wrong"]
    assert all(finding.remedy for finding in wrong)
    return [(finding.what, finding.code) for finding in wrong]
