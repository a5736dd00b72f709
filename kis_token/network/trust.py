"""Which certificates this project trusts: one rule and one context for Supabase, for KIS and for the installers.

1. the system's certificates, or those of SSL_CERT_FILE and SSL_CERT_DIR where these are set
2. in addition, those of REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE
3. in addition, those of the package certifi where it is installed

A variable that is set to nothing counts as not set. A variable whose certificates cannot be loaded adds nothing. It is
named when a handshake fails; a connection that the other certificates vouch for works without it.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Variables that replace the system's certificates, and variables that add to them.
_REPLACING = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_ADDING = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
VARIABLES = (*_REPLACING, *_ADDING)


class NoTrust(OSError):
    """No TLS connection can be prepared. The text says why."""


def trusted(*, certifi: bool = True) -> ssl.SSLContext:
    """The context for a TLS connection. Shared by all threads, and made anew when a variable has changed.

    Without ``certifi`` those certificates are missing until a call has asked for them: reading them takes time.
    Call it within `no_fork`. Raises NoTrust.
    """
    context = _load(*map(os.environ.get, (*VARIABLES, "SSLKEYLOGFILE")))
    if not certifi or not has_certifi():
        return context
    from certifi import where

    return _add(context, where())


def has_certifi() -> bool:
    """Whether the package is installed. It is not on the fast path, which has no packages."""
    from importlib.util import find_spec

    return find_spec("certifi") is not None


def forget() -> None:
    """Read the certificates again at the next connection: after a failed check somebody may add the missing one."""
    _load.cache_clear()


@lru_cache(maxsize=1)
def _load(*_: str | None) -> ssl.SSLContext:
    """The context without certifi's certificates, kept for one set of values of the variables."""
    try:
        context = ssl.create_default_context()
    except OSError as error:
        if not os.environ.get("SSLKEYLOGFILE"):
            raise NoTrust(f"TLS cannot be prepared ({type(error).__name__})") from None
        raise NoTrust("SSLKEYLOGFILE names a file that cannot be written") from None
    context.set_alpn_protocols(["http/1.1"])
    # As curl and browsers check, on each Python: the certificate that is trusted may be an intermediate one, and one
    # that lacks a field of RFC 5280 is good. Python 3.13 would refuse the latter, which many companies have.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    _load_defaults(context)
    for name, path in named(os.environ):
        if name in _ADDING:
            with suppress(OSError, ValueError):
                context.load_verify_locations(**{_kind(path): path})
    return context


@lru_cache(maxsize=1)
def _add(context: ssl.SSLContext, file: str) -> ssl.SSLContext:
    with suppress(OSError):
        context.load_verify_locations(file)
    return context


def _load_defaults(context: ssl.SSLContext) -> None:
    """The system's file and folder where a variable is set to nothing, which OpenSSL takes for a path."""
    paths = ssl.get_default_verify_paths()
    for name, path in zip(_REPLACING, (paths.openssl_cafile, paths.openssl_capath), strict=True):
        if os.environ.get(name) == "":
            with suppress(OSError):
                context.load_verify_locations(**{_kind(path): path})


def named(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that are set, with each path that they name."""
    for name in VARIABLES:
        value = env.get(name, "")
        for path in value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]:
            if path:
                yield name, path


def _kind(path: str) -> str:
    return "capath" if os.path.isdir(path) else "cafile"  # noqa: PTH112 - pathlib costs time
