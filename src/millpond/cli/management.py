"""Calls of the management plane for the commands: a token made with the account's key, standard library only."""

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from millpond.cli.common import CliError, client_environment, find_first, find_service, trust
from millpond.datadir import DataDir, DataDirError
from millpond.identity.management_token import SUBSCRIPTION, make_token

_API_VERSION: Final = "2025-06-01"
_TIMEOUT_S: Final = 600.0
"""Looking at a large package takes the service a while."""
GROUP: Final = "millpond"


class ManagementClient:
    """An account of the service that runs in a data directory."""

    def __init__(
        self,
        config_path: Path | None,
        data_dir: str | None,
        *,
        new: str = "",
        place: tuple[str, str] | None = None,
    ) -> None:
        """`new` is the name of an account to make or delete, for which the service's first gives the token; `place` its
        subscription and group, those that are always there if not given. Raises CliError."""
        find = find_first if new else find_service
        directory, endpoint = find(config_path, data_dir)
        environment = client_environment(directory, endpoint)
        self._trust = trust(endpoint)
        self._url = environment["AZURE_BATCH_ENDPOINT"].rstrip("/")
        self._token = token_of(environment)
        subscription, group = place or (place_of(directory) if not new else (SUBSCRIPTION, GROUP))
        account = new or environment["AZURE_BATCH_ACCOUNT"]
        self._path = quote(
            f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Batch/batchAccounts/{account}"
        )

    def call(self, method: str, *segments: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """An operation on something of the account: the JSON object, or None where there is nothing. Raises CliError
        with the service's own words."""
        return self._call(method, segments, {}, body)

    def get_all(self, *segments: str) -> list[dict[str, Any]]:
        """All items of a listing, page by page. Raises CliError."""
        items: list[dict[str, Any]] = []
        query: dict[str, str] = {}
        while True:
            page = self._call("GET", segments, query) or {}
            items += page.get("value", [])
            following = page.get("nextLink")
            if not following:
                return items
            query = dict(parse_qsl(urlsplit(following).query))

    def _call(
        self, method: str, segments: tuple[str, ...], query: dict[str, str], body: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        path = self._path + "".join(f"/{quote(segment, safe='')}" for segment in segments)
        request = urllib.request.Request(  # noqa: S310 - our own URL
            f"{self._url}{path}?{urlencode({**query, 'api-version': _API_VERSION})}",
            None if body is None else json.dumps(body).encode(),
            method=method,
        )
        request.add_header("Authorization", f"Bearer {self._token}")
        request.add_header("Content-Type", "application/json")
        text = self._send(request)
        answer = json.loads(text) if text else None
        if answer is not None and not isinstance(answer, dict):
            raise CliError(f"what answers at {self._url} is not Millpond")
        return answer

    def upload(self, url: str, content: IO[bytes], length: int) -> None:
        """Put a blob where a signed URL says. Raises CliError."""
        request = urllib.request.Request(url, content, method="PUT")  # noqa: S310 - a URL of the service's making
        request.add_header("Content-Length", str(length))
        request.add_header("Content-Type", "application/zip")
        request.add_header("x-ms-blob-type", "BlockBlob")
        self._send(request)

    def _send(self, request: urllib.request.Request) -> bytes:
        # The storage may be another server, which the machine trusts or not.
        trusted = self._trust if request.full_url.startswith(self._url) else None
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=trusted) as response:  # noqa: S310
                text: bytes = response.read()
                return text
        except urllib.error.HTTPError as error:
            with error:
                raise CliError(_message_of(error)) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            host = urlsplit(request.full_url).netloc
            raise CliError(f"{host} does not answer ({reason}); is the service running?") from error


def place_of(directory: DataDir) -> tuple[str, str]:
    """The subscription and the resource group of an account; those of the service's first are anything. Raises
    CliError."""
    try:
        settings = directory.account_settings()
    except DataDirError as error:
        raise CliError(str(error)) from error
    return settings.get("subscription") or SUBSCRIPTION, settings.get("group") or GROUP


def token_of(environment: dict[str, str]) -> str:
    """A management token, from what `client_environment` says."""
    key = environment["AZURE_BATCH_ACCESS_KEY"]
    return make_token(environment["AZURE_BATCH_ACCOUNT"], base64.b64decode(key), time.time())


def _message_of(error: urllib.error.HTTPError) -> str:
    try:
        told = json.load(error)["error"]
        return f"{told['code']}: {told['message'].splitlines()[0]}"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError, http.client.HTTPException):
        return f"the service answered {error.code} {error.reason}"
