"""The servers of the tests are what they say they are, as their own clients see them."""

import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient

from tests.servers.http import HttpServer, body, file, status

if TYPE_CHECKING:
    from tests.servers.azurite import Azurite
    from tests.servers.moto import MotoS3


def test_azurite_gives_what_a_signature_allows(azurite: "Azurite") -> None:
    container = azurite.new_container()
    azurite.put(container, "in/a", b"abc")
    with ContainerClient.from_container_url(azurite.container_url(container, "rl")) as client:
        assert list(client.list_blob_names()) == ["in/a"]
        assert client.download_blob("in/a").readall() == b"abc"
    with (
        ContainerClient.from_container_url(azurite.container_url(container, "rl", valid_s=-60)) as client,
        pytest.raises(HttpResponseError, match="AuthorizationFailure"),
    ):
        list(client.list_blob_names())
    with urllib.request.urlopen(azurite.blob_url(container, "in/a"), timeout=30) as answer:
        assert answer.read() == b"abc"


def test_azurite_by_https(azurite_https: "Azurite") -> None:
    container = azurite_https.new_container()
    azurite_https.put(container, "a", b"abc")
    assert azurite_https.read(container, "a") == b"abc"
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(azurite_https.blob_url(container, "a"), timeout=30)


def test_azurite_comes_back_where_it_was(new_azurite: "Callable[[], Azurite]") -> None:
    server = new_azurite()
    url = server.endpoint
    container = server.new_container()
    server.put(container, "a", b"abc")
    server.stop()
    server.start()
    assert server.endpoint == url
    assert server.read(container, "a") == b"abc"


def test_moto(moto_s3: "MotoS3") -> None:
    bucket = moto_s3.new_bucket()
    moto_s3.put(bucket, "in/a", b"abc")
    data, attributes = moto_s3.read(bucket, "in/a")
    assert (data, attributes["Content-Type"]) == (b"abc", "binary/octet-stream")


def test_scripted_answers(http_server: HttpServer) -> None:
    url = http_server.on("/a", status(503), body(b"abc"))
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(url, timeout=30)
    for _ in range(2):
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.read() == b"abc"
    ranged = urllib.request.Request(http_server.on("/b", file(b"0123456", ETag='"1"')), headers={"Range": "bytes=5-"})
    with urllib.request.urlopen(ranged, timeout=30) as answer:
        assert (answer.status, answer.read()) == (206, b"56")
    assert [one.path for one in http_server.requests] == ["/a", "/a", "/a", "/b"]
