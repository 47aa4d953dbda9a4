"""`wisp certs`: a certificate authority of one's own, for people who have none."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wisp.errors import ConfigError
from wisp.files import write_together

# How long certificates hold, in days. Chosen: a device is replaced before the authority is, and who
# forgets to renew notices within about a year.
CA_DAYS, LEAF_DAYS = 3650, 397
# For clocks that are behind. Chosen: a day, within which a wrong time zone is.
_SKEW = timedelta(days=1)


class Authority:
    """Its certificate and key lie in a folder; who has the key can make anybody's identity."""

    def __init__(self, folder: Path) -> None:
        """Makes one where there is none yet. Raises ConfigError if the folder cannot be used."""
        self.folder = folder
        self.cert_path, self._key_path = folder / "ca.pem", folder / "ca-key.pem"
        try:
            if not self.cert_path.exists():
                self._make()
            self._cert = x509.load_pem_x509_certificate(self.cert_path.read_bytes())
            key = serialization.load_pem_private_key(self._key_path.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder} holds no authority that can be used: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{self._key_path} is no key that `wisp certs` made")
        self._key = key

    def issue(self, name: str, hosts: Sequence[str] = (), *, days: float = LEAF_DAYS) -> list[Path]:
        """A certificate and its key, for a server with these hosts, or for an edge of this name.

        Returns their paths. The name is the identity that a server knows an edge by. Raises
        ConfigError if they cannot be written; then those of before are what they were.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(name, self._cert.subject, key, days)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        paths = [self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"]
        try:
            _write_pair(paths[0], cert, paths[1], key)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.folder}: {error.strerror}") from error
        return paths

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "WISP CA")])
        builder = _builder("WISP CA", name, key, CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        cert = builder.sign(key, hashes.SHA256())
        _write_pair(self.cert_path, cert, self._key_path, key)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(days=days)) - _SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_pair(
    cert_path: Path, cert: x509.Certificate, key_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = cert.public_bytes(serialization.Encoding.PEM)
    write_together([(key_path, content, 0o600), (cert_path, public, 0o666)])
