"""Containers of the account's storage, as the example needs them: by azure-storage-blob, or by URLs Millpond signs."""

import base64
import json
import os
import shutil
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from azure.storage.blob import BlobServiceClient, generate_blob_sas, generate_container_sas

from millpond.staging.auto_storage import sign_url

VARIABLES = ("AZURE_BATCH_ENDPOINT", "AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ACCESS_KEY")
CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
LIVES = timedelta(hours=2)
"""How long the signed URLs are good."""


class Container(Protocol):
    def upload(self, name: str, path: Path) -> None: ...

    def download(self, name: str, path: Path) -> None: ...

    def names(self) -> list[str]: ...

    def url(self, permissions: str, name: str | None = None) -> str:
        """The URL of a blob, or of the container, signed for that and no more (r read, w write, l list)."""
        ...


def open_container(name: str) -> Container:
    """One where the account's storage is; made if need be."""
    connection_string = os.environ.get(CONNECTION_STRING)
    return BlobContainer(connection_string, name) if connection_string else OwnContainer(name)


class BlobContainer:
    """A container of an Azure Blob account, Azurite's among them."""

    def __init__(self, connection_string: str, name: str) -> None:
        self._client = BlobServiceClient.from_connection_string(connection_string).create_container(name)

    def upload(self, name: str, path: Path) -> None:
        with path.open("rb") as content:
            self._client.upload_blob(name, content)

    def download(self, name: str, path: Path) -> None:
        with path.open("wb") as target:
            self._client.download_blob(name).readinto(target)

    def names(self) -> list[str]:
        return sorted(self._client.list_blob_names())

    def url(self, permissions: str, name: str | None = None) -> str:
        account, container = str(self._client.account_name), self._client.container_name
        key, expiry = self._client.credential.account_key, datetime.now(UTC) + LIVES
        if name is None:
            sas = generate_container_sas(account, container, key, permission=permissions, expiry=expiry)
            return f"{self._client.url}?{sas}"
        sas = generate_blob_sas(account, container, name, account_key=key, permission=permissions, expiry=expiry)
        return f"{self._client.get_blob_client(name).url}?{sas}"


class OwnContainer:
    """A container of Millpond's directory. It comes into being with its first file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def upload(self, name: str, path: Path) -> None:
        with path.open("rb") as content:
            length = {"Content-Length": str(path.stat().st_size)}
            request = urllib.request.Request(self.url("w", name), content, length, method="PUT")
            urllib.request.urlopen(request, timeout=60).close()

    def download(self, name: str, path: Path) -> None:
        with urllib.request.urlopen(self.url("r", name), timeout=60) as answer, path.open("wb") as target:
            shutil.copyfileobj(answer, target)

    def names(self) -> list[str]:
        found: list[str] = []
        marker: str | None = ""
        while marker is not None:
            listing = f"{self.url('l')}&restype=container&comp=list&marker={quote(marker, safe='')}"
            with urllib.request.urlopen(listing, timeout=60) as answer:
                page = json.load(answer)
            found += (blob["name"] for blob in page["blobs"])
            marker = page["next"]
        return found

    def url(self, permissions: str, name: str | None = None) -> str:
        endpoint, account, key = (os.environ[variable] for variable in VARIABLES)
        until = time.time() + LIVES.total_seconds()
        return sign_url(endpoint, account, base64.b64decode(key), self._name, name, permissions, until)
