"""The certificates that this project trusts: the same certificates for Supabase, for KIS and for the installers.

These certificates are trusted:

1. the system's certificates or, if SSL_CERT_FILE or SSL_CERT_DIR is set, the certificates that these variables name
2. the certificates that REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE name
3. the certificates of the package certifi if certifi is installed

A connection needs only one trusted certificate, and reading all trusted certificates takes longer than the rest of the
handshake. If the system has a folder of certificates with the links that OpenSSL needs, the first handshake reads only
the needed certificates from this folder (`trusted` with ``quick``).

An empty variable is treated as not set. A variable whose certificates cannot be loaded adds no certificates. If a
handshake fails and the certificates of a variable could not be loaded, the error names the variable.
"""

from __future__ import annotations

import os
import ssl
import sys
from contextlib import suppress
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Variables that replace the system's certificates, and variables that add further certificates.
_REPLACING = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_ADDING = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
VARIABLES = (*_REPLACING, *_ADDING)


class NoTrust(OSError):
    """No TLS connection can be prepared. The text of this exception has the reason."""


def trusted(*, quick: bool = False) -> ssl.SSLContext:
    """Return the context for a TLS connection. Call this function within a block of `no_fork`. Raises NoTrust.

    All threads share one context. If one of the certificate variables has changed, a new context is made. With
    ``quick``, the context may lack certificates that take time to read: the certificates of certifi, and certificates
    that only the system's bundle file contains. If the check of a certificate fails with a context from ``quick``
    and `has_more` is True, the caller tries once more without ``quick``.
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
    """Whether ``trusted()`` can have more certificates than ``trusted(quick=True)``."""
    return _has_certifi() or _take_as_needed(*_variables()) is not None


def forget() -> None:
    """Discard the contexts, so that the next connection reads the certificates again.

    Between a failed check and the next connection, the user may add the missing certificate.
    """
    _load.cache_clear()
    _take_as_needed.cache_clear()


def _variables() -> tuple[str | None, ...]:
    return tuple(map(os.environ.get, (*VARIABLES, "SSLKEYLOGFILE")))


def _has_certifi() -> bool:
    """Whether the package certifi is installed. The fast path of a step runs without packages."""
    from importlib.util import find_spec

    return find_spec("certifi") is not None


@lru_cache(maxsize=1)
def _take_as_needed(*_: str | None) -> ssl.SSLContext | None:
    """Return a context that looks up each needed certificate in the system's folder; None if the folder is not usable.

    OpenSSL finds a certificate in a folder by a link whose name is a hash. In the system's folder, Linux distributions
    make a link for each certificate. The result is None if the folder has no link whose name is a hash, if the system
    is not Linux, or if one of ``VARIABLES`` is in the environment.
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
    """Return the context without certifi's certificates.

    The arguments are the values of the certificate variables. The function uses its arguments only as the key of its
    ``lru_cache``.
    """
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
    # A company's trusted certificate is often an intermediate certificate, or lacks a field of RFC 5280. curl and
    # browsers accept such a certificate. With the default flags, Python before 3.13 does not accept an intermediate
    # certificate as trusted. With the default flags, Python from 3.13 on does not accept a certificate that lacks a
    # field of RFC 5280.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    return context


@lru_cache(maxsize=1)
def _add(context: ssl.SSLContext, file: str) -> ssl.SSLContext:
    with suppress(OSError):
        context.load_verify_locations(file)
    return context


def _load_defaults(context: ssl.SSLContext) -> None:
    """If SSL_CERT_FILE or SSL_CERT_DIR is set to an empty text, load the system's file or folder.

    If SSL_CERT_FILE or SSL_CERT_DIR is empty, OpenSSL itself uses the empty text as a path.
    """
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
