"""Identities: which a pool may use, and what their URLs become."""

import json
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from millpond.control.identities import Identities, IdentityError, StoredIdentity, listed_identities
from millpond.control.specs import PREPARE_ERROR, SpecPreparer
from millpond.domain.pool import Pool
from millpond.staging.shared_access import StorageAccount
from tests.unit.scheduler.world import new_pool

NOW = 1_800_000_000.0
DAY_S = 86400.0
READER = "/subscriptions/S/userAssignedIdentities/Reader"
URL = "https://acct.blob.core.windows.net"
ACCOUNT = StorageAccount("acct", b"key", URL)


def pool(*references: str) -> Pool:
    made = new_pool()
    made.spec["identity"] = {
        "type": "UserAssigned",
        "userAssignedIdentities": [{"resourceId": one} for one in references],
    }
    return made


def known() -> Identities:
    return Identities(
        [
            StoredIdentity(name="reader", resource_id=READER, account=ACCOUNT),
            StoredIdentity(name="signed", signed_url=f"{URL}/box?sig=xyz"),
            StoredIdentity(name="lab", options={"s3://lab": {"access_key_id": "1"}}),
            StoredIdentity(name="any", options={"s3://": {"access_key_id": "2"}}),
            StoredIdentity(name="other", options={"s3://": {"access_key_id": "3"}}),
        ]
    )


def authorized(
    identities: Identities, in_pool: Pool | None, reference: str, url: str, *, container: bool = True
) -> str:
    return identities.authorized(
        in_pool, reference, url, of_container=container, permissions="rl" if container else "r", expires_at=NOW
    )


@pytest.mark.parametrize(
    ("listed", "reference"),
    [
        (READER, READER),
        (READER, READER.upper()),
        (READER, "reader"),
        ("reader", READER),
        ("READER", "Reader"),
        ("/subscriptions/Other/userAssignedIdentities/signed", "signed"),
    ],
)
def test_references_that_are_the_pools(listed: str, reference: str) -> None:
    url = f"{URL}/box"
    assert authorized(known(), pool(listed), reference, url).startswith(f"{url}?")


@pytest.mark.parametrize(
    ("listed", "reference"),
    [((), "reader"), (("signed",), "reader"), (("/subscriptions/Other/x/reader",), "reader"), (("",), "reader")],
)
def test_references_that_are_not(listed: tuple[str, ...], reference: str) -> None:
    with pytest.raises(IdentityError, match="is none of the pool's") as refused:
        authorized(known(), pool(*listed), reference, f"{URL}/box")
    assert not refused.value.denied


def test_without_a_pool_there_is_no_identity() -> None:
    assert listed_identities(None) == []
    assert known().options_for(None) == {}
    with pytest.raises(IdentityError):
        authorized(known(), None, "reader", f"{URL}/box")


def test_an_identity_without_credentials() -> None:
    with pytest.raises(IdentityError, match=r"add \[identities.gone\]") as refused:
        authorized(known(), pool("/x/gone"), "/x/gone", f"{URL}/box")
    assert refused.value.denied


@pytest.mark.parametrize(
    ("name", "url", "container", "words"),
    [
        ("any", "gs://lab/x", True, "is for s3://"),
        (
            "reader",
            "https://elsewhere.blob.core.windows.net/box",
            True,
            "is for https://acct.blob.core.windows.net, not",
        ),
        ("reader", "https://acct.blob.core.windows.net.evil.example/box", True, "is for"),
        ("reader", f"{URL}/box", False, "names no blob"),
        ("reader", URL, True, "names no blob or container"),
        ("signed", f"{URL}/boxes", True, "is for"),
        ("lab", "s3://labs/x", True, "is for s3://lab"),
        ("lab", f"{URL}/box?sig=secret", True, "is for s3://lab"),
    ],
)
def test_urls_an_identity_is_not_for(name: str, url: str, container: bool, words: str) -> None:
    with pytest.raises(IdentityError, match=r"is for|names no") as refused:
        authorized(known(), pool(name), name, url, container=container)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_what_urls_become() -> None:
    in_pool = pool("reader", "signed", "lab")
    signed = urlsplit(authorized(known(), in_pool, "reader", f"{URL}/box/a%20b/c.txt?old=1", container=False))
    query = {name: value for name, (value,) in parse_qs(signed.query).items()}
    assert (signed.path, query["sr"], query["sp"], query["se"]) == (
        "/box/a%20b/c.txt",
        "b",
        "r",
        "2027-01-15T08:00:00Z",
    )
    assert authorized(known(), in_pool, "signed", f"{URL}/box/a") == f"{URL}/box/a?sig=xyz"
    assert authorized(known(), in_pool, "lab", "s3://lab/in") == "s3://lab/in"


