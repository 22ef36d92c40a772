"""The accounts of the service while it runs: the first, which is always there, and those that the management plane makes
and removes.

An account is known by its name, over all subscriptions. On the wire it is found by the path below which all of its
surface lies too (`/accounts/NAME`), by its host name, or by the name in a SharedKey signature; whatever names none is the
first account's.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Iterator
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec

from millpond.api.auth import AccountKeys, signer_of
from millpond.api.context import Context
from millpond.api.gate import Gate
from millpond.api.http import AsgiApp, Scope, prefix_of, route_path
from millpond.api.management.account import Account, AccountKeeper, AccountQuotas, AccountSettings
from millpond.api.management.errors import ArmError
from millpond.control.base import ControlPlane
from millpond.domain.errors import BatchError, ErrorCode
from millpond.staging.auto_storage import AutoStorage

_log: Final = logging.getLogger(__name__)

PATH: Final = "/accounts/"
"""Below it, by its name, lies the surface of an account."""
ACCOUNT_NAME: Final = re.compile(r"[a-z0-9]{3,24}\Z")
QUOTA_REACHED: Final = "SubscriptionQuotaExceeded"
_RAW_PATH: Final = PATH.encode()
_HOST: Final = re.compile(rb"([a-z0-9]{3,24})\.(?:localhost|[a-z0-9-]+\.batch\.[a-z0-9.-]+)(?::\d+)?\Z", re.IGNORECASE)
"""Host names that name an account, as Azure's do: `NAME.REGION.batch.azure.com`, and `NAME.localhost`."""


class AccountState(StrEnum):
    """Azure Batch management: ProvisioningState."""

    CREATING = "Creating"
    SUCCEEDED = "Succeeded"
    DELETING = "Deleting"
    FAILED = "Failed"


class AccountParts(msgspec.Struct, frozen=True):
    """What the REST face of an account works with."""

    control: ControlPlane
    keys: AccountKeys
    auto_storage: AutoStorage
    keeper: AccountKeeper
    quotas: AccountQuotas = AccountQuotas()
    strict_images: bool = False


class AccountWorks(Protocol):
    """What makes accounts beside the first, runs and removes them. Raises StartFailed."""

    def names(self) -> list[str]:
        """Those there are on disk."""
        ...

    def make(self, name: str, settings: AccountSettings) -> None:
        """Returns when it is on disk: from then on it is there after a restart. Blocks."""
        ...

    def parts(self, name: str) -> AccountParts:
        """Put together, nothing of it runs. Blocks."""
        ...

    async def start(self, name: str) -> None: ...

    async def stop(self, name: str) -> None:
        """End it with its nodes and all that they run; nothing is removed. One that does not run is no error."""
        ...

    async def empty(self, name: str) -> None:
        """End its control plane, and have its nodes removed with all that is theirs on their machines."""
        ...

    def remove(self, name: str) -> None:
        """Remove all there is of it on disk. Blocks."""
        ...


class StartFailed(Exception):
    """An account cannot be made, started or removed. The text is one line that says why and what to do."""


class LiveAccount:
    """An account, and what serves its requests."""

    def __init__(
        self, account: Account, context: Context, gate: Gate, face_of: Callable[[bytes], AsgiApp], state: AccountState
    ) -> None:
        """`face_of` gives what serves a path."""
        self.account = account
        self.context = context
        self.gate = gate
        self.face_of = face_of
        self.state = state
        self.work: asyncio.Task[None] | None = None
        """What is being done about it."""

    @property
    def name(self) -> str:
        return self.account.keys.name

    @property
    def settings(self) -> AccountSettings:
        return self.account.settings

    def refusal(self) -> BatchError | None:
        """Why it serves nobody just now."""
        if self.state is AccountState.SUCCEEDED:
            return None
        if self.state is AccountState.CREATING:
            return BatchError(ErrorCode.SERVER_BUSY, f"The account '{self.name}' is being made; try again.")
        reason = "is being deleted" if self.state is AccountState.DELETING else "could not be started: see the log"
        return BatchError(ErrorCode.ACCOUNT_IS_DISABLED, f"The account '{self.name}' {reason}.")


