"""Staging when storage fails: a blob server that is killed and comes back, TLS that is not trusted, hosts that are not
there, disks that are full; the same codes whichever client meets them."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.blob import BlobStaging
from millpond.staging.local import LocalStaging
from millpond.staging.retries import Retries
from millpond.staging.router import StagingRouter
from tests.servers.http import HttpServer, silent, status
from tests.waiting import until_true, until_unconnected

if TYPE_CHECKING:
    from tests.servers.azurite import Azurite
    from tests.servers.moto import MotoS3

C = TaskFailureCode
QUICK = Retries(attempts=3, backoff_s=0.01)


async def failure_of(work: Awaitable[object]) -> TaskFailure:
    with pytest.raises(TaskFailure) as caught:
        await work
    shown = [caught.value.message, *caught.value.details.values()]
    assert not [text for text in shown if "sig=" in text or "secret" in text], "a secret is told"
    return caught.value


# --- the server goes away and comes back ----------------------------------------------------------------------------


async def test_transfers_outlive_a_killed_server(new_azurite: "Callable[[], Azurite]", tmp_path: Path) -> None:
    server = new_azurite()
    container = server.new_container()
    data = os.urandom(1 << 20) * 48
    server.put(container, "big", data)
    (tmp_path / "up").write_bytes(data)
    # In order, so that its tables are on disk: a crash below loses nothing older.
    server.stop()
    server.start()
    url = server.container_url(container)
    staging = StagingRouter(retries=Retries(attempts=200, backoff_s=0.1, longest_s=0.3))
    down = asyncio.ensure_future(staging.fetch(staging.file_url(url, "big"), str(tmp_path / "down")))
    await until_true(lambda: [name for name in os.listdir(tmp_path) if name.startswith("down.")])
    await asyncio.to_thread(server.kill)
    up = asyncio.ensure_future(staging.put(str(tmp_path / "up"), url, "again", {}))
    await asyncio.to_thread(server.start)
    fetched = await down
    await up
    await staging.close()
    assert fetched is not None
    assert fetched.size == len(data)
    assert (tmp_path / "down").read_bytes() == data
    assert server.read(container, "again") == data
    assert sorted(os.listdir(tmp_path)) == ["down", "up"]


async def test_nobody_is_there(tmp_path: Path, unused_tcp_port: int) -> None:
    staging = StagingRouter(
        retries=QUICK,
        credentials={"s3://b": {"endpoint": f"http://127.0.0.1:{unused_tcp_port}", "allow_http": "true", "region": "x",
                                "access_key_id": "id", "secret_access_key": "secret"}},
    )  # fmt: skip
    (tmp_path / "a").write_bytes(b"x")
    for container in (f"http://127.0.0.1:{unused_tcp_port}/c?sv=1&sig=x", "s3://b"):
        failure = await failure_of(staging.fetch(staging.file_url(container, "a"), str(tmp_path / "x")))
        assert (failure.code, failure.details["Reason"]) == (C.BLOB_DOWNLOAD_MISC_ERROR, "Connection")
        failure = await failure_of(staging.put(str(tmp_path / "a"), container, "a", {}))
        assert (failure.code, failure.details["Reason"]) == (C.FILE_UPLOAD_MISC_ERROR, "Connection")
        failure = await failure_of(staging.list(container, ""))
        assert (failure.code, failure.details["Reason"]) == (C.RESOURCE_CONTAINER_LIST_MISC_ERROR, "Connection")
    await staging.close()
    assert os.listdir(tmp_path) == ["a"]


async def test_a_host_that_has_no_address(tmp_path: Path) -> None:
    staging = StagingRouter(retries=QUICK)
    failure = await failure_of(staging.fetch("http://no-such-host.invalid/a?sig=x", str(tmp_path / "x")))
    await staging.close()
    assert (failure.code, failure.details["Reason"]) == (C.BLOB_DOWNLOAD_MISC_ERROR, "NameResolution")
    assert "no-such-host.invalid" in failure.message


# --- TLS ------------------------------------------------------------------------------------------------------------


async def test_a_certificate_that_is_not_trusted(azurite_https: "Azurite", tmp_path: Path) -> None:
    url = azurite_https.container_url(azurite_https.new_container())
    staging = StagingRouter(
        retries=QUICK, credentials={azurite_https.endpoint: {"account_key": azurite_https.key, "endpoint": azurite_https.endpoint,
                                                             "account_name": azurite_https.account}},
    )  # fmt: skip
    for container in (url, url.partition("?")[0]):
        failure = await failure_of(staging.fetch(staging.file_url(container, "a"), str(tmp_path / "x")))
        assert (failure.code, failure.details["Reason"]) == (C.BLOB_DOWNLOAD_MISC_ERROR, "TLS")
        assert "certificate is not trusted" in failure.message
    await staging.close()
    await until_unconnected()


async def test_an_authority_of_ones_own(azurite_https: "Azurite", tmp_path: Path) -> None:
    container = azurite_https.new_container()
    azurite_https.put(container, "a", b"abc")
    options = {
        "account_key": azurite_https.key,
        "endpoint": azurite_https.endpoint,
        "account_name": azurite_https.account,
    }
    staging = StagingRouter(retries=QUICK, ca_file=azurite_https.ca_path, credentials={azurite_https.endpoint: options})
    for url in (azurite_https.container_url(container), f"{azurite_https.endpoint}/{container}"):
        await staging.fetch(staging.file_url(url, "a"), str(tmp_path / "x"))
        assert (tmp_path / "x").read_bytes() == b"abc"
        (tmp_path / "x").unlink()
    await staging.close()
    await until_unconnected()


# --- what the server says -------------------------------------------------------------------------------------------


async def test_a_signature_that_has_expired_is_named(azurite: "Azurite", tmp_path: Path) -> None:
    url = azurite.container_url(azurite.new_container(), valid_s=-60)
    staging = StagingRouter(retries=QUICK)
    failure = await failure_of(staging.fetch(staging.file_url(url, "a"), str(tmp_path / "x")))
    await staging.close()
    assert failure.code is C.BLOB_ACCESS_DENIED
    assert "expired at 20" in failure.message
    assert failure.details["SignatureExpiry"].endswith("Z")


@pytest.mark.parametrize(
    ("code", "fetch", "listing", "put"),
    [
        (401, C.BLOB_ACCESS_DENIED, C.RESOURCE_CONTAINER_ACCESS_DENIED, C.FILE_UPLOAD_ACCESS_DENIED),
        (403, C.BLOB_ACCESS_DENIED, C.RESOURCE_CONTAINER_ACCESS_DENIED, C.FILE_UPLOAD_ACCESS_DENIED),
        (404, C.BLOB_NOT_FOUND, C.RESOURCE_CONTAINER_NOT_FOUND, C.FILE_UPLOAD_CONTAINER_NOT_FOUND),
        (410, C.BLOB_NOT_FOUND, C.RESOURCE_CONTAINER_NOT_FOUND, C.FILE_UPLOAD_CONTAINER_NOT_FOUND),
        (409, C.BLOB_DOWNLOAD_MISC_ERROR, C.RESOURCE_CONTAINER_LIST_MISC_ERROR, C.FILE_UPLOAD_CONFLICT),
        (412, C.BLOB_DOWNLOAD_MISC_ERROR, C.RESOURCE_CONTAINER_LIST_MISC_ERROR, C.FILE_UPLOAD_CONFLICT),
        (429, C.BLOB_DOWNLOAD_MISC_ERROR, C.RESOURCE_CONTAINER_LIST_MISC_ERROR, C.FILE_UPLOAD_MISC_ERROR),
        (500, C.BLOB_DOWNLOAD_MISC_ERROR, C.RESOURCE_CONTAINER_LIST_MISC_ERROR, C.FILE_UPLOAD_MISC_ERROR),
        (503, C.BLOB_DOWNLOAD_MISC_ERROR, C.RESOURCE_CONTAINER_LIST_MISC_ERROR, C.FILE_UPLOAD_MISC_ERROR),
        (504, C.BLOB_DOWNLOAD_TIMED_OUT, C.RESOURCE_CONTAINER_LIST_TIMED_OUT, C.FILE_UPLOAD_TIMED_OUT),
    ],
)
async def test_statuses(http_server: HttpServer, tmp_path: Path, code: int, fetch: C, listing: C, put: C) -> None:
    error = status(code, "<Error><Code>SomeReason</Code></Error>")
    http_server.on("/bucket", error)
    http_server.on("/bucket/a", error)
    (tmp_path / "a").write_bytes(b"x")
    options = {"endpoint": http_server.url, "allow_http": "true", "region": "x", "access_key_id": "id",
               "secret_access_key": "secret"}  # fmt: skip
    staging = StagingRouter(retries=QUICK, credentials={"s3://bucket": options})
    for container in (f"{http_server.url}/bucket?sv=1&sig=x", "s3://bucket"):
        failures = [
            await failure_of(staging.fetch(staging.file_url(container, "a"), str(tmp_path / "x"))),
            await failure_of(staging.list(container, "")),
            await failure_of(staging.put(str(tmp_path / "a"), container, "a", {})),
        ]
        assert [failure.code for failure in failures] == [fetch, listing, put]
        assert {failure.details["HttpStatus"] for failure in failures} == {str(code)}
    await staging.close()


async def test_silence_of_a_signed_storage(http_server: HttpServer, tmp_path: Path) -> None:
    http_server.on("/bucket/a", silent)
    options = {"endpoint": http_server.url, "allow_http": "true", "skip_signature": "true", "region": "x"}
    staging = BlobStaging({"s3://bucket": options}, retries=QUICK, silence_s=0.2)
    failure = await failure_of(staging.fetch("s3://bucket/a", str(tmp_path / "x")))
    assert failure.code is C.BLOB_DOWNLOAD_TIMED_OUT


# --- full disks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 40_000_000], ids=str)
async def test_full_disk(
    azurite: "Azurite", moto_s3: "MotoS3", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    container, bucket = azurite.new_container(), moto_s3.new_bucket()
    azurite.put(container, "a", bytes(size))
    moto_s3.put(bucket, "a", bytes(size))
    options = {key: str(value) for key, value in moto_s3.options.items()}
    staging = StagingRouter(retries=QUICK, credentials={"s3://": {**options, "allow_http": "true"}})
    real_open = os.open

    def full(path: str, flags: int, mode: int = 0o777, **rest: int) -> int:
        return (
            real_open("/dev/full", os.O_WRONLY) if str(path).endswith(".part") else real_open(path, flags, mode, **rest)
        )

    monkeypatch.setattr(os, "open", full)
    for url in (azurite.container_url(container), f"s3://{bucket}"):
        failure = await failure_of(staging.fetch(staging.file_url(url, "a"), str(tmp_path / "x")))
        assert failure.code is C.DISK_FULL
    await staging.close()
    assert os.listdir(tmp_path) == []


# --- which URL goes where -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["ftp://host/a", "mem://a", "nothing", "s3://", "az:///a", "s3://user@b/a", "http://[::1"]
)
async def test_urls_nobody_knows(tmp_path: Path, url: str) -> None:
    staging = StagingRouter(retries=QUICK)
    failure = await failure_of(staging.fetch(url, str(tmp_path / "x")))
    await staging.close()
    assert failure.code is C.BLOB_DOWNLOAD_MISC_ERROR


async def test_google_cloud_is_asked_where_the_operator_says(http_server: HttpServer, tmp_path: Path) -> None:
    """No server speaks its protocol here: only that requests are made of its URLs."""
    account = (
        '{"gcs_base_url": "%s", "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}'
    )
    options = {"service_account_key": account % http_server.url, "allow_http": "true"}
    staging = StagingRouter(retries=QUICK, credentials={"gs://bucket": options})
    failure = await failure_of(staging.fetch("gs://bucket/a/b%20c", str(tmp_path / "x")))
    await staging.close()
    assert failure.code is C.BLOB_NOT_FOUND
    assert "/bucket/a" in http_server.requests[0].path


async def test_credentials_that_cannot_be_used(tmp_path: Path) -> None:
    staging = BlobStaging({"s3://b": {"no_such_option": "secret"}})
    failure = await failure_of(staging.fetch("s3://b/a", str(tmp_path / "x")))
    assert "credentials" in failure.message


async def test_directories_are_closed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "open" / "link").symlink_to(tmp_path / "file")
    closed, opened = LocalStaging(), LocalStaging([str(tmp_path / "open")])
    for staging, url in (
        (closed, f"file://{tmp_path}/file"),
        (opened, f"file://{tmp_path}/file"),
        (opened, f"file://{tmp_path}/open/../file"),
        (opened, f"file://{tmp_path}/open/link"),
        (opened, f"file://{tmp_path}/opener"),
    ):
        failure = await failure_of(staging.fetch(url, str(tmp_path / "x")))
        assert failure.code is C.BLOB_ACCESS_DENIED
    failure = await failure_of(opened.put(str(tmp_path / "file"), f"file://{tmp_path}/open", "../x", {}))
    assert failure.code is C.FILE_UPLOAD_ACCESS_DENIED
    assert sorted(os.listdir(tmp_path)) == ["file", "open"]