def test_what_agents_are_told() -> None:
    options = known().options_for(pool("lab", "any", "other", "reader"))
    assert options == {"s3://lab": {"access_key_id": "1"}, "s3://": {"access_key_id": "2"}}
    assert known().options_for(pool("reader", "signed", "gone")) == {}


def test_secrets_are_not_shown() -> None:
    for one in (StoredIdentity(name="a", account=ACCOUNT), StoredIdentity(name="a", signed_url=f"{URL}?sig=secret")):
        assert "secret" not in repr(one)
        assert "key" not in repr(one)


# --- in specifications ------------------------------------------------------------------------------------------------


def prepare(spec: dict[str, Any], *references: str) -> dict[str, Any]:
    def sign(container: str, permissions: str, expires_at: float) -> str:
        return f"http://s/{container}?{permissions}&{expires_at:.0f}"

    preparer = SpecPreparer(sign, known(), lambda: NOW)
    prepared: dict[str, Any] = json.loads(preparer(json.dumps(spec, separators=(",", ":")).encode(), pool(*references)))
    return prepared


def reference(name: str) -> dict[str, Any]:
    return {"identityReference": {"resourceId": name}}


def output(**more: Any) -> dict[str, Any]:
    return {"filePattern": "*", "destination": {"container": {"containerUrl": f"{URL}/out", **more}}}


def expiry_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["se"][0]


def test_a_specification_with_all_kinds_of_references() -> None:
    prepared = prepare(
        {
            "commandLine": "x",
            "resourceFiles": [
                {"httpUrl": f"{URL}/box/f", "filePath": "f", **reference("reader")},
                {"storageContainerUrl": f"{URL}/box", **reference("reader")},
                {"autoStorageContainerName": "own"},
                {"httpUrl": "https://plain/f", "filePath": "g"},
            ],
            "multiInstanceSettings": {
                "commonResourceFiles": [{"storageContainerUrl": "s3://lab/c", **reference("lab")}]
            },
            "outputFiles": [output(**reference("reader")), output()],
            "constraints": {"maxWallClockTime": "PT24H"},
        },
        "reader",
        "lab",
    )
    assert PREPARE_ERROR not in prepared
    assert "identityReference" not in json.dumps(prepared)
    one, container, own, plain = prepared["resourceFiles"]
    assert one["httpUrl"].startswith(f"{URL}/box/f?")
    assert container["storageContainerUrl"].startswith(f"{URL}/box?")
    assert own == {"storageContainerUrl": f"http://s/own?rl&{NOW + 7 * DAY_S:.0f}"}
    assert plain == {"httpUrl": "https://plain/f", "filePath": "g"}
    assert prepared["multiInstanceSettings"]["commonResourceFiles"] == [{"storageContainerUrl": "s3://lab/c"}]
    signed, unsigned = (one["destination"]["container"]["containerUrl"] for one in prepared["outputFiles"])
    assert parse_qs(urlsplit(signed).query)["sp"] == ["w"]
    assert unsigned == f"{URL}/out"
    # A week to get there, and for what is written back also as long as the command line may run.
    assert expiry_of(one["httpUrl"]) == "2027-01-22T08:00:00Z"
    assert expiry_of(signed) == "2027-01-23T08:00:00Z"


def test_outputs_of_a_task_without_a_limit() -> None:
    prepared = prepare({"outputFiles": [output(**reference("reader"))]}, "reader")
    until = expiry_of(prepared["outputFiles"][0]["destination"]["container"]["containerUrl"])
    assert until == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW + 187 * DAY_S))


@pytest.mark.parametrize(
    ("spec", "listed", "code"),
    [
        ({"resourceFiles": [{"httpUrl": f"{URL}/b/f", **reference("reader")}]}, (), "ResourceContainerListMiscError"),
        ({"resourceFiles": [{"httpUrl": "http://x/b/f", **reference("reader")}]}, ("reader",), "BlobAccessDenied"),
        (
            {"resourceFiles": [{"storageContainerUrl": f"{URL}/b", **reference("gone")}]},
            ("gone",),
            "ResourceContainerAccessDenied",
        ),
        ({"outputFiles": [output(**reference("gone"))]}, ("gone",), "FileUploadAccessDenied"),
        ({"outputFiles": [output(**reference("reader"))]}, (), "ResourceContainerListMiscError"),
    ],
)
def test_what_cannot_be_prepared_fails_on_the_node(spec: dict[str, Any], listed: tuple[str, ...], code: str) -> None:
    assert prepare(spec, *listed)[PREPARE_ERROR]["code"] == code