class Accounts:
    """All of them. Used in one event loop."""

    def __init__(
        self,
        first: LiveAccount,
        opened: Callable[[AccountParts, AccountState], LiveAccount],
        works: AccountWorks | None = None,
        quota: int | None = None,
    ) -> None:
        """`opened` makes the REST face of a further account; without `works` there can be none. `quota` is how many
        there may be in one subscription and location; None is no limit."""
        self.first = first
        self.quota = quota
        self._opened = opened
        self._works = works
        self._further: dict[str, LiveAccount] = {}
        self._changing = asyncio.Lock()
        self._stopped = False

    def __iter__(self) -> Iterator[LiveAccount]:
        yield self.first
        for name in sorted(self._further):
            yield self._further[name]

    def get(self, name: str) -> LiveAccount | None:
        """By its name; case does not matter."""
        name = name.lower()
        return self.first if name == self.first.name else self._further.get(name)

    # --- whose request it is ---

    def of_request(self, scope: Scope) -> tuple[LiveAccount, Scope]:
        """The account of a request, and the request as that account sees it. Raises BatchError ResourceNotFound for one
        that is not there."""
        path = route_path(scope)
        if path.startswith(_RAW_PATH):
            raw = path[len(_RAW_PATH) :].partition(b"/")[0]
            found = self.get(raw.decode("latin-1"))
            if found is None:
                raise _no_account(raw)
            return found, {**scope, "root_path": f"{prefix_of(scope)}{PATH}{raw.decode('latin-1')}"}
        if not self._further:
            return self.first, scope
        headers = dict(scope["headers"])
        host = _HOST.match(headers.get(b"host", b""))
        if host is not None:
            found = self.get(host[1].decode())
            if found is not None:
                return found, scope
        # Not by a signature: who signs for an account that is not there is told so by the first.
        return self._further.get(signer_of(headers), self.first), scope

    # --- their life ---

    async def load(self) -> None:
        """Put together and start those there are on disk; go on removing what was being removed. One that cannot be
        started is said so, and is there for the management plane."""
        if self._works is None:
            return
        for name in self._works.names():
            try:
                parts = await asyncio.to_thread(self._works.parts, name)
                live = self._opened(parts, AccountState.CREATING)
            except (StartFailed, ValueError) as error:
                _log.error("the account %s is left out: %s", name, error)
                continue
            self._further[name] = live
            live.work = self._go_on(live, self._remove(live) if live.settings.deleting else self._start(live))
        starting = [live.work for live in self._further.values() if live.work and not live.settings.deleting]
        if starting:
            await asyncio.wait(starting)

    async def create(self, name: str, settings: AccountSettings) -> LiveAccount:
        """Make an account: it is on disk when this returns, and is started after. Raises ArmError 409 for a name that is
        taken and at the quota, BatchError ServerBusy, StartFailed."""
        if self._works is None:
            raise ArmError(
                409, QUOTA_REACHED, f"This service has one account, '{self.first.name}', and takes no others."
            )
        async with self._changing:
            self._require_life()
            if self.get(name) is not None:
                raise ArmError(409, "AccountAlreadyExists", f"An account named '{name}' is already in use.")
            self._require_quota(settings)
            await asyncio.to_thread(self._works.make, name, settings)
            try:
                parts = await asyncio.to_thread(self._works.parts, name)
            except StartFailed:
                # It would be there after a restart, and nobody was told so.
                await asyncio.to_thread(self._works.remove, name)
                raise
            live = self._further[name] = self._opened(parts, AccountState.CREATING)
            live.work = self._go_on(live, self._start(live))
        return live

    def _require_life(self) -> None:
        """Nothing is begun that nobody would end. Raises BatchError ServerBusy."""
        if self._stopped:
            raise BatchError(ErrorCode.SERVER_BUSY, "The service is stopping; try again when it is back.")

    def _require_quota(self, settings: AccountSettings) -> None:
        there = [live for live in self if self._counts_for(live, settings)]
        if self.quota is not None and len(there) >= self.quota:
            raise ArmError(
                409,
                QUOTA_REACHED,
                "The regional account quota for the specified subscription has been reached: there are "
                f"{len(there)} accounts in '{settings.location}', and account.account_quota is {self.quota} in the "
                "configuration.",
            )

    def _counts_for(self, live: LiveAccount, settings: AccountSettings) -> bool:
        """Whether it is in the same subscription and location."""
        own = live.settings
        in_subscription = live is self.first or own.subscription.lower() == settings.subscription.lower()
        return in_subscription and location_key(own.location) == location_key(settings.location)

    @property
    def can_create(self) -> bool:
        """Whether there can be further accounts at all."""
        return self._works is not None

    async def delete(self, live: LiveAccount) -> None:
        """Begin to remove a further account, with all that is in it; this goes on after a restart. Raises BatchError
        ServerBusy."""
        async with self._changing:
            self._require_life()
            if live.state is AccountState.DELETING and live.work is not None and not live.work.done():
                return
            await live.account.mark_deleted()
            live.state = AccountState.DELETING
            live.work = self._go_on(live, self._remove(live, after=live.work))

    async def stop(self) -> None:
        """End what runs of the further accounts; they are there again after a start."""
        async with self._changing:
            self._stopped = True
        for live in self._further.values():
            if live.work is not None:
                live.work.cancel()
                await asyncio.wait((live.work,))
        if self._works is not None:
            await asyncio.gather(*(self._works.stop(name) for name in self._further))

    def _go_on(self, live: LiveAccount, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return asyncio.create_task(work, name=f"account {live.name}")

    async def _start(self, live: LiveAccount) -> None:
        assert self._works is not None
        try:
            await self._works.start(live.name)
        except StartFailed as error:
            _log.error("the account %s cannot be started: %s", live.name, error)
            live.state = AccountState.FAILED
        except Exception:
            _log.exception("the account %s cannot be started", live.name)
            live.state = AccountState.FAILED
        else:
            if live.state is AccountState.CREATING:
                live.state = AccountState.SUCCEEDED

    async def _remove(self, live: LiveAccount, after: "asyncio.Task[None] | None" = None) -> None:
        assert self._works is not None
        live.state = AccountState.DELETING
        if after is not None:
            await asyncio.wait((after,))
        try:
            await self._works.empty(live.name)
            await self._works.stop(live.name)
            await asyncio.to_thread(self._works.remove, live.name)
        except Exception:
            # It is tried again by the next delete, and by the next start.
            _log.exception("the account %s is not removed yet", live.name)
            live.state = AccountState.FAILED
        else:
            del self._further[live.name]


def location_key(location: str) -> str:
    """Locations are the same whatever their case and blanks: `West Europe` is `westeurope`."""
    return location.replace(" ", "").lower()


def _no_account(name: bytes) -> BatchError:
    return BatchError(
        ErrorCode.RESOURCE_NOT_FOUND, f"There is no account '{name[:64].decode('latin-1')}' in this service."
    )
