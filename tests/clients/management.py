"""A connected azure-mgmt-batch client."""

import base64
import time
from typing import Any, Final

from azure.core.credentials import AccessToken
from azure.mgmt.batch import BatchManagementClient

from millpond.identity.management_token import SUBSCRIPTION, make_token

HTTP: Final[dict[str, Any]] = {"enforce_https": False}
"""With every call: the client sends no bearer token over http unless told to."""


class StaticToken:
    """A credential that has its token already."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **more: Any) -> AccessToken:
        return AccessToken(self._token, 4_000_000_000)


def management_client(service: Any, token: str | None = None) -> BatchManagementClient:
    if token is None:
        token = make_token(service.account, base64.b64decode(service.key), time.time())
    return BatchManagementClient(StaticToken(token), SUBSCRIPTION, base_url=service.endpoint)
