"""Finds unusable certificate variables, and collects all certificates that `tls_trust` trusts in one PEM text.

If a connection succeeds, this module is not imported.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.network.tls_trust import named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The names of the files that OpenSSL reads in a folder of certificates.
_HASHED = r"[0-9a-f]{8}\.\d+"

#: The object identifier by which Windows names the purpose "server authentication" of a certificate.
_SERVER = "1.3.6.1.5.5.7.3.1"


def describe(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason for a failed handshake, and a clause for each unusable certificate variable.

    The result contains no text of the peer.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
    else:
        said = f"{type(error).__name__} {error.reason or ''}".rstrip()
    return "; ".join([said, *unusable()])


def unusable() -> list[str]:
    """Return, for each variable whose certificates cannot be loaded, a clause with its name and the reason."""
    reasons = [(name, _why_unusable(name, path)) for name, path in named(os.environ)]
    return [f"{name} {why}" for name, why in reasons if why is not None]


def in_use() -> list[str]:
    """Return the names of those certificate variables that are set."""
    return list(dict.fromkeys(name for name, _ in named(os.environ)))


def collect(env: Mapping[str, str], more: Iterable[str]) -> bytes:
    """Return the certificates that this project trusts with ``env``, in PEM form, without the certificates of certifi.

    ``more`` are further files and folders. The result is b"" if there are no certificates.
    """
    paths = ssl.get_default_verify_paths()
    places = dict.fromkeys(filter(None, [*(path for _, path in named(env)), *more]))
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


def _why_unusable(name: str, path: str) -> str | None:
    """Return the reason why a variable adds no certificates; None if the variable adds certificates."""
    wanted = "folder" if name == "SSL_CERT_DIR" else "file"
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116 - the error of os.stat has the reason
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
    """Return the files that OpenSSL reads for ``place``, a path from a certificate variable such as SSL_CERT_FILE."""
    try:
        if place.is_dir():
            return sorted(each for each in place.iterdir() if re.fullmatch(_HASHED, each.name))
    except OSError:
        return []
    return [place]


def _blocks_of(text: bytes) -> list[bytes]:
    """Return the certificates of a file in PEM form, without its other contents, such as a key."""
    return re.findall(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----.*?-----END [A-Z0-9 ]+-----", text, re.DOTALL)


def _of_windows() -> list[bytes]:
    """Return the certificates of the certificate store of Windows; on other systems, an empty list."""
    if sys.platform != "win32":
        return []
    return [
        ssl.DER_cert_to_PEM_cert(certificate).strip().encode()
        for store in ("ROOT", "CA")
        for certificate, form, trust in ssl.enum_certificates(store)
        if form == "x509_asn" and (trust is True or (trust is not False and _SERVER in trust))
    ]
