"""A company's certificate authority: its own certificate, the certificates that it signs, and its servers."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

HOUR = timedelta(hours=1)
PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Authority:
    """A certificate authority.

    ``file`` is the authority's certificate in PEM form. ``chain`` has this certificate and the intermediate ones above
    it, without the root.
    """

    file: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of the authority's files."""
        return self.file.parent

    def below(self, name: str) -> Authority:
        """Return an authority whose certificate this authority has signed, and whose servers send that certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(name, key, self, _of_an_authority(is_strict=True))
        return _store(self.folder / f"{name}.pem", certificate, key, chain=(certificate, *self.chain))

    def server(self, host: str = "127.0.0.1", *, begins: timedelta = -HOUR, ends: timedelta = HOUR) -> ssl.SSLContext:
        """Return the context of a server for ``host``, with a certificate that this authority has signed."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.SubjectAlternativeName([name]), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
        ]
        certificate = _sign(host, key, self, extensions, (begins, ends))
        path = self.folder / f"server-{host}.pem"
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(b"".join([private, *(each.public_bytes(PEM) for each in (certificate, *self.chain))]))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def make_authority(folder: Path, name: str = "company", *, is_strict: bool = True) -> Authority:
    """Make a root authority. If ``is_strict`` is False, its certificate lacks extensions that RFC 5280 requires."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    return _store(folder / f"{name}.pem", _sign(name, key, None, _of_an_authority(is_strict=is_strict)), key)


def _store(
    file: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, chain: tuple[x509.Certificate, ...] = ()
) -> Authority:
    file.write_bytes(certificate.public_bytes(PEM))
    return Authority(file, certificate, key, chain)


def _of_an_authority(*, is_strict: bool) -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.BasicConstraints(ca=True, path_length=None), is_strict)]


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Authority | None,
    extensions: list[tuple[x509.ExtensionType, bool]],
    life: tuple[timedelta, timedelta] = (-HOUR, HOUR),
) -> x509.Certificate:
    now = datetime.now(timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.certificate.subject if issuer is not None else subject
    builder = (
        x509.CertificateBuilder(signer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + life[0])
        .not_valid_after(now + life[1])
    )
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    return builder.sign(issuer.key if issuer is not None else key, hashes.SHA256())
