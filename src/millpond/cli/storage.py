"""`millpond storage`: the account's auto-storage from a shell, by URLs signed with the account's key."""

import base64
import contextlib
import json
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

import click

from millpond.cli.common import CliError, CliUsageError, client_environment, find_service, service_options, trust
from millpond.staging.auto_storage import sign_url

_TIMEOUT_S: Final = 60.0
_URL_FOR_ITSELF_S: Final = 600.0
"""How long the URLs live that the commands sign for their own use."""
_DURATION: Final = re.compile(r"(\d{1,9})([smhd])\Z")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Storage:
    """The storage of one service."""

    def __init__(self, config_path: Path | None, data_dir: str | None) -> None:
        directory, endpoint = find_service(config_path, data_dir)
        environment = client_environment(directory, endpoint)
        self._trust = trust(endpoint)
        self._endpoint = environment["AZURE_BATCH_ENDPOINT"]
        self._account = environment["AZURE_BATCH_ACCOUNT"]
        self._key = base64.b64decode(environment["AZURE_BATCH_ACCESS_KEY"])

    def url(self, container: str, blob: str | None, permissions: str, lives_s: float = _URL_FOR_ITSELF_S) -> str:
        expires_at = time.time() + lives_s
        try:
            return sign_url(self._endpoint, self._account, self._key, container, blob, permissions, expires_at)
        except ValueError as error:
            raise CliUsageError(str(error)) from error

    def ask(self, url: str, method: str = "GET", body: IO[bytes] | None = None, length: int = 0) -> HTTPResponse:
        """The answer, to be closed. Raises CliError when there is none, or it is an error."""
        request = urllib.request.Request(url, body, method=method)  # noqa: S310 - a URL of our own making
        if body is not None:
            request.add_header("Content-Length", str(length))
            request.add_header("Content-Type", "application/octet-stream")
        try:
            answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=self._trust)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                raise CliError(_message_of(error)) from error
        except (HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            raise CliError(f"the service at {self._endpoint} does not answer ({reason}); is it running?") from error
        assert isinstance(answer, HTTPResponse)
        return answer


@click.group()
def storage() -> None:
    """Put, get and list files of the account's own storage.

    Files live in containers. Tasks reach them by signed URLs (resource files, output files): `millpond storage url`.
    """


@storage.command()
@service_options
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="CONTAINER[/NAME]")
def put(config_path: Path | None, data_dir: str | None, file: Path, target: str) -> None:
    """Upload FILE, under its own name unless NAME is given."""
    container, name = _split(target)
    if name is None or name.endswith("/"):
        name = (name or "") + file.name
    service = _Storage(config_path, data_dir)
    with _reading(file) as content:
        length = file.stat().st_size
        with service.ask(service.url(container, name, "w"), "PUT", content, length):
            click.echo(f"{container}/{name}")


@storage.command()
@service_options
@click.argument("source", metavar="CONTAINER/NAME")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def get(config_path: Path | None, data_dir: str | None, source: str, file: Path | None) -> None:
    """Download to FILE (default: the file's own name here; - is standard output)."""
    container, name = _split(source)
    if name is None:
        raise CliUsageError(f"{source}: name a file, as CONTAINER/NAME")
    service = _Storage(config_path, data_dir)
    with service.ask(service.url(container, name, "r")) as answer:
        if str(file) == "-":
            shutil.copyfileobj(answer, sys.stdout.buffer)
            return
        path = file or Path(name.rpartition("/")[2])
        if path.is_dir():
            path /= name.rpartition("/")[2]
        _receive(answer, path)
    click.echo(path)


@storage.command()
@service_options
@click.argument("target", metavar="CONTAINER[/PREFIX]")
def ls(config_path: Path | None, data_dir: str | None, target: str) -> None:
    """List the files of a container: size and name."""
    container, prefix = _split(target)
    service = _Storage(config_path, data_dir)
    url = f"{service.url(container, None, 'l')}&comp=list&prefix={quote(prefix or '', safe='')}"
    marker: str | None = ""
    while marker is not None:
        with service.ask(f"{url}&marker={quote(marker, safe='')}" if marker else url) as answer:
            page = json.load(answer)
        for blob in page["blobs"]:
            click.echo(f"{blob['size']:>12}  {blob['name']}")
        marker = page["next"]


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


def _receive(answer: HTTPResponse, path: Path) -> None:
    """Write the body to a file, first beside it: a broken transfer leaves what was there."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as out:
            shutil.copyfileobj(answer, out)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CliError(f"{path} cannot be written ({error.strerror})") from error


def _message_of(error: urllib.error.HTTPError) -> str:
    try:
        told = json.load(error)
        return f"{told['message']} ({told['code']})"
    except (ValueError, KeyError, TypeError, OSError):
        return f"the service answered {error.code} {error.reason}"
