"""Every kind of storage that staging reaches, each with a container of its own."""

import base64
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from millpond.staging.auto_storage import sign_url
from millpond.staging.base import Staging
from millpond.staging.retries import Retries
from millpond.staging.router import StagingRouter
from tests.conftest import MillpondProcess

if TYPE_CHECKING:
    from tests.servers.azurite import Azurite
    from tests.servers.moto import MotoS3

RETRIES = Retries(attempts=4, backoff_s=0.01)


class Place(Protocol):
    """A container, as staging and as its owner see it."""

    url: str
    """Its URL, for reading, writing, listing."""
    missing_url: str
    """That of a container that is not there, with the same authority where there is such a thing."""
    forbidden_url: str
    """Its URL without the authority to use it; empty where that cannot be."""
    keeps_headers: bool
    staging: Staging

    def attributes(self, name: str) -> dict[str, str]:
        """What is known of a file: content type, cache control, and metadata `run`."""
        ...


class AzuritePlace:
    """Azure Blob, by a container URL with a SAS."""

    keeps_headers = True

    def __init__(self, server: "Azurite") -> None:
        self._server = server
        self._container = server.new_container()
        self.url = server.container_url(self._container, "racwl")
        self.missing_url = server.container_url("not-there", "racwl")
        self.forbidden_url = server.container_url(self._container, "racwl", valid_s=-60)
        self.staging = StagingRouter(retries=RETRIES, ca_file=server.ca_path)

    def attributes(self, name: str) -> dict[str, str]:
        with self._server.client() as client, client.get_blob_client(self._container, name) as blob:
            facts = blob.get_blob_properties()
        settings = facts.content_settings
        return {"type": settings.content_type, "cache": settings.cache_control, **facts.metadata}


class AzureByKeyPlace(AzuritePlace):
    """Azure Blob by the operator's account key: obstore."""

    def __init__(self, server: "Azurite") -> None:
        super().__init__(server)
        self.url = f"{server.endpoint}/{self._container}"
        self.missing_url = f"{server.endpoint}/not-there"
        self.forbidden_url = f"{server.endpoint}/{server.new_container()}"
        options = {"account_name": server.account, "endpoint": server.endpoint, "allow_http": "true"}
        wrong = base64.b64encode(b"wrong").decode()
        self.staging = StagingRouter(
            retries=RETRIES,
            credentials={
                server.endpoint: {**options, "account_key": server.key},
                self.forbidden_url: {**options, "account_key": wrong},
            },
        )


class S3Place:
    """A bucket and a prefix in it, by the operator's keys: obstore."""

    keeps_headers = True
    forbidden_url = ""
    """moto asks nobody for his rights."""

    def __init__(self, server: "MotoS3") -> None:
        self._server = server
        self._bucket = server.new_bucket()
        self.url = f"s3://{self._bucket}/some/prefix"
        self.missing_url = "s3://not-there/some/prefix"
        options = {key: str(value) for key, value in server.options.items()}
        self.staging = StagingRouter(retries=RETRIES, credentials={"s3://": {**options, "allow_http": "true"}})

    def attributes(self, name: str) -> dict[str, str]:
        _, found = self._server.read(self._bucket, f"some/prefix/{name}")
        return {"type": found["Content-Type"], "cache": found["Cache-Control"], "run": found["run"]}


class AutoStoragePlace:
    """The service's own storage, by signed URLs."""

    keeps_headers = False

    def __init__(self, service: MillpondProcess) -> None:
        key = base64.b64decode(service.key)

        def sign(container: str, lives_s: float) -> str:
            return sign_url(service.endpoint, service.account, key, container, None, "rwl", time.time() + lives_s)

        container = f"test-{uuid.uuid4().hex}"
        (service.data_dir / "storage" / container).mkdir(parents=True)
        self.url = sign(container, 600)
        self.missing_url = sign("not-there", 600)
        self.forbidden_url = sign(container, -60)
        self.staging = StagingRouter(retries=RETRIES)

    def attributes(self, name: str) -> dict[str, str]:
        raise NotImplementedError


class DirectoryPlace:
    """A directory that the operator opened."""

    keeps_headers = False

    def __init__(self, directory: Path) -> None:
        (directory / "open" / "container").mkdir(parents=True)
        (directory / "closed").mkdir()
        self.url = f"file://{directory}/open/container"
        self.missing_url = f"file://{directory}/open/not-there"
        self.forbidden_url = f"file://{directory}/closed"
        self.staging = StagingRouter(directories=[os.fspath(directory / "open")])

    def attributes(self, name: str) -> dict[str, str]:
        raise NotImplementedError


Maker = Callable[[Callable[[str], object], Path], Place]
"""Of a place, by the fixtures of servers (by name) and a directory."""

PLACES: dict[str, Maker] = {
    "auto-storage": lambda server, directory: AutoStoragePlace(server("service")),
    "azurite": lambda server, directory: AzuritePlace(server("azurite")),
    "azurite-https": lambda server, directory: AzuritePlace(server("azurite_https")),
    "azure-by-key": lambda server, directory: AzureByKeyPlace(server("azurite")),
    "s3": lambda server, directory: S3Place(server("moto_s3")),
    "directory": lambda server, directory: DirectoryPlace(directory),
}
