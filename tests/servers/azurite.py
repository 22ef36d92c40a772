"""Azure Blob storage by Azurite, in a process of its own."""

import contextlib
import datetime as dt
import uuid
from pathlib import Path
from typing import Any

import trustme
from azure.storage.blob import BlobServiceClient, generate_blob_sas, generate_container_sas

from tests.machine import free_port
from tests.servers.programs import Program

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = REPOSITORY / ".cache" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's well-known key: no secret."""


def why_not() -> str:
    """Why there is no Azurite here; empty when there is."""
    return "" if PROGRAM.exists() else "run tools/azurite.sh (it needs npm)"


class Azurite:
    """A server with its data in a directory: `stop` and `start` again keep the data and the port.

    `kill` is a crash: what was written in the last seconds before may be lost, as Azurite writes its tables down every
    few seconds.
    """

    account = ACCOUNT
    key = KEY

    def __init__(self, directory: Path, *, tls: bool = False) -> None:
        self._directory = directory
        # To come back to.
        self._port = free_port()
        self._program: Program | None = None
        self._tls: list[str] = []
        self.ca_path = ""
        """The certificate of its CA, PEM; empty without TLS."""
        directory.mkdir(parents=True, exist_ok=True)
        if tls:
            authority = trustme.CA()
            certificate = authority.issue_cert("127.0.0.1", "localhost")
            certificate.private_key_pem.write_to_path(str(directory / "server.key"))
            certificate.cert_chain_pems[0].write_to_path(str(directory / "server.crt"))
            authority.cert_pem.write_to_path(str(directory / "ca.crt"))
            self.ca_path = str(directory / "ca.crt")
            self._tls = ["--cert", str(directory / "server.crt"), "--key", str(directory / "server.key")]

    def start(self) -> "Azurite":
        """Start and wait until it listens; at the port of an earlier start."""
        self._program = Program(
            [
                str(PROGRAM),
                *(
                    "--blobHost",
                    "127.0.0.1",
                    "--blobPort",
                    str(self._port),
                    "--location",
                    str(self._directory / "data"),
                ),
                *("--disableTelemetry", "--skipApiVersionCheck", "--silent", *self._tls),
            ],
            self._directory / "azurite.log",
            r"successfully listens on https?://127\.0\.0\.1:(\d+)",
            {},
        )
        return self

    def stop(self) -> None:
        """End it in order: all is written down."""
        if self._program is not None:
            self._program.stop()

    def kill(self) -> None:
        """SIGKILL."""
        assert self._program is not None
        self._program.kill()

    @property
    def endpoint(self) -> str:
        """The account's URL, with the account in its path."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        protocol = "https" if self._tls else "http"
        return (
            f"DefaultEndpointsProtocol={protocol};AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.endpoint};"
        )

    def client(self) -> BlobServiceClient:
        """The official SDK's client; close it (it is a context manager)."""
        options: dict[str, Any] = {"connection_verify": self.ca_path} if self.ca_path else {}
        return BlobServiceClient.from_connection_string(self.connection_string, **options)

    def new_container(self, name: str = "") -> str:
        """Make a container, with a name nobody else has unless one is given; its name."""
        name = name or f"test-{uuid.uuid4().hex}"
        with self.client() as client, contextlib.closing(client.create_container(name)):
            return name

    def has_written_down(self, container: str) -> bool:
        """Whether the container is there again when the server is started anew, however it ended."""
        tables = self._directory / "data" / "__azurite_db_blob__.json"
        return tables.exists() and container in tables.read_text(encoding="utf-8")

    def put(self, container: str, blob: str, data: bytes) -> None:
        """Store a blob by the official SDK."""
        with self.client() as client, client.get_blob_client(container, blob) as one:
            one.upload_blob(data, overwrite=True)

    def read(self, container: str, blob: str) -> bytes:
        """A blob's bytes by the official SDK."""
        with self.client() as client, client.get_blob_client(container, blob) as one:
            data: bytes = one.download_blob().readall()
            return data

    def container_url(self, container: str, permissions: str = "racwdl", *, valid_s: float = 3600.0) -> str:
        """A container's URL with a service SAS; a negative `valid_s` makes one that has expired."""
        start, expiry = _period(valid_s)
        sas = generate_container_sas(ACCOUNT, container, KEY, permission=permissions, start=start, expiry=expiry)
        return f"{self.endpoint}/{container}?{sas}"

    def blob_url(self, container: str, blob: str, permissions: str = "r", *, valid_s: float = 3600.0) -> str:
        """A blob's URL with a service SAS. `blob` must not need quoting."""
        start, expiry = _period(valid_s)
        sas = generate_blob_sas(
            ACCOUNT, container, blob, account_key=KEY, permission=permissions, start=start, expiry=expiry
        )
        return f"{self.endpoint}/{container}/{blob}?{sas}"


def _period(valid_s: float) -> tuple[dt.datetime, dt.datetime]:
    now = dt.datetime.now(dt.UTC)
    return now - dt.timedelta(days=1), now + dt.timedelta(seconds=valid_s)
