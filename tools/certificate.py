"""A certificate for https servers on loopback, for tests and benchmarks."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_HOUR = timedelta(hours=1)


def make_certificate(folder: Path) -> tuple[str, ssl.SSLContext]:
    """Make a self-signed certificate for 127.0.0.1, valid for an hour.

    Returns the path of the certificate, and the TLS context for a server.
    """
    now = datetime.now(timezone.utc)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _HOUR)
        .not_valid_after(now + _HOUR)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return str(path), context


def make_hashed_folder(certificate: str, folder: Path) -> Path:
    """Make a folder with ``certificate`` under the name that OpenSSL looks up, as ``openssl rehash`` does."""
    content = Path(certificate).read_bytes()
    # OpenSSL hashes the canonical form of the subject, without the ASN.1 header of the sequence. A subject in lower
    # case is in canonical form.
    subject = x509.load_pem_x509_certificate(content).subject.public_bytes()[2:]
    digest = hashlib.sha1(subject, usedforsecurity=False).digest()
    folder.mkdir()
    (folder / f"{int.from_bytes(digest[:4], 'little'):08x}.0").write_bytes(content)
    return folder
