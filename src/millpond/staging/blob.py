"""Staging by obstore: storage whose requests are signed with keys that the operator gives to the nodes.

Heavy to import: `staging.router` does when the first such URL is used.

URLs: `s3://bucket/path`, `gs://bucket/path`, `az://container/path`, and `https://` URLs of Azure containers for which
there are credentials. A URL that carries its own authority is `staging.http`'s (docs/adr/0018).
"""

import asyncio
import datetime as dt
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from millpond.domain.errors import TaskFailure
from millpond.staging.base import Fetched, RemoteFile
from millpond.staging.credentials import SCHEMES, Credentials, credentials_for
from millpond.staging.download import Split
from millpond.staging.failures import FETCH, LIST, PUT, Codes, Transient, failed, local, refused_by_server
from millpond.staging.listings import quoted
from millpond.staging.partial import PartialFile, Writer
from millpond.staging.retries import Retries
from millpond.staging.upload_headers import as_attributes

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ClientConfig, RetryConfig

_Store: TypeAlias = AzureStore | GCSStore | S3Store

_STREAM: Final = 1 << 20
_LIST_PAGE: Final = 1000
_MAX_BLOCKS: Final = 10_000
"""S3's; Azure takes more."""
_STATUS: Final = re.compile(r"(?:with status|status:|status code) ([45]\d\d)\b")
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")

DOWNLOADS: Final = Split(big=32 << 20, part=8 << 20, connections=8)
UPLOADS: Final = Split(big=16 << 20, part=8 << 20, connections=4)


