"""Staging in directories of the node itself: `file:///directory`, for those the operator allows."""

import asyncio
import builtins
import os
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from millpond.staging.base import Fetched, RemoteFile
from millpond.staging.failures import FETCH, LIST, PUT, Codes, failed, local
from millpond.staging.partial import PartialFile
from millpond.staging.threads import finish_in_thread
from millpond.staging.upload_headers import with_put_blob

_CHUNK: Final = 1 << 20


class LocalStaging:
    """Implements `staging.base.Staging` for `allowed` directories (absolute paths), and what lies below them.

    What links lead to counts, not where they stand. Headers of uploads are checked, and then dropped: files have none.
    """

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = [os.path.realpath(directory) for directory in allowed]

    async def fetch(self, url: str, path: str, *, known_etag: str = "") -> Fetched | None:
        """See `Staging.fetch`."""
        return await finish_in_thread(self._fetch, url, path, known_etag)

    async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
        """See `Staging.put`."""
        with_put_blob(headers)
        await finish_in_thread(self._put, path, container_url, name)

    async def list(self, container_url: str, prefix: str) -> "list[RemoteFile]":
        """See `Staging.list`."""
        return await asyncio.to_thread(self._list, container_url, prefix)

    def file_url(self, container_url: str, name: str) -> str:
        """See `Staging.file_url`."""
        return f"{container_url.partition('?')[0].rstrip('/')}/{quote(name.lstrip('/'), safe='/~')}"

    async def close(self) -> None:
        """See `Staging.close`."""

    def _path(self, codes: Codes, url: str) -> str:
        parts = urlsplit(url)
        path = os.path.realpath(unquote(parts.path))
        if parts.netloc not in ("", "localhost") or "\0" in path:
            raise failed(codes, codes.other, url, "a file URL is file:///path")
        if not any(path == top or path.startswith(top.rstrip("/") + "/") for top in self._allowed):
            reason = "the directories of this node are closed to tasks; the operator may open some"
            raise failed(codes, codes.access_denied, url, reason)
        return path

    def _fetch(self, url: str, path: str, known_etag: str) -> Fetched | None:
        source = _open(FETCH, url, self._path(FETCH, url))
        try:
            facts = os.fstat(source)
            etag = _etag(facts)
            if etag == known_etag:
                return None
            with PartialFile(path) as file:
                size = _copy(source, file)
            return Fetched(size, etag)
        finally:
            os.close(source)

    def _put(self, path: str, container_url: str, name: str) -> None:
        top = self._path(PUT, container_url)
        url = self.file_url(container_url, name)
        if not os.path.isdir(top):
            raise failed(PUT, PUT.not_found, url, "there is no such directory")
        target = self._path(PUT, url)
        with local(PUT.other):
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with local(PUT.other):
                os.makedirs(os.path.dirname(target), exist_ok=True)
            if os.path.isdir(target):
                raise failed(PUT, PUT.conflict or PUT.other, url, "there is a directory of that name")
            with PartialFile(target) as file:
                _copy(source, file)
        finally:
            os.close(source)

    def _list(self, container_url: str, prefix: str) -> "builtins.list[RemoteFile]":
        top = self._path(LIST, container_url)
        if not os.path.isdir(top):
            raise failed(LIST, LIST.not_found, container_url, "there is no such directory")
        found: builtins.list[RemoteFile] = []
        for directory, _, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                relative = os.path.relpath(path, top)
                if relative.startswith(prefix) and os.path.isfile(path) and not os.path.islink(path):
                    facts = os.stat(path)
                    found.append(RemoteFile(relative, facts.st_size, _etag(facts)))
        return sorted(found, key=lambda file: file.name)


def _open(codes: Codes, url: str, path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        raise failed(codes, codes.not_found, url, "there is no such file") from None
    except PermissionError:
        raise failed(codes, codes.access_denied, url, "the agent may not read it") from None
    except OSError as error:
        raise failed(codes, codes.other, url, error.strerror or "it cannot be read") from error
    if not os.path.isfile(f"/proc/self/fd/{descriptor}"):
        os.close(descriptor)
        raise failed(codes, codes.not_found, url, "it is no plain file")
    return descriptor


def _copy(source: int, file: PartialFile) -> int:
    """Put a copy of an open file in place; its size."""
    file.create()
    position = 0
    while data := os.pread(source, _CHUNK, position):
        file.write(data, position)
        position += len(data)
    file.place(position)
    return position


def _etag(facts: os.stat_result) -> str:
    return f'"0x{facts.st_mtime_ns:X}{facts.st_size:X}"'
