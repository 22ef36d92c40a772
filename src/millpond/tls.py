"""TLS: a certificate authority of the service's own, and certificates from it or of the operator's.

Below the data directory, all made at the first start with TLS and used again:

    tls/ca.crt            the authority's certificate: what clients are told to trust
    tls/ca.key            its key, mode 0600; whoever has it can pretend to be any site to who trusts the authority
    tls/server.crt, .key  the service's own, made again when its names change or its end comes near
    tls/ca-bundle.pem     what the machine trusts, and the authority: for clients that take one file
    tls/truststore.p12    the authority for Java, password `millpond`

Needs the extra `tls` (the library cryptography).
"""

import contextlib
import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUSTSTORE_PASSWORD: Final = "millpond"  # noqa: S105  a certificate is no secret; Java wants a password
_CA_LIFE: Final = datetime.timedelta(days=3650)
_LIFE: Final = datetime.timedelta(days=397)
"""The longest that all clients accept."""
_RENEW_BEFORE: Final = datetime.timedelta(days=60)
_SKEW: Final = datetime.timedelta(hours=1)
"""Clocks of clients may be behind."""
_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


class TlsError(Exception):
    """The certificates cannot be used. The text is one line that says why and what to do."""


class TlsFiles(NamedTuple):
    """Paths of what the server needs and of what its clients are to trust."""

    certificate: str
    key: str
    host: str
    """A name or address in the certificate by which this machine reaches the service."""
    authority: str = ""
    """Certificate of the authority to trust; empty when the machine trusts it already."""
    bundle: str = ""
    """What the machine trusts and that authority, in one file; empty as above."""
    truststore: str = ""
    """The authority for Java; empty where it is not of our making."""


