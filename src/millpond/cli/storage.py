"""`millpond storage`: the account's auto-storage from a shell, by URLs signed with the account's key.

It is a directory that the service serves, or an account of Azure Blob storage (Azurite among them); the URLs differ in
how they are signed, how containers are listed and how long files are put together.
"""

import base64
import contextlib
import errno
import io
import itertools
import json
import os
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

import click

from millpond.cli.common import CliError, CliUsageError, client_environment, find_service, service_options, trust
from millpond.cli.http import NoAnswer, Readable, Refused, send
from millpond.datadir import DataDirError
from millpond.staging.account_storage import StorageError
from millpond.staging.auto_storage import is_container_name, sign_url
from millpond.staging.base import RemoteFile
from millpond.staging.blob_protocol import (
    BLOB_VERSION,
    block_id,
    block_list,
    check_blob,
    parse_containers,
    parse_error,
    parse_listing,
)
from millpond.staging.shared_access import StorageAccount, account_of

_TIMEOUT_S: Final = 60.0
_URL_FOR_ITSELF_S: Final = 3600.0
"""How long the URLs live that the commands sign for their own use."""
_DURATION: Final = re.compile(r"(\d{1,9})([smhd])\Z")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BLOCK_BYTES: Final = 32 << 20
"""What is longer is put into an account in pieces of this size."""
_BAR_FROM_BYTES: Final = 8 << 20
"""Less is done before a bar could be read."""


