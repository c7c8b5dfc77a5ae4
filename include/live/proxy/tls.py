"""TLS: the deployment's certificate, checked before Envoy gets it, and the listeners' side of it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from include.errors import UserError
from include.live.proxy import private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

CERTIFICATE_SETTING, KEY_SETTING = "HF2TRITON_TLS_CERTIFICATE_FILE", "HF2TRITON_TLS_KEY_FILE"

_API = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_NAME = "certificate"
_END = "-----END CERTIFICATE-----"
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_SHORTEST_RSA = 2048


@dataclass(frozen=True)
class Tls:
    """The certificate chain and the private key of a deployment, two files in PEM."""

    certificate: Path
    key: Path
    file: ClassVar[str] = "tls.json"
    dump: ClassVar[str] = "dynamic_active_secrets"

    def resource(self, _before: dict[str, Any] | None) -> dict[str, Any]:
        """Envoy's secret with the pair that the files have now; raises `PipelineError` if it cannot be used."""
        chain = private.read(self.certificate, CERTIFICATE_SETTING, private=False)
        key = private.read(self.key, KEY_SETTING)
        _check(_first_of(chain, self.certificate), _private(key, self.key), self.certificate)
        pair = {"certificate_chain": _text(chain), "private_key": _text(key)}
        return {"@type": f"{_API}.Secret", "name": _NAME, "tls_certificate": pair}

    def said_of(self, resource: dict[str, Any]) -> str:
        """The line of the log about a new certificate."""
        until = _first_of(certificate_of(resource).encode(), self.certificate).not_valid_after_utc
        return f"the proxy has a certificate that is valid until {until:%Y-%m-%d %H:%M} UTC"


def certificate_of(resource: dict[str, Any]) -> str:
    """The endpoint's certificate, in PEM, in what was published; empty if that is damaged."""
    try:
        chain = str(resource["tls_certificate"]["certificate_chain"]["inline_string"])
    except (LookupError, TypeError):
        return ""
    first, end, _ = chain.partition(_END)
    return first + end


def transport(source: dict[str, Any], name: str, handshake_s: float) -> dict[str, Any]:
    """The part of a listener's filter chain that ends TLS, with the certificate that ``source`` has."""
    context = {
        "@type": f"{_API}.DownstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["h2" if name == "grpc" else "http/1.1"],
            "tls_certificate_sds_secret_configs": [{"name": _NAME, "sds_config": source}],
        },
    }
    return {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "transport_socket_connect_timeout": f"{handshake_s:g}s",
    }


def trust(certificate: str) -> ssl.SSLContext:
    """Trust in this certificate and no other, whatever name it has: this host's own requests go to an address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if certificate:
        context.load_verify_locations(cadata=certificate)
    return context


def _first_of(chain: bytes, path: Path) -> x509.Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        fix = "name a file in PEM: the server's certificate first, then those that it was signed by"
        raise UserError(f"{path} has no certificate", where=CERTIFICATE_SETTING, fix=fix) from None


def _private(key: bytes, path: Path) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        fix = "name a file in PEM with an RSA or ECDSA key, without a password"
        raise UserError(f"{path} has no private key that can be read", where=KEY_SETTING, fix=fix) from None


def _check(first: x509.Certificate, key: PrivateKeyTypes, path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if first.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        fix = f"name the key that belongs to the first certificate of {path}"
        raise UserError(f"the private key does not belong to {path}", where=KEY_SETTING, fix=fix)
    if not _is_taken(key):
        fix = f"use RSA with {_SHORTEST_RSA} bits or more, or ECDSA with curve P-256, P-384 or P-521"
        raise UserError("Envoy takes no private key of this kind", where=KEY_SETTING, fix=fix)
    now = datetime.now(UTC)
    if not first.not_valid_before_utc <= now <= first.not_valid_after_utc:
        term = f"{first.not_valid_before_utc:%Y-%m-%d %H:%M} to {first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        fix = "renew it, or check this host's clock"
        raise UserError(f"{path} is valid only from {term}", where=CERTIFICATE_SETTING, fix=fix)


def _is_taken(key: PrivateKeyTypes) -> bool:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    if isinstance(key, RSAPrivateKey):
        return key.key_size >= _SHORTEST_RSA
    return isinstance(key, EllipticCurvePrivateKey) and key.curve.name in _CURVES


def _text(content: bytes) -> dict[str, str]:
    return {"inline_string": content.decode("utf-8")}
