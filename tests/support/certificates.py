"""Certificates and their private keys, made on the spot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NAME = "model.example"


def ecdsa() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def weak() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)


def of_another_kind() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def certificate(
    key: CertificateIssuerPrivateKeyTypes,
    name: str = NAME,
    signed_by: tuple[str, CertificateIssuerPrivateKeyTypes] | None = None,
    days: tuple[int, int] = (-1, 30),
) -> bytes:
    """A certificate in PEM, signed by itself if by no other; ``days`` from now are the first and last of its term."""
    issuer, signer = signed_by or (name, key)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        key.public_key(),
        x509.random_serial_number(),
        now + timedelta(days=days[0]),
        now + timedelta(days=days[1]),
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    if name != NAME:  # an authority
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    kind = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, kind).public_bytes(Encoding.PEM)


def pem(key: CertificateIssuerPrivateKeyTypes, password: bytes = b"") -> bytes:
    kind = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, kind)


def write_pair(directory: Path, chain: bytes | None = None, key: bytes | None = None) -> tuple[Path, Path]:
    """Writes a pair as one does by hand, a new one unless it is given; returns the paths of its files."""
    private = ecdsa()
    paths = directory / "tls.crt", directory / "tls.key"
    for path, content in zip(paths, (chain or certificate(private), key or pem(private)), strict=True):
        path.touch(0o600)
        path.write_bytes(content)
    return paths
