"""Signatures of Azure Blob accounts, against those of Azure's own library."""

import base64
import datetime as dt
from urllib.parse import parse_qs, urlsplit

import azure.storage.blob._shared_access_signature
import pytest
from azure.storage.blob import generate_blob_sas, generate_container_sas
from azure.storage.blob._shared.shared_access_signature import SharedAccessSignature

from millpond.staging import shared_access
from millpond.staging.shared_access import StorageAccount, account_at, account_of

KEY = base64.b64encode(b"secret" * 8).decode()
ACCOUNT = account_at("https://acct.blob.core.windows.net/", KEY)
UNTIL = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _of_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's library knows only the newest version of the protocol; what is signed has not changed since ours."""
    monkeypatch.setattr(azure.storage.blob._shared_access_signature, "X_MS_VERSION", shared_access.SAS_VERSION)


def query_of(text: str) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(text, strict_parsing=True).items()}


@pytest.mark.parametrize("permissions", ["r", "w", "rl", "lr", "ldwr"])
def test_a_containers_signature(permissions: str) -> None:
    ordered = "".join(letter for letter in "rwdl" if letter in permissions)
    theirs = generate_container_sas("acct", "box", KEY, permission=ordered, expiry=UNTIL)
    url = ACCOUNT.sign("box", None, permissions, UNTIL.timestamp() + 0.9)
    assert url.startswith("https://acct.blob.core.windows.net/box?")
    assert query_of(urlsplit(url).query) == query_of(theirs)


@pytest.mark.parametrize("blob", ["a", "deep/a b.txt", "é#?%+&="])
def test_a_blobs_signature(blob: str) -> None:
    theirs = generate_blob_sas("acct", "box", blob, account_key=KEY, permission="r", expiry=UNTIL)
    assert query_of(urlsplit(ACCOUNT.sign("box", blob, "r", UNTIL.timestamp())).query) == query_of(theirs)


def test_the_accounts_signature() -> None:
    signer = SharedAccessSignature("acct", KEY, x_ms_version=shared_access.SAS_VERSION)
    theirs = signer.generate_account("b", "c", "cw", UNTIL)
    assert query_of(ACCOUNT.account_query("cw", "c", UNTIL.timestamp())) == query_of(theirs)


def test_connection_strings_there_and_back() -> None:
    for endpoint in ("https://acct.blob.core.windows.net", "http://127.0.0.1:10000/acct"):
        account = StorageAccount("acct", b"secret", endpoint)
        assert account_of(account.connection_string) == account
    assert account_of(f"AccountName=acct;AccountKey={KEY}") == ACCOUNT
    china = account_of(f"AccountName=acct;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn;")
    assert china.endpoint == "https://acct.blob.core.chinacloudapi.cn"
    assert account_at("http://127.0.0.1:1/devstoreaccount1", KEY).name == "devstoreaccount1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "AccountName=acct",
        f"AccountKey={KEY}",
        "AccountName=acct;AccountKey=not base64!",
        "AccountName=acct;SharedAccessSignature=sv=1",
        "UseDevelopmentStorage=true",
        f"AccountName=Bad-Name;AccountKey={KEY}",
        f"AccountName=acct;AccountKey={KEY};BlobEndpoint=ftp://x",
        f"AccountName=acct;AccountKey={KEY};BlobEndpoint=https://x/acct/container",
    ],
)
def test_what_is_no_connection_string(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|no name|not known") as error:
        account_of(text)
    assert KEY not in str(error.value)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(ACCOUNT)
    assert shared_access.SAS_VERSION in ACCOUNT.sign("box", None, "r", 0)