class _Storage:
    """The storage of one service."""

    def __init__(self, config_path: Path | None, data_dir: str | None) -> None:
        directory, endpoint = find_service(config_path, data_dir)
        environment = client_environment(directory, endpoint)
        self._name = environment["AZURE_BATCH_ACCOUNT"]
        self._trust = trust(endpoint)
        self._directory = directory.storage_path
        self._key = base64.b64decode(environment["AZURE_BATCH_ACCESS_KEY"])
        try:
            facts = directory.storage()
            self._account: StorageAccount | None = (
                account_of(facts.connection_string) if facts.connection_string else None
            )
        except (DataDirError, ValueError) as error:
            raise CliError(str(error)) from error
        self._endpoint = environment["AZURE_BATCH_ENDPOINT"] if self._account is None else self._account.endpoint

    def url(self, container: str, blob: str | None, permissions: str, lives_s: float = _URL_FOR_ITSELF_S) -> str:
        expires_at = time.time() + lives_s
        try:
            if self._account is None:
                return sign_url(self._endpoint, self._name, self._key, container, blob, permissions, expires_at)
            _check_names(container, blob)
            return self._account.sign(container, blob, permissions, expires_at)
        except ValueError as error:
            raise CliUsageError(str(error)) from error

    def make_container(self, container: str) -> None:
        """One that exists is no error. A directory's containers come with their first file."""
        self.url(container, None, "w")
        if self._account is None:
            return
        query = self._account.account_query("cw", "c", time.time() + _URL_FOR_ITSELF_S)
        url = f"{self._account.url(container)}?restype=container&{query}"
        with contextlib.suppress(_Exists):
            self.ask(url, "PUT", io.BytesIO()).close()

    def containers(self) -> Iterator[str]:
        """In order of name."""
        if self._account is None:
            # Signed URLs of a directory are for one container; who has the key has the directory, too.
            with contextlib.suppress(FileNotFoundError):
                yield from sorted(filter(is_container_name, os.listdir(self._directory)))
            return
        query = self._account.account_query("l", "s", time.time() + _URL_FOR_ITSELF_S)
        url = f"{self._account.endpoint}/?comp=list&{query}"
        marker = ""
        while True:
            with self.ask(f"{url}&marker={quote(marker, safe='')}" if marker else url) as answer:
                text = answer.read()
            try:
                names, marker = parse_containers(text)
            except StorageError as error:
                raise CliError(error.message) from error
            yield from names
            if not marker:
                return

    def put(self, container: str, name: str, file: Readable, size: int) -> None:
        url = self.url(container, name, "w")
        if self._account is None or size <= _BLOCK_BYTES:
            self.ask(url, "PUT", file, size).close()
            return
        upload = uuid.uuid4().hex
        blocks: list[str] = []
        for first in range(0, size, _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, size - first)
            blocks.append(block_id(upload, len(blocks)))
            part = io.BytesIO(file.read(length))
            self.ask(f"{url}&comp=block&blockid={quote(blocks[-1], safe='')}", "PUT", part, length).close()
        body = block_list(blocks)
        self.ask(f"{url}&comp=blocklist", "PUT", io.BytesIO(body), len(body)).close()

    def list(self, container: str, prefix: str) -> Iterator[RemoteFile]:
        """Files whose names begin so, in order of name."""
        url = f"{self.url(container, None, 'l')}&restype=container&comp=list&prefix={quote(prefix, safe='')}"
        marker: str | None = ""
        while marker is not None:
            with self.ask(f"{url}&marker={quote(marker, safe='')}" if marker else url) as answer:
                text = answer.read()
            if self._account is None:
                page = json.loads(text)
                yield from (RemoteFile(blob["name"], blob["size"]) for blob in page["blobs"])
                marker = page["next"]
            else:
                try:
                    files, following = parse_listing(text)
                except StorageError as error:
                    raise CliError(error.message) from error
                yield from files
                marker = following or None

    def ask(self, url: str, method: str = "GET", body: Readable | None = None, length: int = 0) -> HTTPResponse:
        """The answer, to be closed. Raises CliError when there is none, or it is an error."""
        headers: dict[str, str] = {}
        if body is not None:
            headers |= {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
        if self._account is not None:
            headers["x-ms-version"] = BLOB_VERSION
            if method == "PUT" and "&comp=" not in url:
                headers["x-ms-blob-type"] = "BlockBlob"
        try:
            return send(url, method, body=body, headers=headers, timeout_s=_TIMEOUT_S, trust=self._trust)
        except Refused as refused:
            if refused.status == 409 and refused.headers.get("x-ms-error-code") == "ContainerAlreadyExists":
                raise _Exists from refused
            raise CliError(_message_of(refused)) from refused
        except NoAnswer as error:
            who = "service" if self._account is None else "storage account"
            raise CliError(f"the {who} at {self._endpoint} does not answer ({error}); is it running?") from error


class _Exists(CliError):
    """The container is there already."""

    def __init__(self) -> None:
        super().__init__("the container exists")


def _check_names(container: str, blob: str | None) -> None:
    """Raises ValueError."""
    if not is_container_name(container):
        raise ValueError(f"{container!r} is no container name: 3 to 63 lower-case letters, digits, single hyphens")
    try:
        check_blob("-" if blob is None else blob)
    except StorageError as error:
        raise ValueError(f"{blob!r} is no blob name: {error.message}") from error


@click.group()
def storage() -> None:
    """Put, get and list files of the account's own storage.

    Files live in containers. Tasks reach them by signed URLs (resource files, output files): `millpond storage url`.
    """


@storage.command()
@service_options
@click.argument("source", metavar="FILE|DIRECTORY", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="CONTAINER[/NAME]")
def put(config_path: Path | None, data_dir: str | None, source: Path, target: str) -> None:
    """Upload FILE, under its own name unless NAME is given; or all files of DIRECTORY, below NAME if it is given.

    A container that is not there is made.
    """
    container, name = _split(target)
    if source.is_dir():
        files = _files_below(source, f"{name.rstrip('/')}/" if name else "")
    else:
        files = [(source, name if name and not name.endswith("/") else (name or "") + source.name)]
    service = _Storage(config_path, data_dir)
    service.make_container(container)
    total = 0
    with _progress(sum(path.stat().st_size for path, _ in files)) as advance:
        for path, blob in files:
            with _reading(path) as content:
                size = os.fstat(content.fileno()).st_size
                service.put(container, blob, _Counted(content, advance), size)
            total += size
            click.echo(f"{container}/{blob}")
    if source.is_dir():
        click.echo(f"{len(files)} files, {size_words(total)}", err=True)


@storage.command()
@service_options
@click.argument("source", metavar="CONTAINER/NAME")
@click.argument("file", metavar="[FILE|DIRECTORY]", type=click.Path(path_type=Path), required=False)
def get(config_path: Path | None, data_dir: str | None, source: str, file: Path | None) -> None:
    """Download to FILE (default: the file's own name here; - is standard output).

    With a slash at the end (CONTAINER/FOLDER/, or CONTAINER/ for all of it) everything below it goes into DIRECTORY.
    """
    container, name = _split(source)
    if name is None and not source.endswith("/"):
        raise CliUsageError(f"{source}: name a file, as CONTAINER/NAME, or a folder, as CONTAINER/FOLDER/")
    service = _Storage(config_path, data_dir)
    if name is None or name.endswith("/"):
        _get_folder(service, container, name or "", file or Path())
        return
    with service.ask(service.url(container, name, "r")) as answer:
        if str(file) == "-":
            shutil.copyfileobj(answer, sys.stdout.buffer)
            return
        path = file or Path(name.rpartition("/")[2])
        if path.is_dir():
            path /= name.rpartition("/")[2]
        with _progress(int(answer.headers.get("Content-Length") or 0)) as advance:
            _receive(answer, path, advance)
    click.echo(path)


def _get_folder(service: _Storage, container: str, prefix: str, directory: Path) -> None:
    # Some tools mark folders by empty files of such a name.
    files = [file for file in service.list(container, prefix) if not file.name.endswith("/")]
    if not files:
        raise CliError(f"{container}/{prefix}: there is no file below it")
    for file in files:
        below = file.name[len(prefix) :].split("/")
        if {"", ".", ".."} & set(below) or "\0" in file.name:
            raise CliError(
                f"{container}/{file.name}: no file here can be called so; get it by itself, under another name"
            )
    total = sum(file.size for file in files)
    with _progress(total) as advance:
        for file in files:
            path = directory / file.name[len(prefix) :]
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CliError(f"{path.parent} cannot be made ({error.strerror})") from error
            with service.ask(service.url(container, file.name, "r")) as answer:
                _receive(answer, path, advance)
            click.echo(path)
    click.echo(f"{len(files)} files, {size_words(total)}", err=True)


@storage.command()
@service_options
@click.argument("target", metavar="[CONTAINER[/PREFIX]]", required=False)
def ls(config_path: Path | None, data_dir: str | None, target: str | None) -> None:
    """List the files of a container: size in bytes and name. Without CONTAINER, list the containers."""
    storage = _Storage(config_path, data_dir)
    if target is None:
        for name in storage.containers():
            click.echo(name)
        return
    container, prefix = _split(target)
    for file in storage.list(container, prefix or ""):
        click.echo(f"{file.size:>12}  {file.name}")


@storage.command()
@service_options
@click.argument("target", metavar="CONTAINER[/NAME]")
@click.option("--permissions", default="r", show_default=True, help="Letters of rwdl: read, write, delete, list.")
@click.option("--expires", default="1d", show_default=True, help="How long it is good for: 30m, 12h, 7d.")
def url(config_path: Path | None, data_dir: str | None, target: str, permissions: str, expires: str) -> None:
    """Print a signed URL of a file or of a whole container."""
    container, name = _split(target)
    match = _DURATION.match(expires)
    if match is None or int(match[1]) == 0:
        raise CliUsageError(f"--expires: must be a time such as 30m, 12h or 7d, not {expires!r}; correct it")
    click.echo(_Storage(config_path, data_dir).url(container, name, permissions, int(match[1]) * _UNITS[match[2]]))


def _split(target: str) -> tuple[str, str | None]:
    container, _, name = target.partition("/")
    return container, name or None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise CliError(f"{path} cannot be read ({error.strerror})") from error
    with file:
        yield file


def _files_below(directory: Path, prefix: str) -> list[tuple[Path, str]]:
    """The plain files of a directory and the names they get, in order. Links to directories are not followed."""
    found: list[tuple[Path, str]] = []
    for where, folders, names in os.walk(directory):
        folders.sort()
        below = Path(where).relative_to(directory).parts
        for name in sorted(names):
            path = Path(where) / name
            try:
                is_plain = stat.S_ISREG(path.stat().st_mode)
            except OSError as error:
                raise CliError(f"{path} cannot be read ({error.strerror})") from error
            if is_plain:
                found.append((path, prefix + "/".join((*below, name))))
    if not found:
        raise CliError(f"{directory}: there is no file in it")
    return found


class _Counted:
    """A stream that tells how much of it was read. One that should hold `expected` bytes and ends before raises
    OSError."""

    def __init__(self, stream: Readable, advance: Callable[[int], None], expected: int | None = None) -> None:
        self._stream = stream
        self._advance = advance
        self._left = expected

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size) if size >= 0 else self._stream.read()
        self._advance(len(data))
        if self._left is not None:
            self._left -= len(data)
            if not data and size and self._left > 0:
                raise OSError(errno.EPIPE, "the connection broke")
        return data


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where somebody sees it and it takes a while: `advance(bytes)`."""
    if total < _BAR_FROM_BYTES or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=total, label=size_words(total), file=sys.stderr) as bar:
        yield bar.update


def size_words(size: int) -> str:
    """`1.2 MB`"""
    if size < 1000:
        return f"{size} bytes"
    for unit, power in zip(("kB", "MB", "GB", "TB"), itertools.count(1), strict=False):
        if size < 1000 ** (power + 1) * 0.9995 or unit == "TB":
            return f"{size / 1000**power:.3g} {unit}"
    raise AssertionError


def _receive(answer: HTTPResponse, path: Path, advance: Callable[[int], None]) -> None:
    """Write the body to a file, first beside it: a broken transfer leaves what was there."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as out:
            length = answer.headers.get("Content-Length")
            shutil.copyfileobj(_Counted(answer, advance, int(length) if length else None), out)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CliError(f"{path} cannot be written ({error.strerror})") from error


def _message_of(refused: Refused) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        code, message = parse_error(refused.text)
        if not code:
            told = json.loads(refused.text)
            code, message = told["code"], told["message"]
        return f"{message.rstrip('.')}. ({code})"
    return str(refused)
