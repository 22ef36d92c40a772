"""Calls of the service's own operations, which no Azure Batch client knows: SharedKey, standard library only."""

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
from urllib.parse import quote, urlsplit

from millpond.cli.common import CliError, client_environment, find_service

_API_VERSION: Final = "2025-06-01"
_TIMEOUT_S: Final = 30.0
_EMPTY_HEADERS: Final = 11
"""Headers between the method and the `ocp-` headers of the string to sign; these calls send none of them."""


class Client:
    """The service that runs in a data directory, called with its account's key."""

    def __init__(self, config_path: Path | None, data_dir: str | None) -> None:
        """Raises CliError."""
        environment = client_environment(*find_service(config_path, data_dir))
        self._url = environment["AZURE_BATCH_ENDPOINT"].rstrip("/")
        self._account = environment["AZURE_BATCH_ACCOUNT"]
        self._key = base64.b64decode(environment["AZURE_BATCH_ACCESS_KEY"])

    def get(self, *segments: str) -> dict[str, Any]:
        """GET of the path of these segments: the JSON object. Raises CliError with the service's own words."""
        path = "/" + "/".join(quote(segment, safe="") for segment in segments)
        request = urllib.request.Request(f"{self._url}{path}?api-version={_API_VERSION}")  # noqa: S310 - our own URL
        date = formatdate(usegmt=True)
        request.add_header("ocp-date", date)
        request.add_header("Authorization", self.authorization("GET", urlsplit(self._url).path + path, date))
        request.add_header("Accept", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise CliError(_message_of(error)) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise CliError(f"the service at {self._url} does not answer ({reason}); is it running?") from error
        if not isinstance(answer, dict):
            raise CliError(f"what answers at {self._url} is not Millpond")
        return answer

    def authorization(self, method: str, path: str, date: str) -> str:
        """The SharedKey signature of a call without a body, `date` being its ocp-date."""
        text = f"{method}\n" + "\n" * _EMPTY_HEADERS
        text += f"ocp-date:{date}\n/{self._account}{path}\napi-version:{_API_VERSION}"
        signature = base64.b64encode(hmac.digest(self._key, text.encode(), hashlib.sha256)).decode()
        return f"SharedKey {self._account}:{signature}"


def _message_of(error: urllib.error.HTTPError) -> str:
    try:
        answer = json.load(error)
        return f"{answer['code']}: {answer['message']['value'].splitlines()[0]}"
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return f"the service answered {error.code} {error.reason}"