def own_certificates(directory: Path, names: Sequence[str], now: datetime.datetime) -> TlsFiles:
    """Certificates by the authority in `directory`, made as far as they are missing or no longer good.

    `names` are the host names and addresses the service is reached by, the one for this machine first. Raises TlsError.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        authority = Authority.of(directory, now)
        authority.issue(directory, names, now)
        authority.write_trust(directory)
    except OSError as error:
        raise TlsError(f"{directory} cannot be used ({error.strerror}); make it writable, or remove it") from error
    return TlsFiles(
        certificate=str(directory / "server.crt"),
        key=str(directory / "server.key"),
        host=names[0],
        authority=str(directory / "ca.crt"),
        bundle=str(directory / "ca-bundle.pem"),
        truststore=str(directory / "truststore.p12"),
    )


def given_certificates(
    certificate: str, key: str, authority: str, directory: Path, host: str, now: datetime.datetime
) -> TlsFiles:
    """The operator's own: PEM files, the certificate with what stands between it and its authority.

    `authority` is a file of certificates to trust beside the machine's; empty when the machine trusts it already. `host`
    is how clients reach the service: used if the certificate names it, else the first it names. Raises TlsError.
    """
    chain, names = _chain_of(certificate), []
    leaf = chain[0]
    with contextlib.suppress(x509.ExtensionNotFound):
        names = _names_of(leaf)
    if not names:
        raise TlsError(f"{certificate} names no host (subjectAltName); have one made that does")
    if now > leaf.not_valid_after_utc:
        raise TlsError(f"{certificate} ended on {leaf.not_valid_after_utc:%Y-%m-%d}; have it renewed")
    if now < leaf.not_valid_before_utc:
        raise TlsError(f"{certificate} begins on {leaf.not_valid_before_utc:%Y-%m-%d} only; is the clock right?")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise TlsError(
            f"{certificate} and {key} do not go together ({reason}); name the key it was made for"
        ) from error
    concrete = [name for name in names if not name.startswith("*")]
    reached_by = host if _covers(names, host) or not concrete else concrete[0]
    if not authority:
        return TlsFiles(certificate, key, reached_by)
    _chain_of(authority)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        bundle = directory / "given-bundle.pem"
        _write(bundle, _system_bundle() + Path(authority).read_bytes(), 0o644)
    except OSError as error:
        raise TlsError(f"{directory} cannot be used ({error.strerror}); make it writable") from error
    return TlsFiles(certificate, key, reached_by, os.path.abspath(authority), str(bundle))


def names_of_service(host: str, account: str, further: Iterable[str]) -> list[str]:
    """What the service's certificate names: the loopback names, where it listens, the machine, the account's host name,
    and what the operator adds. The first is how this machine reaches it."""
    names = ["127.0.0.1", "localhost", "::1", socket.gethostname().lower(), f"{account}.localhost"]
    if not _is_wildcard(host):
        names.insert(0, host)
    return list(dict.fromkeys([*names, *(name.strip().lower() for name in further if name.strip())]))


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


class Authority(NamedTuple):
    """A certificate authority, kept in a directory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def of(cls, directory: Path, now: datetime.datetime) -> "Authority":
        """The one in the directory, or a new one: when there is none, or its end is near. Raises TlsError, OSError."""
        certificate_path, key_path = directory / "ca.crt", directory / "ca.key"
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        except FileNotFoundError:
            return cls.create(certificate_path, key_path, now)
        except (ValueError, TypeError) as error:
            raise TlsError(
                f"{certificate_path} or ca.key beside it is damaged; put it back from a copy, or remove both and "
                "have clients trust the new one"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise TlsError(f"{key_path} is not the key of {certificate_path}; put it back from a copy, or remove both")
        if certificate.not_valid_after_utc - now <= _LIFE:
            return cls.create(certificate_path, key_path, now)
        return cls(certificate, key)

    @classmethod
    def create(cls, certificate_path: Path, key_path: Path, now: datetime.datetime) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Millpond"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Millpond local authority ({socket.gethostname()})"[:64]),
            ]
        )
        certificate = (
            _builder(name, name, key, now, _CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The key first: a certificate is never there without it.
        _write(key_path, _pem(key), 0o600)
        _write(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return cls(certificate, key)

    def issue(self, directory: Path, names: Sequence[str], now: datetime.datetime) -> None:
        """See to a certificate of these names in the directory, `server.crt`, and its key, `server.key`: made unless
        those there are good."""
        certificate_path, key_path = directory / "server.crt", directory / "server.key"
        if self._is_good(certificate_path, key_path, names, now):
            return
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        identifier = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            _builder(subject, self.certificate.subject, key, now, _LIFE)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        with contextlib.suppress(FileNotFoundError):
            certificate_path.unlink()
        _write(key_path, _pem(key), 0o600)
        _write(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)

    def write_trust(self, directory: Path, further: bytes = b"") -> None:
        """Write `ca-bundle.pem` (what the machine trusts, this authority, and `further` certificates) and
        `truststore.p12` into the directory."""
        certificate = self.certificate.public_bytes(serialization.Encoding.PEM)
        _write(directory / "ca-bundle.pem", _system_bundle() + certificate + further, 0o644)
        entry = PKCS12Certificate(self.certificate, b"millpond")
        store = pkcs12.serialize_java_truststore(
            [entry], serialization.BestAvailableEncryption(TRUSTSTORE_PASSWORD.encode())
        )
        _write(directory / "truststore.p12", store, 0o644)

    def _is_good(self, certificate_path: Path, key_path: Path, names: Sequence[str], now: datetime.datetime) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            certificate.verify_directly_issued_by(self.certificate)
            named = set(_names_of(certificate))
        except (FileNotFoundError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        return (
            isinstance(key, ec.EllipticCurvePrivateKey)
            and key.public_key() == certificate.public_key()
            and named == set(names)
            and certificate.not_valid_before_utc <= now
            and certificate.not_valid_after_utc - now > _RENEW_BEFORE
        )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now - _SKEW + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_of(certificate: x509.Certificate) -> list[str]:
    """Raises x509.ExtensionNotFound."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _covers(names: Sequence[str], host: str) -> bool:
    _, _, domain = host.partition(".")
    return host in names or (bool(domain) and f"*.{domain}" in names)


def _chain_of(path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(Path(path).read_bytes())
    except OSError as error:
        raise TlsError(f"{path} cannot be read ({error.strerror}); name a PEM file of certificates") from error
    except ValueError as error:
        raise TlsError(f"{path} is no PEM file of certificates; name one that is") from error


def _system_bundle() -> bytes:
    """The certificates this machine trusts; empty where they lie in no one file."""
    for path in (ssl.get_default_verify_paths().cafile, *_SYSTEM_BUNDLES):
        with contextlib.suppress(OSError, TypeError):
            content = Path(path or "").read_bytes()
            return content if content.endswith(b"\n") else content + b"\n"
    return b""


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that a reader sees the whole of it or the one before."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
    temporary.chmod(mode)
    temporary.replace(path)
