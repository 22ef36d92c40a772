"""What becomes of a task's specification on its way to a node."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from millpond.control.identities import Identities, IdentityError
from millpond.domain.durations import Timestamp, parse_duration
from millpond.domain.errors import TaskFailureCode
from millpond.domain.pool import Pool
from millpond.domain.task import JsonObject

PREPARE_ERROR: Final = "prepareError"
"""In a specification for a node: why the task cannot run, `code` and `message`. The node fails it so, and runs nothing."""
_GRACE_S: Final = 7 * 86400.0
"""How long a task may wait on its node, and its files be on their way, before the URLs signed for it end."""
_LONGEST_TASK_S: Final = 180 * 86400.0
"""Semantics 12: the longest a task lives."""
_ENTRY_BYTES: Final = 96
"""Of memory that a specification in the cache takes beside its text."""
_MOUNTED_S: Final = 5 * 365 * 86400.0
"""A container stays mounted as long as its node is up."""


class SpecPreparer:
    """Gives the URLs in specifications the authority that they are without: of the account's own storage, and of
    identities. Signed when a task is handed to its node, good for as long as that may need them there.

    `sign` gives the URL of a container of the account's storage: (container, permissions, expiry).
    """

    def __init__(
        self, sign: Callable[[str, str, Timestamp], str], identities: Identities, clock: Callable[[], Timestamp]
    ) -> None:
        self._sign = sign
        self._identities = identities
        self._clock = clock

    def __call__(self, spec: bytes, pool: Pool | None) -> bytes:
        """The specification as a node of that pool can use it, or fails with it (`PREPARE_ERROR`)."""
        if b'"identityReference"' not in spec and b'"autoStorageContainerName"' not in spec:
            return spec
        until = self._clock() + _GRACE_S
        spec = sign_auto_storage(spec, lambda container: self._sign(container, "rl", until))
        if b'"identityReference"' not in spec:
            return spec
        decoded = msgspec.json.decode(spec)
        for mount in decoded.get("mountConfiguration") or ():
            self._name_container(mount)
        for holder, name, of_container, permissions in _authorizable(decoded):
            reference = (holder.pop("identityReference", None) or {}).get("resourceId")
            if not reference or not holder.get(name):
                continue
            needed = until + {"w": _wall_clock_s(decoded), "rwdl": _MOUNTED_S}.get(permissions, 0.0)
            try:
                holder[name] = self._identities.authorized(
                    pool,
                    reference,
                    holder[name],
                    of_container=of_container,
                    permissions=permissions,
                    expires_at=needed,
                )
            except IdentityError as error:
                code = _code_of(error, permissions=permissions, of_container=of_container)
                decoded[PREPARE_ERROR] = {"code": code.value, "message": str(error)}
                break
        return msgspec.json.encode(decoded)

    def _name_container(self, mount: dict[str, Any]) -> None:
        """The container that is to be mounted, by its URL: what an identity is asked about."""
        container = mount.get("azureBlobFileSystemConfiguration") or {}
        reference = (container.get("identityReference") or {}).get("resourceId")
        if reference:
            name = container.get("accountName", "")
            endpoint = self._identities.endpoint(reference, name) or f"https://{name}.blob.core.windows.net"
            container["containerUrl"] = f"{endpoint}/{container.get('containerName')}"


def _authorizable(spec: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, bool, str]]:
    """What may have an identityReference: its object, the name of its URL, whether that is a container's, and the
    permissions it needs."""
    instances = spec.get("multiInstanceSettings") or {}
    for resource_file in (*(spec.get("resourceFiles") or ()), *(instances.get("commonResourceFiles") or ())):
        if resource_file.get("httpUrl"):
            yield resource_file, "httpUrl", False, "r"
        else:
            yield resource_file, "storageContainerUrl", True, "rl"
    for output_file in spec.get("outputFiles") or ():
        container = (output_file.get("destination") or {}).get("container")
        if container:
            yield container, "containerUrl", True, "w"
    for mount in spec.get("mountConfiguration") or ():
        if mount.get("azureBlobFileSystemConfiguration"):
            yield mount["azureBlobFileSystemConfiguration"], "containerUrl", True, "rwdl"


def _wall_clock_s(spec: dict[str, Any]) -> float:
    """The longest the command line may run."""
    text = (spec.get("constraints") or {}).get("maxWallClockTime")
    limit_s = parse_duration(text) if text else None
    return _LONGEST_TASK_S if limit_s is None else min(limit_s, _LONGEST_TASK_S)


def _code_of(error: IdentityError, *, permissions: str, of_container: bool) -> TaskFailureCode:
    """Semantics 13."""
    if not error.denied:
        return TaskFailureCode.RESOURCE_CONTAINER_LIST_MISC_ERROR
    if permissions == "w":
        return TaskFailureCode.FILE_UPLOAD_ACCESS_DENIED
    return TaskFailureCode.RESOURCE_CONTAINER_ACCESS_DENIED if of_container else TaskFailureCode.BLOB_ACCESS_DENIED


def sign_auto_storage(spec: bytes, sign: Callable[[str], str]) -> bytes:
    """The specification with each resource file's autoStorageContainerName turned into a storageContainerUrl the node
    can read. `sign` gives a container's URL with its authority. Others pass as they are."""
    if b'"autoStorageContainerName"' not in spec:
        return spec
    decoded = msgspec.json.decode(spec)
    instances = decoded.get("multiInstanceSettings") or {}
    for resource_file in (*(decoded.get("resourceFiles") or ()), *(instances.get("commonResourceFiles") or ())):
        container = resource_file.pop("autoStorageContainerName", None)
        if container is not None:
            resource_file["storageContainerUrl"] = sign(container)
    return msgspec.json.encode(decoded)


def release_spec(spec: JsonObject) -> JsonObject:
    """A release task's wire form as nodes take every task: its limits, which it has at the top, as constraints."""
    limits = ("maxWallClockTime", "retentionTime")
    rest = {name: value for name, value in spec.items() if name not in limits}
    return {**rest, "constraints": {name: spec[name] for name in limits if name in spec}}


class SpecCache:
    """Specifications between their commit and their hand-over, bounded by their size; the store has them all."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._size = 0
        self._specs: dict[int, bytes] = {}

    def add(self, specs: dict[int, bytes]) -> None:
        for key in specs.keys() & self._specs.keys():
            self.take(key)
        if self._size >= self._limit:
            return
        self._specs.update(specs)
        self._size += sum(map(len, specs.values())) + _ENTRY_BYTES * len(specs)
        while self._size > self._limit:
            # The newest go: tasks are handed out in order, so the oldest are needed first.
            self._size -= len(self._specs.popitem()[1]) + _ENTRY_BYTES

    def take(self, key: int) -> bytes | None:
        """The specification, which is let go of: most tasks are handed out once."""
        spec = self._specs.pop(key, None)
        if spec is not None:
            self._size -= len(spec) + _ENTRY_BYTES
        return spec