class BlobStaging:
    """Implements `staging.base.Staging`. A URL without credentials is tried without a signature: for public buckets.

    `ca_file` holds certificates to trust beside those of the machine.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        retries: Retries = Retries(),
        connect_s: float = 30.0,
        silence_s: float = 60.0,
        ca_file: str = "",
        downloads: Split = DOWNLOADS,
        uploads: Split = UPLOADS,
    ) -> None:
        self._credentials = dict(credentials)
        self._retries = retries
        self._connect_s = connect_s
        self._silence_s = silence_s
        self._ca_file = ca_file
        self._downloads = downloads
        self._uploads = uploads
        self._stores: dict[tuple[str, str], _Store] = {}

    async def fetch(self, url: str, path: str, *, known_etag: str = "") -> Fetched | None:
        """See `Staging.fetch`."""
        store, key = self._find(url, FETCH)
        with PartialFile(path) as file:
            fetched = await self._retries.run(lambda: self._fetch(store, key, url, file, known_etag))
            if fetched is not None:
                file.place(fetched.size)
        return fetched

    async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
        """See `Staging.put`. Headers that the storage has no counterpart of raise TaskFailure FileUploadMiscError."""
        url = self.file_url(container_url, name)
        store, key = self._find(url, PUT)
        wanted = as_attributes(headers, SCHEMES.get(urlsplit(url).scheme, SCHEMES["az"]))
        attributes: dict[Any, str] = {"Content-Type": "application/octet-stream", **wanted.attributes}
        with local(PUT.other):
            size = os.stat(path).st_size
        big = size >= self._uploads.big and not wanted.only_if_new
        try:
            await obstore.put_async(
                store,
                key,
                Path(path),
                attributes=attributes,
                mode="create" if wanted.only_if_new else "overwrite",
                use_multipart=big,
                chunk_size=max(self._uploads.part, -(-size // _MAX_BLOCKS)),
                max_concurrency=self._uploads.connections,
            )
        except Exception as error:  # obstore's errors have several bases, builtins among them
            raise _failure(PUT, url, error) from error

    async def list(self, container_url: str, prefix: str) -> "list[RemoteFile]":
        """See `Staging.list`. Names are relative to the container URL."""
        store, top = self._find(container_url, LIST)
        below = f"{top}/" if top else ""
        # obstore knows only whole segments as prefixes.
        whole = (below + prefix).rpartition("/")[0]
        found: list[RemoteFile] = []
        try:
            async for page in obstore.list(store, whole or None, chunk_size=_LIST_PAGE):
                found += [
                    RemoteFile(one["path"][len(below) :], one["size"], quoted(one["e_tag"] or ""))
                    for one in page
                    if one["path"].startswith(below + prefix)
                ]
        except Exception as error:  # as above
            raise _failure(LIST, container_url, error) from error
        return sorted(found, key=lambda file: file.name)

    def file_url(self, container_url: str, name: str) -> str:
        """See `Staging.file_url`."""
        return f"{container_url.partition('?')[0].rstrip('/')}/{quote(name.lstrip('/'), safe='/~')}"

    async def close(self) -> None:
        """See `Staging.close`."""
        self._stores.clear()

    # --- one fetch --------------------------------------------------------------------------------------------------

    async def _fetch(self, store: _Store, key: str, url: str, file: PartialFile, known_etag: str) -> Fetched | None:
        split = self._downloads
        try:
            whole = await obstore.get_async(store, key, options={"if_none_match": known_etag} if known_etag else {})
        except exceptions.NotModifiedError:
            return None
        except Exception as error:  # as above
            raise _failure(FETCH, url, error) from error
        file.create()
        size, etag = whole.meta["size"], whole.meta["e_tag"] or ""
        if size < split.big or not etag:
            await self._pour(whole, url, file, 0, size)
            return Fetched(size, etag)
        starts = iter(range(split.part, size, split.part))

        async def connection(first: "GetResult | None") -> None:
            if first is not None:
                # The rest of its answer is dropped: the connections share what is left.
                await self._pour(first, url, file, 0, split.part)
                del first
            for start in starts:
                end = min(start + split.part, size)
                await self._retries.run(functools.partial(self._part, store, key, url, file, start, end, etag))

        connections = [asyncio.ensure_future(connection(None)) for _ in range(split.connections - 1)]
        connections.append(asyncio.ensure_future(connection(whole)))
        del whole
        try:
            await asyncio.gather(*connections)
        except _Changed as changed:
            raise Transient(failed(FETCH, FETCH.other, url, "the file changed while it was read")) from changed
        finally:
            for one in connections:
                one.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
        return Fetched(size, etag)

    async def _part(
        self, store: _Store, key: str, url: str, file: PartialFile, start: int, end: int, etag: str
    ) -> None:
        try:
            part = await obstore.get_async(store, key, options={"range": (start, end), "if_match": etag})
        except exceptions.PreconditionError:
            raise _Changed from None
        except Exception as error:  # as above
            raise _failure(FETCH, url, error) from error
        await self._pour(part, url, file, start, end)

    async def _pour(self, result: "GetResult", url: str, file: PartialFile, start: int, end: int) -> None:
        """Write the answer's bytes to [start, end). Raises Transient when it breaks."""
        writer = Writer(file, start)
        try:
            async for chunk in result.stream(_STREAM):
                await writer.add(bytes(memoryview(chunk)[: end - writer.position]))
                if writer.position >= end:
                    break
        except TaskFailure:
            raise
        except Exception as error:  # as above
            raise Transient(_failure(FETCH, url, error)) from error
        finally:
            await writer.finish()
        if writer.position < end:
            raise Transient(failed(FETCH, FETCH.other, url, "the answer ended too early"))

    # --- stores -----------------------------------------------------------------------------------------------------

    def _find(self, url: str, codes: Codes) -> tuple[_Store, str]:
        """The store of a URL, and the path in it."""
        given = credentials_for(url, self._credentials)
        options = dict(given) if given is not None else {"skip_signature": "true"}
        try:
            scheme, bucket, key, more = _parse(url, options)
            name = (scheme, bucket)
            if name not in self._stores:
                self._stores[name] = self._make(scheme, bucket, {**more, **options})
            return self._stores[name], key
        except (ValueError, TypeError) as error:
            raise failed(codes, codes.other, url, "it is no URL of a file or container that can be used") from error
        except Exception as error:  # as above
            kind = type(error).__name__
            raise failed(codes, codes.other, url, f"its credentials on this node cannot be used ({kind})") from error

    def _make(self, scheme: str, bucket: str, options: dict[str, str]) -> _Store:
        client: ClientConfig = {
            "connect_timeout": dt.timedelta(seconds=self._connect_s),
            "read_timeout": dt.timedelta(seconds=self._silence_s),
            # Of a whole transfer: its silence is what counts.
            "timeout": dt.timedelta(days=1),
            "user_agent": "millpond-agent",
            "allow_http": options.pop("allow_http", "").lower() == "true",
        }
        if self._ca_file:
            client["root_certificate"] = Path(self._ca_file).read_bytes()
        backoff_s = self._retries.backoff_s
        retries: RetryConfig = {
            "max_retries": self._retries.attempts - 1,
            "backoff": {
                "init_backoff": dt.timedelta(seconds=backoff_s),
                "max_backoff": dt.timedelta(seconds=60),
                "base": 2,
            },
            "retry_timeout": dt.timedelta(minutes=5),
        }
        config: Any = options
        match scheme:
            case "s3":
                return S3Store(bucket, config=config, client_options=client, retry_config=retries)
            case "gs":
                return GCSStore(bucket, config=config, client_options=client, retry_config=retries)
            case _:
                return AzureStore(bucket, config=config, client_options=client, retry_config=retries)


