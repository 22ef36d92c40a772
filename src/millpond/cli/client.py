"""Calls of the service for the commands: SharedKey, standard library only. Most are of the service's own operations,
which no Azure Batch client knows."""

import base64
import hashlib
import hmac
import http.client
import json
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from millpond.cli.common import CliError, client_environment, find_service, trust
from millpond.cli.http import NoAnswer, Refused, send

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

    def open(
        self,
        method: str,
        *segments: str,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> http.client.HTTPResponse:
        """Any call without a body: its answer, to be read and closed. `ocp-` headers are signed. Raises CliError, of
        its kind ServiceError when the service refuses, Unreachable when it does not answer."""
        return self._open(method, _path_of(segments), query, None, headers, timeout_s)

    def _call(
        self, method: str, path: str, query: dict[str, str] | None = None, body: bytes | None = None
    ) -> dict[str, Any]:
        try:
            with self._open(method, path, query, body) as response:
                text = response.read()
                answer = json.loads(text) if text else {}
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise self._silent(error) from error
        if not isinstance(answer, dict):
            raise CliError(f"what answers at {self._url} is not Millpond")
        return answer

    def _silent(self, error: Exception) -> "Unreachable":
        return Unreachable(f"the service at {self._url} does not answer ({error}); is it running?")

    def _open(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> http.client.HTTPResponse:
        query = {**(query or {}), "api-version": _API_VERSION}
        date = formatdate(usegmt=True)
        signed = self.authorization(
            method, urlsplit(self._url).path + path, date, query=query, body=body, headers=headers
        )
        sent = {"Accept": "application/json", **(headers or {}), "ocp-date": date, "Authorization": signed}
        if body is not None:
            sent["Content-Type"] = _JSON
        url = f"{self._url}{path}?{urlencode(query)}"
        try:
            return send(url, method, body=body, headers=sent, timeout_s=timeout_s, trust=self._trust)
        except Refused as refused:
            raise _refusal(refused) from refused
        except NoAnswer as error:
            raise self._silent(error) from error

    def authorization(
        self,
        method: str,
        path: str,
        date: str,
        *,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> str:
        """The SharedKey signature of a call, `date` being its ocp-date."""
        # Twelve lines; of what they name these calls send no more than a length and a type.
        length = str(len(body)) if body is not None else ""
        lines = [method, "", "", length, "", "" if body is None else _JSON, *[""] * 6]
        query = query or {"api-version": _API_VERSION}
        resource = [f"/{self._account}{path}", *(f"{name}:{value}" for name, value in sorted(query.items()))]
        ours = {name: value for name, value in (headers or {}).items() if name.startswith("ocp-")} | {"ocp-date": date}
        text = "\n".join([*lines, *(f"{name}:{value}" for name, value in sorted(ours.items())), *resource])
        signature = base64.b64encode(hmac.digest(self._key, text.encode(), hashlib.sha256)).decode()
        return f"SharedKey {self._account}:{signature}"


def _path_of(segments: tuple[str, ...]) -> str:
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


class ServiceError(CliError):
    """The service refuses. `code` is its error code, empty where the answer has none (as to HEAD)."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(CliError):
    """The service does not answer."""


def _refusal(refused: Refused) -> ServiceError:
    try:
        answer = json.loads(refused.text)
        return ServiceError(
            f"{answer['code']}: {answer['message']['value'].splitlines()[0]}", refused.status, str(answer["code"])
        )
    except (ValueError, KeyError, TypeError):
        return ServiceError(str(refused), refused.status, "")
