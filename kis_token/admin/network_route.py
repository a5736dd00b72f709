"""Check the variables that name proxies and certificates for requests to Supabase and KIS."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kis_token.admin.finding import Finding, ok, wrong
from kis_token.network.proxies import ProxyFault, find_proxy
from kis_token.network.trusted_certificates import in_use, unusable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.config import Settings


def examine_route(settings: Settings) -> Iterator[Finding]:
    """Check the variables for proxies and certificates. If Supabase and KIS both have http URLs, skip the check."""
    hosts = {"Supabase": settings.supabase_url, "KIS": settings.base_url}
    encrypted = {name: urlsplit(url) for name, url in hosts.items() if url.startswith("https:")}
    if not encrypted:
        return
    for name, parts in encrypted.items():
        with suppress(ProxyFault):  # the check that sends a request reports a ProxyFault
            proxy = find_proxy(parts.hostname or "", parts.port or 443)
            if proxy is not None:
                yield ok("proxy", f"requests to {name} use the proxy in {proxy.source}")
    for said in unusable():
        yield wrong("certificates", said, "Correct the variable, or remove it.")
    if in_use() and not unusable():
        yield ok("certificates", f"the certificates of {', '.join(in_use())} are trusted")
