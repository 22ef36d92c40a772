"""Calls of the service for the commands: SharedKey, standard library only. Most are of the service's own operations,
which no Azure Batch client knows."""

import base64
import hashlib
import hmac
import http.client
import json
import urllib.error
import urllib.request
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from millpond.cli.common import CliError, client_environment, find_service, trust

_API_VERSION: Final = "2025-06-01"
_TIMEOUT_S: Final = 30.0
_JSON: Final = "application/json; odata=minimalmetadata"


class Client:
    """The service that runs in a data directory, called with its account's key."""

    def __init__(self, config_path: Path | None, data_dir: str | None) -> None:
        """Raises CliError."""
        directory, endpoint = find_service(config_path, data_dir)
        environment = client_environment(directory, endpoint)
        self._trust = trust(endpoint)
        self._url = environment["AZURE_BATCH_ENDPOINT"].rstrip("/")
        self._account = environment["AZURE_BATCH_ACCOUNT"]
        self._key = base64.b64decode(environment["AZURE_BATCH_ACCESS_KEY"])

    def get(self, *segments: str) -> dict[str, Any]:
        """GET of the path of these segments: the JSON object. Raises CliError with the service's own words."""
        return self._call("GET", _path_of(segments))

    def get_all(self, *segments: str) -> list[dict[str, Any]]:
        """All items of a listing, page by page. Raises CliError."""
        items: list[dict[str, Any]] = []
        query: dict[str, str] = {}
        while True:
            page = self._call("GET", _path_of(segments), query)
            items += page["value"]
            following = page.get("odata.nextLink")
            if not following:
                return items
            query = dict(parse_qsl(urlsplit(following).query))

    def post(self, *segments: str, body: dict[str, Any] | None = None) -> None:
        """POST to the path of these segments, of an operation that answers nothing. Raises CliError."""
        self._call("POST", _path_of(segments), body=b"" if body is None else json.dumps(body).encode())

    def _call(
        self, method: str, path: str, query: dict[str, str] | None = None, body: bytes | None = None
    ) -> dict[str, Any]:
        query = {**(query or {}), "api-version": _API_VERSION}
        request = urllib.request.Request(  # noqa: S310 - our own URL
            f"{self._url}{path}?{urlencode(query)}", body, method=method
        )
        date = formatdate(usegmt=True)
        request.add_header("ocp-date", date)
        signed = self.authorization(method, urlsplit(self._url).path + path, date, query=query, body=body)
        request.add_header("Authorization", signed)
        request.add_header("Accept", "application/json")
        if body is not None:
            request.add_header("Content-Type", _JSON)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=self._trust) as response:  # noqa: S310
                text = response.read()
                answer = json.loads(text) if text else {}
        except urllib.error.HTTPError as error:
            with error:
                raise CliError(_message_of(error)) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise CliError(f"the service at {self._url} does not answer ({reason}); is it running?") from error
        if not isinstance(answer, dict):
            raise CliError(f"what answers at {self._url} is not Millpond")
        return answer

    def authorization(
        self, method: str, path: str, date: str, *, query: dict[str, str] | None = None, body: bytes | None = None
    ) -> str:
        """The SharedKey signature of a call, `date` being its ocp-date."""
        # Twelve lines; of what they name these calls send no more than a length and a type.
        length = str(len(body)) if body is not None else ""
        lines = [method, "", "", length, "", "" if body is None else _JSON, *[""] * 6]
        query = query or {"api-version": _API_VERSION}
        resource = [f"/{self._account}{path}", *(f"{name}:{value}" for name, value in sorted(query.items()))]
        text = "\n".join([*lines, f"ocp-date:{date}", *resource])
        signature = base64.b64encode(hmac.digest(self._key, text.encode(), hashlib.sha256)).decode()
        return f"SharedKey {self._account}:{signature}"


def _path_of(segments: tuple[str, ...]) -> str:
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def _message_of(error: urllib.error.HTTPError) -> str:
    try:
        answer = json.load(error)
        return f"{answer['code']}: {answer['message']['value'].splitlines()[0]}"
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return f"the service answered {error.code} {error.reason}"
