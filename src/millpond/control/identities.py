"""Identities of pools: names that resource files and output files give instead of a signature, and the credentials that
stand behind them (semantics 13).

Credentials of Azure Blob accounts stay here: a URL is signed when it is handed out. Those of S3 and Google Cloud Storage,
whose URLs carry no authority, are told to the agents of the pools that may use them.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.pool import Pool
from millpond.staging.credentials import credentials_for
from millpond.staging.shared_access import StorageAccount

_log: Final = logging.getLogger(__name__)


class IdentityError(Exception):
    """An identity cannot be used for a URL; the text says why and what to do."""

    def __init__(self, message: str, *, denied: bool) -> None:
        super().__init__(message)
        self.denied = denied
        """The identity may be used, and does not give access."""


class StoredIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """An identity and what it may use: exactly one of `account`, `signed_url` and `options`."""

    name: str
    resource_id: str = ""
    account: StorageAccount | None = None
    signed_url: str = ""
    """An Azure Blob account or container with its shared access signature."""
    options: dict[str, dict[str, str]] = {}
    """Options of an object store by the prefix of its URLs (`s3://bucket`, `gs://`). Secrets are in them."""

    def __repr__(self) -> str:
        return f"StoredIdentity({self.name!r})"

    def authorized(self, url: str, *, of_container: bool, permissions: str, expires_at: Timestamp) -> str:
        """The URL with the identity's authority, if that goes into URLs. Raises IdentityError."""
        if self.options:
            if credentials_for(url, self.options) is None:
                raise self._denied(url, " and ".join(prefix for prefix in self.options))
            return url
        if self.signed_url:
            base, _, signature = self.signed_url.partition("?")
            plain = url.partition("?")[0]
            if not _is_below(plain, base):
                raise self._denied(url, base)
            return f"{plain}?{signature}"
        assert self.account is not None
        if not _is_below(url, self.account.endpoint):
            raise self._denied(url, self.account.endpoint)
        path = urlsplit(url).path[len(urlsplit(self.account.endpoint).path) :].strip("/")
        container, _, blob = unquote(path).partition("/")
        if not container or (not of_container and not blob):
            raise IdentityError(f"The URL {url.partition('?')[0]} names no blob or container", denied=False)
        return self.account.sign(container, None if of_container else blob, permissions, expires_at)

    def _denied(self, url: str, wanted: str) -> IdentityError:
        text = f"The identity {self.name} is for {wanted}, not for {url.partition('?')[0]}"
        return IdentityError(text, denied=True)


class Identities:
    """All identities that have stored credentials."""

    def __init__(self, stored: Sequence[StoredIdentity] = ()) -> None:
        self._stored = tuple(stored)

    def find(self, reference: str) -> StoredIdentity | None:
        """By resource id, whole or its last part, or by name; as in Azure, case does not matter."""
        wanted, name = _key(reference), _short(reference)
        by_id = (one for one in self._stored if one.resource_id and _key(one.resource_id) == wanted)
        # An identity with a resource id of its own is not meant by another id that ends alike.
        by_name = (
            one for one in self._stored if one.name.lower() == name and ("/" not in wanted or not one.resource_id)
        )
        return next(by_id, None) or next(by_name, None)

    def endpoint(self, reference: str, account_name: str) -> str:
        """Where that account is, if the identity has its key; else empty."""
        stored = self.find(reference)
        account = stored.account if stored is not None else None
        return account.endpoint if account is not None and account.name == account_name else ""

    def authorized(
        self,
        pool: Pool | None,
        reference: str,
        url: str,
        *,
        of_container: bool,
        permissions: str,
        expires_at: Timestamp,
    ) -> str:
        """The URL as a task of the pool can use it by that identity. Raises IdentityError."""
        listed = listed_identities(pool)
        stored = self.find(reference)
        names = {_key(one) for one in listed}
        found = {other.name for other in map(self.find, listed) if other is not None}
        if _key(reference) not in names and (stored is None or stored.name not in found):
            raise IdentityError(
                f"The identity {reference} is none of the pool's: add it to the pool's identity", denied=False
            )
        if stored is None:
            raise IdentityError(
                f"The service has no credentials for the identity {reference}: add [identities.{_short(reference)}] to "
                "its configuration",
                denied=True,
            )
        return stored.authorized(url, of_container=of_container, permissions=permissions, expires_at=expires_at)

    def options_for(self, pool: Pool | None) -> dict[str, dict[str, str]]:
        """What the pool's agents need: options of object stores by prefix of URL. Secrets are in them."""
        options: dict[str, dict[str, str]] = {}
        for reference in listed_identities(pool):
            stored = self.find(reference)
            for prefix, one in (stored.options if stored is not None else {}).items():
                if prefix in options and options[prefix] != one:
                    _log.warning(
                        "pool %s: several of its identities are for %s; the first is taken (give each its bucket)",
                        pool.id if pool is not None else "",
                        prefix,
                    )
                options.setdefault(prefix, one)
        return options


def listed_identities(pool: Pool | None) -> list[str]:
    """The resource ids a pool's `identity` lists."""
    identity: Mapping[str, object] = (pool.spec.get("identity") if pool is not None else None) or {}
    listed = identity.get("userAssignedIdentities")
    return [str(one.get("resourceId") or "") for one in listed] if isinstance(listed, list) else []


def _key(reference: str) -> str:
    return reference.strip("/").lower()


def _short(reference: str) -> str:
    return _key(reference).rpartition("/")[2]


def _is_below(url: str, base: str) -> bool:
    one, other = urlsplit(url), urlsplit(base)
    path = other.path.rstrip("/")
    return (one.scheme.lower(), one.netloc.lower()) == (other.scheme.lower(), other.netloc.lower()) and (
        one.path == path or one.path.startswith(path + "/")
    )
