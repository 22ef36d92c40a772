"""Certificates of the service's own making, and the operator's."""

import datetime
import os
import shutil
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from millpond.tls import TlsError, TlsFiles, given_certificates, names_of_service, own_certificates

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
NAMES = ["127.0.0.1", "localhost", "::1"]


def own(tmp_path: Path, names: list[str] | None = None, now: datetime.datetime = NOW) -> TlsFiles:
    return own_certificates(tmp_path / "tls", names or NAMES, now)


def content(*paths: str) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths]


def shake_hands(files: TlsFiles, host: str, *, bundle: str | None = None) -> None:
    """A client that trusts the bundle meets a server with the certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=bundle or files.bundle)
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True):
                pass
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=host):
            pass
    finally:
        near.close()
        thread.join()


@pytest.mark.parametrize("host", NAMES)
def test_clients_that_trust_the_authority_are_content(tmp_path: Path, host: str) -> None:
    shake_hands(own(tmp_path), host)


def test_nobody_else_is_content(tmp_path: Path) -> None:
    files = own(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch"):
        shake_hands(files, "example.org")
    other = own_certificates(tmp_path / "other", NAMES, NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed"):
        shake_hands(files, "localhost", bundle=other.bundle)


def test_what_is_good_is_kept(tmp_path: Path) -> None:
    files = own(tmp_path)
    before = content(files.certificate, files.key, files.authority)
    again = own(tmp_path, now=NOW + 300 * DAY)
    assert again == files
    assert content(files.certificate, files.key, files.authority) == before


@pytest.mark.parametrize(("names", "later"), [([*NAMES, "batch.example.org"], 0 * DAY), (NAMES, 350 * DAY)])
def test_the_certificate_is_made_again_but_not_the_authority(
    tmp_path: Path, names: list[str], later: datetime.timedelta
) -> None:
    files = own(tmp_path)
    certificate, authority = content(files.certificate, files.authority)
    own(tmp_path, names, NOW + later)
    assert content(files.authority) == [authority]
    assert content(files.certificate) != [certificate]
    made = x509.load_pem_x509_certificate(Path(files.certificate).read_bytes())
    alternatives = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in alternatives] == names
    assert made.not_valid_after_utc > NOW + later + 390 * DAY


def test_the_authority_is_made_again_in_its_last_year(tmp_path: Path) -> None:
    files = own(tmp_path)
    authority = content(files.authority)
    own(tmp_path, now=NOW + 3300 * DAY)
    assert content(files.authority) != authority
    made = x509.load_pem_x509_certificate(Path(files.certificate).read_bytes())
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(Path(files.authority).read_bytes()))


def test_a_key_of_another_certificate_is_noticed(tmp_path: Path) -> None:
    files = own(tmp_path)
    own_certificates(tmp_path / "other", NAMES, NOW)
    shutil.copy(tmp_path / "other" / "server.key", files.key)
    own(tmp_path)
    shake_hands(files, "localhost")
    shutil.copy(tmp_path / "other" / "ca.key", tmp_path / "tls" / "ca.key")
    with pytest.raises(TlsError, match=r"ca\.key is not the key of .*; put it back"):
        own(tmp_path)
    (tmp_path / "tls" / "ca.crt").write_text("nonsense")
    with pytest.raises(TlsError, match=r"ca\.crt or ca\.key beside it is damaged; put it back"):
        own(tmp_path)


def test_keys_are_private(tmp_path: Path) -> None:
    files = own(tmp_path)
    for path in (files.key, str(tmp_path / "tls" / "ca.key")):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_the_names_of_a_service() -> None:
    names = names_of_service("0.0.0.0", "acct", ["Batch.Example.org ", "", "localhost"])  # the wildcard is no name
    assert names == [
        "127.0.0.1",
        "localhost",
        "::1",
        socket.gethostname().lower(),
        "acct.localhost",
        "batch.example.org",
    ]
    assert names_of_service("10.1.2.3", "acct", [])[0] == "10.1.2.3"


# --- the operator's own ---------------------------------------------------------------------------------------------


def given(tmp_path: Path, files: TlsFiles, host: str = "127.0.0.1", *, now: datetime.datetime = NOW) -> TlsFiles:
    directory = tmp_path / "data"
    return given_certificates(files.certificate, files.key, files.authority, directory, host, now)


def test_a_given_certificate_is_reached_by_a_name_it_has(tmp_path: Path) -> None:
    files = own(tmp_path, ["*.example.org", "batch.example.org", "10.0.0.5"])
    taken = given(tmp_path, files)
    assert taken.host == "batch.example.org"
    assert given(tmp_path, files, "other.example.org").host == "other.example.org"
    assert given(tmp_path, files, "10.0.0.5").host == "10.0.0.5"
    shake_hands(taken, "batch.example.org")


def test_a_given_certificate_that_machines_trust_needs_no_bundle(tmp_path: Path) -> None:
    files = own(tmp_path)
    taken = given_certificates(files.certificate, files.key, "", tmp_path / "data", "localhost", NOW)
    assert (taken.authority, taken.bundle, taken.host) == ("", "", "localhost")


def test_a_given_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    files, other = own(tmp_path), own_certificates(tmp_path / "other", NAMES, NOW)
    with pytest.raises(TlsError, match=r"do not go together .*; name the key it was made for"):
        given(tmp_path, files._replace(key=other.key))
    with pytest.raises(TlsError, match=r"ended on \d{4}-\d\d-\d\d; have it renewed"):
        given(tmp_path, files, now=NOW + 500 * DAY)
    with pytest.raises(TlsError, match=r"begins on .* only; is the clock right"):
        given(tmp_path, files, now=NOW - 500 * DAY)
    with pytest.raises(TlsError, match=r"cannot be read .*; name a PEM file"):
        given(tmp_path, files._replace(certificate=str(tmp_path / "none")))
    with pytest.raises(TlsError, match=r"is no PEM file of certificates"):
        given(tmp_path, files._replace(certificate=files.key))
    with pytest.raises(TlsError, match=r"names no host"):
        given(tmp_path, files._replace(certificate=files.authority))
