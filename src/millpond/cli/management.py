"""Calls of the management plane for the commands: a token made with the account's key, standard library only."""

import base64
import http.client
import json
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from millpond.cli.common import CliError, client_environment, find_first, find_service, trust
from millpond.cli.http import NoAnswer, Readable, Refused, send
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
        url = f"{self._url}{path}?{urlencode({**query, 'api-version': _API_VERSION})}"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        text = self._send(url, method, None if body is None else json.dumps(body).encode(), headers)
        answer = json.loads(text) if text else None
        if answer is not None and not isinstance(answer, dict):
            raise CliError(f"what answers at {self._url} is not Millpond")
        return answer

    def upload(self, url: str, content: Readable, length: int) -> None:
        """Put a blob where a signed URL says. Raises CliError."""
        headers = {"Content-Length": str(length), "Content-Type": "application/zip", "x-ms-blob-type": "BlockBlob"}
        self._send(url, "PUT", content, headers)

    def _send(self, url: str, method: str, body: bytes | Readable | None, headers: dict[str, str]) -> bytes:
        # The storage may be another server, which the machine trusts or not.
        trusted = self._trust if url.startswith(self._url) else None
        try:
            with send(url, method, body=body, headers=headers, timeout_s=_TIMEOUT_S, trust=trusted) as response:
                return response.read()
        except Refused as refused:
            raise CliError(_message_of(refused)) from refused
        except (NoAnswer, http.client.HTTPException, OSError) as error:
            raise CliError(f"{urlsplit(url).netloc} does not answer ({error}); is the service running?") from error


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


def _message_of(refused: Refused) -> str:
    try:
        told = json.loads(refused.text)["error"]
        return f"{told['code']}: {told['message'].splitlines()[0]}"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return str(refused)
