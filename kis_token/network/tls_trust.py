"""The certificates that this project trusts: one rule and one context for Supabase, for KIS and for the installers.

1. the system's certificates, or those of SSL_CERT_FILE and SSL_CERT_DIR if these are set
2. in addition, those of REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE
3. in addition, those of the package certifi if it is installed

Most connections need one of these certificates, and reading all takes longer than the rest of the handshake. So the
first try takes them as needed from the system's folder, where there is a prepared one (`trusted`).

An empty variable counts as not set. A variable whose certificates cannot be loaded adds nothing. If a handshake fails,
the error names this variable; if the other certificates are enough, the connection works.
"""

from __future__ import annotations

import os
import ssl
import sys
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


def trusted(*, quick: bool = False) -> ssl.SSLContext:
    """Return the context for a TLS connection. All threads share it; a new one is made if a variable has changed.

    With ``quick``, the context may lack certificates whose reading takes time: those that are only in the system's
    bundle, and certifi's. If a check fails with it, try once more without ``quick``, if `has_more`. Call this within
    `no_fork`. Raises NoTrust.
    """
    variables = _variables()
    if quick:
        return _take_as_needed(*variables) or _load(*variables)
    context = _load(*variables)
    if not _has_certifi():
        return context
    from certifi import where

    return _add(context, where())


def has_more() -> bool:
    """Whether the context without ``quick`` has further certificates."""
    return _has_certifi() or _take_as_needed(*_variables()) is not None


def forget() -> None:
    """Read the certificates again at the next connection: the missing one may be added after a failed check."""
    _load.cache_clear()
    _take_as_needed.cache_clear()


def _variables() -> tuple[str | None, ...]:
    return tuple(map(os.environ.get, (*VARIABLES, "SSLKEYLOGFILE")))


def _has_certifi() -> bool:
    """Whether the package certifi is installed. The fast path of a step has no packages."""
    from importlib.util import find_spec

    return find_spec("certifi") is not None


@lru_cache(maxsize=1)
def _take_as_needed(*_: str | None) -> ssl.SSLContext | None:
    """Return a context that looks up each certificate in the system's folder; None without a prepared folder.

    The folder is prepared if it has links of OpenSSL's names, as Linux distributions make them. A variable that names
    other certificates rules it out.
    """
    folder = ssl.get_default_verify_paths().openssl_capath
    if sys.platform != "linux" or any(name in os.environ for name in VARIABLES) or not _is_prepared(folder):
        return None
    return _make(capath=folder)


def _is_prepared(folder: str) -> bool:
    with suppress(OSError), os.scandir(folder) as entries:
        return any(entry.name.endswith(".0") for entry in entries)
    return False


@lru_cache(maxsize=1)
def _load(*_: str | None) -> ssl.SSLContext:
    """Return the context without certifi's certificates. The cache is valid for one set of values of the variables."""
    context = _make()
    _load_defaults(context)
    for name, path in named(os.environ):
        if name in _ADDING:
            with suppress(OSError, ValueError):
                context.load_verify_locations(**{_kind(path): path})
    return context


def _make(*, capath: str | None = None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(capath=capath)
    except OSError as error:
        if not os.environ.get("SSLKEYLOGFILE"):
            raise NoTrust(f"TLS cannot be prepared ({type(error).__name__})") from None
        raise NoTrust("SSLKEYLOGFILE names a file that cannot be written") from None
    context.set_alpn_protocols(["http/1.1"])
    # Each Python checks as curl and browsers do: a trusted certificate may be an intermediate one, and may lack a field
    # of RFC 5280. Many companies have such a certificate, and Python 3.13 by itself does not accept it.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    return context


@lru_cache(maxsize=1)
def _add(context: ssl.SSLContext, file: str) -> ssl.SSLContext:
    with suppress(OSError):
        context.load_verify_locations(file)
    return context


def _load_defaults(context: ssl.SSLContext) -> None:
    """Load the system's file or folder if its variable is empty. OpenSSL would use the empty value as a path."""
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
