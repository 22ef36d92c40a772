"""Azure Blob accounts by their key: connection strings, and the shared access signatures (SAS) made with the key.

The strings that are signed are those of "Create a service SAS" and "Create an account SAS" of Azure Storage's REST
reference, for the version below.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from millpond.domain.durations import Timestamp, format_timestamp

SAS_VERSION: Final = "2020-12-06"
PERMISSIONS: Final = "rwdl"
_ORDER: Final = "racwdxl"
"""In which the letters of permissions have to stand."""
_PUBLIC_SUFFIX: Final = "core.windows.net"


class StorageAccount(msgspec.Struct, frozen=True):
    """An Azure Blob account. Its key opens everything: never to be logged or shown."""

    name: str
    key: bytes
    """Decoded."""
    endpoint: str
    """URL of its blobs, without a slash at the end: `https://name.blob.core.windows.net`, or with the account as the
    path: `http://127.0.0.1:10000/name`."""

    def __repr__(self) -> str:
        return f"StorageAccount({self.name!r}, {self.endpoint!r})"

    @property
    def connection_string(self) -> str:
        """As Azure's own clients and tools read it."""
        scheme = urlsplit(self.endpoint).scheme
        key = base64.b64encode(self.key).decode()
        return (
            f"DefaultEndpointsProtocol={scheme};AccountName={self.name};AccountKey={key};BlobEndpoint={self.endpoint};"
        )

    def url(self, container: str, blob: str | None = None) -> str:
        """Without authority."""
        return f"{self.endpoint}/{container}" + ("" if blob is None else f"/{quote(blob, safe='/~')}")

    def sign(self, container: str, blob: str | None, permissions: str, expires_at: Timestamp) -> str:
        """A URL with a service SAS for a blob, or for a container and all in it (`blob` None).

        `permissions` are letters of `rwdl`, `expires_at` epoch seconds. Raises ValueError for permissions that cannot be.
        """
        if not permissions or not set(permissions) <= set(PERMISSIONS):
            raise ValueError(f"{permissions!r} are no permissions: letters of {PERMISSIONS}")
        ordered = "".join(letter for letter in _ORDER if letter in permissions)
        until = format_timestamp(int(expires_at))
        scope = "c" if blob is None else "b"
        resource = f"/blob/{self.name}/{container}" + ("" if blob is None else f"/{blob}")
        # permissions, start, expiry, resource, policy, addresses, protocol, version, scope, snapshot, encryption scope,
        # and five headers of the answer.
        fields = (ordered, "", until, resource, "", "", "", SAS_VERSION, scope, "", "", "", "", "", "", "")
        query = {"sv": SAS_VERSION, "se": until, "sr": scope, "sp": ordered, "sig": self._hmac(fields)}
        return f"{self.url(container, blob)}?{urlencode(query, quote_via=quote, safe='')}"

    def account_query(self, permissions: str, resource_types: str, expires_at: Timestamp) -> str:
        """The query of an account SAS for the blob service: `resource_types` are letters of `sco` (service, container,
        object). For the service's own calls; never given out."""
        until = format_timestamp(int(expires_at))
        # name, permissions, service, types, start, expiry, addresses, protocol, version, encryption scope, nothing.
        fields = (self.name, permissions, "b", resource_types, "", until, "", "", SAS_VERSION, "", "")
        query = {
            "sv": SAS_VERSION,
            "ss": "b",
            "srt": resource_types,
            "sp": permissions,
            "se": until,
            "sig": self._hmac(fields),
        }
        return urlencode(query, quote_via=quote, safe="")

    def _hmac(self, fields: Iterable[str]) -> str:
        return base64.b64encode(hmac.digest(self.key, "\n".join(fields).encode(), hashlib.sha256)).decode()


def account_at(url: str, key: str, name: str = "") -> StorageAccount:
    """The account behind a blob endpoint, by its key in base64.

    The name is the first part of the path, or else of the host, unless given. Raises ValueError; the text never holds the
    key.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("the account's URL must be like https://name.blob.core.windows.net, without a signature")
    path = parts.path.strip("/")
    if "/" in path:
        raise ValueError("the account's URL must not name a container")
    name = name or path or parts.hostname.partition(".")[0]
    if not name.isascii() or not name.isalnum() or not name.islower():
        raise ValueError(f"{name!r} is no name of a storage account: lower-case letters and digits")
    return StorageAccount(name, _decode_key(key), url.rstrip("/"))


def account_of(connection_string: str) -> StorageAccount:
    """Raises ValueError; the text never holds the string."""
    fields: dict[str, str] = {}
    for field in connection_string.strip().split(";"):
        if field.strip():
            name, equals, value = field.partition("=")
            if not equals:
                raise ValueError("the connection string must be Name=Value; pairs, as the portal and az show it")
            fields[name.strip().lower()] = value.strip()
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        raise ValueError("UseDevelopmentStorage is not known here: give the account's name, key and BlobEndpoint")
    account, key = fields.get("accountname", ""), fields.get("accountkey", "")
    if not account or not key:
        raise ValueError("the connection string must hold AccountName and AccountKey: URLs are signed with the key")
    scheme = fields.get("defaultendpointsprotocol", "https")
    suffix = fields.get("endpointsuffix", _PUBLIC_SUFFIX)
    return account_at(fields.get("blobendpoint") or f"{scheme}://{account}.blob.{suffix}", key, account)


def _decode_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("the account's key must be base64, as the portal and az show it")
    return key
