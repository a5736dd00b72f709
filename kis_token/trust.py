"""Which certificates this project trusts: one rule and one context for Supabase, for KIS and for the installers.

1. the system's certificates, or those of SSL_CERT_FILE and SSL_CERT_DIR where these are set
2. in addition, those of REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE
3. in addition, those of the package certifi where it is installed

A variable that is set to nothing counts as not set. A variable whose certificates cannot be loaded adds nothing. It is
named when a handshake fails; a connection that the other certificates vouch for works without it.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Variables that replace the system's certificates, and variables that add to them.
_REPLACING = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_ADDING = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
VARIABLES = (*_REPLACING, *_ADDING)

#: The names by which OpenSSL finds the certificates of a folder.
_HASHED = r"[0-9a-f]{8}\.\d+"

#: Windows' name of the purpose that a server's certificate is for.
_SERVER = "1.3.6.1.5.5.7.3.1"


class NoTrust(OSError):
    """No TLS connection can be prepared. The text says why."""


def trusted() -> ssl.SSLContext:
    """The context for a TLS connection. Shared by all threads, and made anew when a variable has changed.

    Call it within `no_fork`. Raises NoTrust.
    """
    context = _load(*map(os.environ.get, (*VARIABLES, "SSLKEYLOGFILE")))
    try:
        import certifi  # not on the fast path, which has no packages
    except ImportError:
        return context
    return _add(context, certifi.where())


def forget() -> None:
    """Read the certificates again at the next connection: after a failed check somebody may add the missing one."""
    _load.cache_clear()


def describe(error: ssl.SSLError) -> str:
    """Why a handshake failed, in OpenSSL's fixed words, and which variables cannot be used. No text of the peer's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
    else:
        said = f"{type(error).__name__} {error.reason or ''}".rstrip()
    return "; ".join([said, *unusable()])


def unusable() -> list[str]:
    """For each variable whose certificates cannot be loaded, a clause that names it and says why."""
    reasons = [(name, _why_unusable(name, path)) for name, path in _named(os.environ)]
    return [f"{name} {why}" for name, why in reasons if why is not None]


def in_use() -> list[str]:
    """The variables that are set."""
    return list(dict.fromkeys(name for name, _ in _named(os.environ)))


def collect(env: Mapping[str, str], more: Iterable[str]) -> bytes:
    """The certificates that ``env`` has this project trust, without certifi's, as one file in PEM form.

    ``more`` are further files and folders.
    """
    paths = ssl.get_default_verify_paths()
    places = dict.fromkeys(filter(None, [*(path for _, path in _named(env)), *more]))
    if not env.get("SSL_CERT_FILE"):
        places[paths.openssl_cafile] = None
    if not env.get("SSL_CERT_DIR"):
        places[paths.openssl_capath] = None
    blocks: dict[bytes, None] = {}
    for place in places:
        for file in _files_of(Path(place)):
            with suppress(OSError):
                blocks.update(dict.fromkeys(_blocks_of(file.read_bytes())))
    blocks.update(dict.fromkeys(_of_windows()))
    return b"\n".join([*blocks, b""]) if blocks else b""


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
    for name, path in _named(os.environ):
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


def _named(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that are set, with each path that they name."""
    for name in VARIABLES:
        value = env.get(name, "")
        for path in value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]:
            if path:
                yield name, path


def _kind(path: str) -> str:
    return "capath" if os.path.isdir(path) else "cafile"  # noqa: PTH112 - pathlib costs time


def _why_unusable(name: str, path: str) -> str | None:
    """Why a variable adds no certificates; None when it does."""
    wanted = "folder" if name == "SSL_CERT_DIR" else "file"
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116 - it says why there is none
            return "names a folder, not a file" if name == "SSL_CERT_FILE" else _why_unusable_folder(Path(path))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (FileNotFoundError, NotADirectoryError):
        return f"names a {wanted} that does not exist"
    except ssl.SSLError:
        return "names a file without certificates in PEM form"
    except (OSError, ValueError) as error:
        return f"names a {wanted} that cannot be read ({type(error).__name__})"
    return None


def _why_unusable_folder(folder: Path) -> str | None:
    is_prepared = any(re.fullmatch(_HASHED, each.name) for each in folder.iterdir())
    return None if is_prepared else "names a folder that the command openssl rehash has not prepared"


def _files_of(place: Path) -> list[Path]:
    """The files that OpenSSL reads at a path."""
    try:
        if place.is_dir():
            return sorted(each for each in place.iterdir() if re.fullmatch(_HASHED, each.name))
    except OSError:
        return []
    return [place]


def _blocks_of(text: bytes) -> list[bytes]:
    """The certificates of a file in PEM form, without anything else that it holds, such as a key."""
    return re.findall(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----.*?-----END [A-Z0-9 ]+-----", text, re.DOTALL)


def _of_windows() -> list[bytes]:
    """The certificates of Windows' own store; none elsewhere."""
    if sys.platform != "win32":
        return []
    return [
        ssl.DER_cert_to_PEM_cert(certificate).strip().encode()
        for store in ("ROOT", "CA")
        for certificate, form, trust in ssl.enum_certificates(store)
        if form == "x509_asn" and (trust is True or _SERVER in trust)
    ]
