"""The certificates that this project trusts: one rule and one context for Supabase, for KIS and for the installers.

These certificates are trusted:

1. the system's certificates or, if SSL_CERT_FILE or SSL_CERT_DIR is set, the certificates that these variables name
2. the certificates that REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE name
3. the certificates of the package certifi if certifi is installed

An empty variable counts as not set. A variable whose certificates cannot be loaded adds no certificates. If a handshake
then fails, the error names the variable.
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
    """No TLS connection can be prepared. The text has the reason."""


def trusted(*, certifi: bool = True) -> ssl.SSLContext:
    """Return the context for a TLS connection. Call this function within a block of `no_fork`. Raises NoTrust.

    All threads share one context. If a variable has changed, a new context is made. Without ``certifi``, the context
    lacks certifi's certificates, which take time to read, until a call with ``certifi`` has added them.
    """
    context = _load(*map(os.environ.get, (*VARIABLES, "SSLKEYLOGFILE")))
    if not certifi or not has_certifi():
        return context
    from certifi import where

    return _add(context, where())


def has_certifi() -> bool:
    """Whether the package certifi is installed. The fast path of a step has no packages."""
    from importlib.util import find_spec

    return find_spec("certifi") is not None


def forget() -> None:
    """Discard the context, so that the next connection reads the certificates again.

    Between a failed check and the next connection, the user may add the missing certificate.
    """
    _load.cache_clear()


@lru_cache(maxsize=1)
def _load(*_: str | None) -> ssl.SSLContext:
    """Return the context without certifi's certificates. The variables' values are the arguments, for the cache."""
    try:
        context = ssl.create_default_context()
    except OSError as error:
        if not os.environ.get("SSLKEYLOGFILE"):
            raise NoTrust(f"TLS cannot be prepared ({type(error).__name__})") from None
        raise NoTrust("SSLKEYLOGFILE names a file that cannot be written") from None
    context.set_alpn_protocols(["http/1.1"])
    # A trusted certificate may be an intermediate one, and may lack a field of RFC 5280. curl and browsers accept both,
    # and many companies have such a certificate. Python 3.13 does not accept it with the default flags.
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
    """Load the system's file or folder if its variable is set to an empty text, which OpenSSL would use as a path."""
    paths = ssl.get_default_verify_paths()
    for name, path in zip(_REPLACING, (paths.openssl_cafile, paths.openssl_capath), strict=True):
        if os.environ.get(name) == "":
            with suppress(OSError):
                context.load_verify_locations(**{_kind(path): path})


def named(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each variable that is set, with each path that it names."""
    for name in VARIABLES:
        value = env.get(name, "")
        for path in value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]:
            if path:
                yield name, path


def _kind(path: str) -> str:
    return "capath" if os.path.isdir(path) else "cafile"  # noqa: PTH112 - pathlib costs time
