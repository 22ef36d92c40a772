"""S3 by moto's server, in a process of its own."""

import sys
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store

from tests.servers.programs import Program
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from obstore.store import S3Config


class MotoS3:
    """A server that keeps its buckets in memory. It takes any key."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._program = Program(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            directory / "moto.log",
            r"Running on http://127\.0\.0\.1:(\d+)",
            {},
        )
        self.endpoint = f"http://127.0.0.1:{self._program.port}"

    @property
    def options(self) -> "S3Config":
        """What obstore's S3Store has to know: endpoint and keys. Say `allow_http` beside it."""
        return {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test-secret",
        }

    def new_bucket(self, name: str = "") -> str:
        """Make a bucket, with a name nobody else has unless one is given; its name."""
        name = name or f"test-{uuid.uuid4().hex}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            return name

    def store(self, bucket: str) -> S3Store:
        """obstore's client of a bucket."""
        return S3Store(bucket, config=self.options, client_options={"allow_http": True})

    def put(self, bucket: str, key: str, data: bytes) -> None:
        obstore.put(self.store(bucket), key, data)

    def read(self, bucket: str, key: str) -> tuple[bytes, Mapping[str, str]]:
        """An object's bytes, and its attributes: `Content-Type` and such, and its metadata by their own names."""
        result = obstore.get(self.store(bucket), key)
        return bytes(result.bytes()), result.attributes

    def stop(self) -> None:
        self._program.stop()