class _Changed(Exception):
    """The file is another than the one begun with."""


def _parse(url: str, options: Mapping[str, str]) -> tuple[str, str, str, dict[str, str]]:
    """(scheme, bucket, path, what the URL says beyond the options). Raises ValueError."""
    parts = urlsplit(url)
    path = unquote(parts.path).strip("/")
    if parts.scheme in SCHEMES:
        if not parts.hostname or "@" in parts.netloc:
            raise ValueError("no bucket")
        return parts.scheme, parts.netloc, path, {}
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("no URL of Azure Blob")
    more = {"endpoint": f"{parts.scheme}://{parts.netloc}", "account_name": parts.hostname.partition(".")[0]}
    if endpoint := options.get("endpoint"):
        # The account may stand in its path.
        top = urlsplit(endpoint).path.strip("/")
        if top and not path.startswith(top + "/"):
            raise ValueError("not below the endpoint")
        path = path[len(top) :].lstrip("/")
    container, _, key = path.partition("/")
    if not container:
        raise ValueError("no container")
    return "az", container, key, more


def _failure(codes: Codes, url: str, error: Exception) -> TaskFailure:
    """What an error of obstore stands for. Its text is not told: it may hold URLs, and what servers say of keys."""
    text = str(error)
    found = _CODE.search(text)
    error_code = found[1] if found else ""
    statuses: list[tuple[type[Exception], int]] = [
        (FileNotFoundError, 404),
        (exceptions.UnauthenticatedError, 401),
        (exceptions.PermissionDeniedError, 403),
        (exceptions.AlreadyExistsError, 409),
        (exceptions.PreconditionError, 412),
    ]
    for kind, status in statuses:
        if isinstance(error, kind):
            return refused_by_server(codes, url, status, error_code=error_code)
    if told := _STATUS.search(text):
        return refused_by_server(codes, url, int(told[1]), error_code=error_code)
    if "kind: Timeout" in text:
        return failed(codes, codes.timed_out, url, "the server did not answer in time")
    for sign, reason, name in (
        ("InvalidCertificate(", "the server's certificate is not trusted", "TLS"),
        ('"dns error"', "the name of the host could not be resolved", "NameResolution"),
        ("kind: Connect,", "no connection to the server", "Connection"),
    ):
        if sign in text:
            return failed(codes, codes.other, url, reason, Reason=name)
    return failed(codes, codes.other, url, f"the storage client failed ({type(error).__name__})")
