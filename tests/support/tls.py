"""A certificate authority and server certificates for 127.0.0.1, made anew for each run."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM
LOCAL: tuple[x509.GeneralName, ...] = (
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.DNSName("localhost"),
)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "portside-tests-ca") -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._name = _name(name)
        own = self._certificate(self._name, self._key.public_key(), days=2).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.pem = own.sign(self._key, hashes.SHA256()).public_bytes(PEM)

    def _certificate(
        self, subject: x509.Name, public: rsa.RSAPublicKey, *, days: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=30))
            .not_valid_after(now + datetime.timedelta(days=days))
        )

    def sign(
        self,
        common_name: str = "127.0.0.1",
        names: tuple[x509.GeneralName, ...] = LOCAL,
        *,
        days: float = 60,
    ) -> tuple[bytes, bytes]:
        """A certificate and its key as PEM; without `names` it has no list of names at all."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        made = self._certificate(_name(common_name), key.public_key(), days=days)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        form = serialization.PrivateFormat.TraditionalOpenSSL
        private = key.private_bytes(PEM, form, serialization.NoEncryption())
        return made.sign(self._key, hashes.SHA256()).public_bytes(PEM), private


def make_certificates(
    folder: Path,
    authority: Authority | None = None,
    common_name: str = "127.0.0.1",
    names: tuple[x509.GeneralName, ...] = LOCAL,
    *,
    days: float = 60,
) -> Path:
    """Writes ca.pem, server-cert.pem and server-key.pem (mode 0600) and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = authority or Authority()
    certificate, key = authority.sign(common_name, names, days=days)
    (folder / "ca.pem").write_bytes(authority.pem)
    (folder / "server-cert.pem").write_bytes(certificate)
    private = folder / "server-key.pem"
    private.touch(mode=0o600)
    private.write_bytes(key)
    return folder
