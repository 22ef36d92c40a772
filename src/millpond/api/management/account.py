"""The account as the management plane changes it while the service runs: keys, how callers may sign in, what is shown."""

import asyncio
import base64
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from millpond.api.auth import AccountKeys
from millpond.api.gate import AuthenticationMode, Gate
from millpond.api.management.errors import ArmError
from millpond.api.schema.base import JsonObject
from millpond.domain.durations import Timestamp, later_than

KEY_BYTES: Final = 64
DEFAULT_LOCATION: Final = "local"
NO_LIMIT: Final = 2**31 - 1
"""How a quota is shown that there is not."""


class AccountKeeper(Protocol):
    """Where the account's keys and settings are kept. Each call returns when it is on disk; it blocks."""

    def write_account_keys(self, primary: str, secondary: str) -> None:
        """The keys, in base64."""
        ...

    def account_settings(self) -> dict[str, Any]:
        """What was last written; nothing at first."""
        ...

    def write_account_settings(self, settings: dict[str, Any]) -> None: ...


class MemoryKeeper:
    """Keeps them as long as the process lives."""

    def __init__(self) -> None:
        self.keys: tuple[str, str] | None = None
        self.settings: dict[str, Any] = {}

    def write_account_keys(self, primary: str, secondary: str) -> None:
        self.keys = (primary, secondary)

    def account_settings(self) -> dict[str, Any]:
        return self.settings

    def write_account_settings(self, settings: dict[str, Any]) -> None:
        self.settings = settings


class AccountQuotas(msgspec.Struct, frozen=True):
    """How many there may be at a time, as configured; None is no limit."""

    pools: int | None = None
    active_jobs: int | None = None
    """And job schedules."""
    dedicated_cores: int | None = None
    low_priority_cores: int | None = None


class AccountSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What can be set of the account."""

    location: str = DEFAULT_LOCATION
    """A label: what the client that created the account called it."""
    tags: dict[str, str] = {}
    identity: JsonObject = {}
    """As shown; empty is none."""
    modes: tuple[str, ...] | None = None
    """allowedAuthenticationModes; None is all that are configured."""
    last_modified: Timestamp = 0.0
    last_key_sync: Timestamp = 0.0
    subscription: str = ""
    """Where a further account was made; empty for the service's first, which is in all."""
    group: str = ""
    deleting: bool = False
    """What is left of it is being removed, also after a restart."""


class Account:
    """One account of the service."""

    def __init__(
        self,
        keys: AccountKeys,
        gate: Gate,
        keeper: AccountKeeper,
        clock: Callable[[], Timestamp],
        on_new_primary: Callable[[bytes], None],
        quotas: AccountQuotas,
    ) -> None:
        """`on_new_primary` is told the primary key when it is another. Raises ValueError where what was kept cannot be
        read."""
        self.keys = keys
        self._gate = gate
        self._keeper = keeper
        self._clock = clock
        self._on_new_primary = on_new_primary
        self.quotas = quotas
        self._changing = asyncio.Lock()
        at = clock()
        kept = {"last_modified": at, "last_key_sync": at, **keeper.account_settings()}
        self.settings = msgspec.convert(kept, AccountSettings)
        self._apply_modes()

    @property
    def gate(self) -> Gate:
        """Who lets callers of the account in."""
        return self._gate

    @property
    def modes(self) -> tuple[str, ...]:
        """How callers may sign in: those of the account's that can be. Entra ID's tokens need an issuer."""
        return tuple(
            mode
            for mode in AuthenticationMode
            if mode in self._gate.modes and (mode != AuthenticationMode.AAD or self._has_issuer)
        )

    @property
    def _has_issuer(self) -> bool:
        return self._gate.sign_in.verifier is not None

    async def regenerate(self, *, primary: bool) -> None:
        """Replace a key: the new one is good, and the old one is not, once this returns. Raises ArmError 409."""
        self.require_shared_key()
        async with self._changing:
            key = secrets.token_bytes(KEY_BYTES)
            pair = (key, self.keys.secondary) if primary else (self.keys.primary, key)
            # A crash after this leaves a client without the key it asked for; it finds it by listing the keys.
            await asyncio.to_thread(
                self._keeper.write_account_keys, *(base64.b64encode(each).decode() for each in pair)
            )
            self.keys.primary, self.keys.secondary = pair
            if primary:
                self._on_new_primary(key)

    def require_shared_key(self) -> None:
        """Raises ArmError 409 where the account takes no keys (as Azure Batch)."""
        if AuthenticationMode.SHARED_KEY not in self._gate.modes:
            raise ArmError(
                409,
                "SharedKeyNotAllowed",
                "The account's allowedAuthenticationModes have no SharedKey, so it has no keys.",
            )

    def check_modes(self, modes: tuple[str, ...]) -> None:
        """Raises ArmError 400 for modes that cannot be had, or that would lock everybody out."""
        configured = self._gate.sign_in.modes
        for mode in modes:
            if mode not in configured:
                raise _bad_modes(f"{mode} is not among auth.modes of the service's configuration")
            if mode == AuthenticationMode.AAD and not self._has_issuer:
                raise _bad_modes("AAD needs an issuer: configure auth.issuers, or start with --development-issuer")
        if AuthenticationMode.SHARED_KEY not in modes and not (
            self._has_issuer and AuthenticationMode.AAD in configured
        ):
            raise _bad_modes("without SharedKey nobody could manage the account any more: there is no issuer of tokens")

    async def change(self, **changes: Any) -> None:
        """Set some of the settings, and act on them."""
        async with self._changing:
            at = later_than(self.settings.last_modified, self._clock())
            settings = msgspec.structs.replace(self.settings, last_modified=at, **changes)
            await asyncio.to_thread(self._keeper.write_account_settings, msgspec.to_builtins(settings))
            self.settings = settings
            self._apply_modes()

    async def mark_deleted(self) -> None:
        """From now on it is removed, whatever happens."""
        await self.change(deleting=True)

    async def note_key_sync(self) -> None:
        """The keys of the auto-storage have been read again."""
        await self.change(last_key_sync=self._clock())

    def _apply_modes(self) -> None:
        configured, own = self._gate.sign_in.modes, self.settings.modes
        self._gate.modes = configured if own is None else tuple(mode for mode in configured if mode in own)


def _bad_modes(reason: str) -> ArmError:
    return ArmError(400, "InvalidPropertyValue", f"'properties.allowedAuthenticationModes' cannot be so: {reason}.")
