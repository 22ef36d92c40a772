"""The staging of a node: each URL to the one that reaches it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from millpond.staging.base import Fetched, RemoteFile, Staging
from millpond.staging.credentials import Credentials, needs_client
from millpond.staging.failures import FETCH, LIST, PUT, Codes, failed
from millpond.staging.http import HttpStaging
from millpond.staging.local import LocalStaging
from millpond.staging.retries import Retries

if TYPE_CHECKING:
    from millpond.staging.blob import BlobStaging


class StagingRouter:
    """Implements `staging.base.Staging`.

    - `http://`, `https://`: the URL carries its authority (a SAS, auto-storage's signature, a presigned URL), or needs
      none: `HttpStaging`. Without one, and below a beginning in `credentials`: `BlobStaging`.
    - `s3://`, `gs://`, `az://`: `BlobStaging`, with the operator's credentials.
    - `file://`: `LocalStaging`, below `directories`; none unless given.

    `ca_file` holds certificates to trust beside those of the machine.
    """

    def __init__(
        self,
        *,
        credentials: Credentials | None = None,
        directories: Sequence[str] = (),
        ca_file: str = "",
        retries: Retries = Retries(),
    ) -> None:
        self._http = HttpStaging(retries=retries, ca_file=ca_file)
        self._credentials = dict(credentials or {})
        self._retries = retries
        self._ca_file = ca_file
        self._local = LocalStaging(directories)
        self._made_blob: BlobStaging | None = None

    async def fetch(self, url: str, path: str, *, known_etag: str = "") -> Fetched | None:
        """See `Staging.fetch`."""
        return await self._of(FETCH, url).fetch(url, path, known_etag=known_etag)

    async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
        """See `Staging.put`."""
        await self._of(PUT, container_url).put(path, container_url, name, headers)

    async def list(self, container_url: str, prefix: str) -> "list[RemoteFile]":
        """See `Staging.list`."""
        return await self._of(LIST, container_url).list(container_url, prefix)

    def file_url(self, container_url: str, name: str) -> str:
        """See `Staging.file_url`."""
        return self._of(LIST, container_url).file_url(container_url, name)

    async def close(self) -> None:
        """See `Staging.close`."""
        for one in (self._http, self._made_blob, self._local):
            if one is not None:
                await one.close()

    def _of(self, codes: Codes, url: str) -> Staging:
        try:
            parts = urlsplit(url)
            scheme, signed = parts.scheme, "sig=" in parts.query or "Signature=" in parts.query
        except ValueError as error:
            raise failed(codes, codes.other, url, "it is no URL") from error
        if scheme == "file":
            return self._local
        if scheme in ("http", "https"):
            return self._blob() if not signed and needs_client(url, self._credentials) else self._http
        if needs_client(url, self._credentials):
            return self._blob()
        raise failed(codes, codes.other, url, "its scheme is none of http, https, s3, gs, az, file")

    def _blob(self) -> Staging:
        if self._made_blob is None:
            # Most nodes never need it, and it takes a while to load.
            from millpond.staging.blob import BlobStaging  # noqa: PLC0415

            self._made_blob = BlobStaging(self._credentials, retries=self._retries, ca_file=self._ca_file)
        return self._made_blob
