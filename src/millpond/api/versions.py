"""The api-versions of the data plane that are accepted, and what each of them lacks.

There is one set of types, with the properties of all versions. What a version does not have is refused in its requests
and left out of its answers: by name, in one table, over the JSON itself. Differences are those between the derived
specifications of 2025-06-01 and 2024-02-01.19.0; versions older than that are treated as it is, but for the operations
that were withdrawn before.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import msgspec

from millpond.domain.errors import BatchError, ErrorCode

API_VERSIONS: Final = (
    "2026-10-01",
    "2025-06-01",
    "2024-07-01.20.0",
    "2024-02-01.19.0",
    "2023-11-01.18.0",
    "2023-05-01.17.0",
    "2022-10-01.16.0",
    "2022-01-01.15.0",
    "2021-06-01.14.0",
    "2020-09-01.12.0",
    "2020-03-01.11.0",
)
"""Newest first."""

_AGE: Final = {version: -index for index, version in enumerate(API_VERSIONS)}
OLDEST: Final = API_VERSIONS[-1]
NEWEST: Final = API_VERSIONS[0]

LAST_CLASSIC: Final = "2024-07-01.20.0"
"""The last before the specification was written anew: certificates, cloud services and the like end with it."""
FIRST_NEW: Final = "2025-06-01"


class Span(msgspec.Struct, frozen=True):
    """The versions that have something: from `first` to `last`, both included."""

    first: str = OLDEST
    last: str = NEWEST

    def has(self, version: str) -> bool:
        return _AGE[self.first] <= _AGE[version] <= _AGE[self.last]


ALWAYS: Final = Span()
_CLASSIC: Final = Span(last=LAST_CLASSIC)
_NEW: Final = Span(first=FIRST_NEW)
_SINCE_2024_07: Final = Span(first="2024-07-01.20.0")


class Property(msgspec.Struct, frozen=True):
    """A property that not all versions have: its name on the wire, wherever it is below `parent` (empty: anywhere)."""

    name: str
    span: Span
    parent: str = ""
    in_tasks: bool = False
    """Answers about tasks can have it."""


PROPERTIES: Final = (
    Property("applicationLicenses", _CLASSIC),
    Property("certificateReferences", _CLASSIC),
    Property("cloudServiceConfiguration", _CLASSIC),
    Property("currentNodeCommunicationMode", _CLASSIC),
    Property("resourceTags", _CLASSIC),
    Property("targetNodeCommunicationMode", _CLASSIC),
    Property("storageAccountType", _CLASSIC, "dataDisks"),
    Property("communityGalleryImageId", _NEW),
    Property("containerHostBatchBindMounts", _SINCE_2024_07, in_tasks=True),
    Property("customerManagedKey", _NEW),
    Property("deallocated", _SINCE_2024_07, "dedicated"),
    Property("deallocated", _SINCE_2024_07, "lowPriority"),
    Property("deallocating", _SINCE_2024_07, "dedicated"),
    Property("deallocating", _SINCE_2024_07, "lowPriority"),
    Property("diskEncryptionSet", _NEW),
    Property("ipFamilies", _NEW),
    Property("ipTags", _NEW),
    Property("ipv6Address", _NEW),
    Property("ipv6RemoteLoginIPAddress", _NEW),
    Property("ipv6RemoteLoginPort", _NEW),
    Property("jobDefaultOrder", _NEW),
    Property("managedDisk", _NEW, "dataDisks"),
    Property("proxyAgentSettings", _NEW),
    Property("securityProfile", _NEW, "managedDisk"),
    Property("sharedGalleryImageId", _NEW),
    Property("skipWithdrawFromVNet", _NEW),
)
"""`authenticationTokenSettings` is not among them: 2025-06-01 has lost it, but a task's token is of use to clients of
any version, so it stays (an extension of ours)."""

_PATCHES: Final = {
    "update_pool": [
        "displayName",
        "enableInterNodeCommunication",
        "mountConfiguration",
        "networkConfiguration",
        "taskSchedulingPolicy",
        "taskSlotsPerNode",
        "upgradePolicy",
        "userAccounts",
        "virtualMachineConfiguration",
        "vmSize",
    ],
    "update_job": ["networkConfiguration"],
}
"""Operation → what its body takes only since 2024-07-01.20.0."""

QUERY_PARAMETERS: Final = {"force": _SINCE_2024_07}
"""Query parameters that not all versions have."""

_FREE_FORM: Final = frozenset({"protectedSettings", "resourceTags", "settings"})
"""Objects whose names are the user's own."""

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


@cache
def _lacking(version: str, *, tasks: bool = False) -> tuple[tuple[bytes, ...], frozenset[tuple[str, str]]]:
    """What the version lacks, or of that what answers about tasks can have: the quoted names to look for, and
    (parent, name) pairs."""
    rows = [row for row in PROPERTIES if not row.span.has(version) and (row.in_tasks or not tasks)]
    names = sorted({row.name for row in rows})
    return tuple(f'"{name}"'.encode() for name in names), frozenset((row.parent, row.name) for row in rows)


def check_body(version: str, operation: str, body: bytes) -> None:
    """Raises BatchError UnsupportedProperty for a property that this version of the operation does not have. What is
    not a JSON object is none of its business."""
    quoted, lacking = _lacking(version)
    patches = () if _SINCE_2024_07.has(version) else _PATCHES.get(operation, ())
    if not patches and not any(name in body for name in quoted):
        return
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    found = next((name for name in patches if name in value), None) or next(_found(value, "", "", lacking), None)
    if found is not None:
        raise BatchError(
            ErrorCode.UNSUPPORTED_PROPERTY,
            f"The property '{found}' is not supported by this operation in api-version {version}.",
            PropertyName=found,
        )


def _found(value: Any, parent: str, path: str, lacking: frozenset[tuple[str, str]]) -> Iterator[str]:
    """Paths of the properties that are lacking and have a value."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _found(item, parent, f"{path}[{index}]", lacking)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if inner is None:
                continue
            whole = f"{path}.{name}" if path else name
            if ("", name) in lacking or (parent, name) in lacking:
                yield whole
            elif name not in _FREE_FORM:
                yield from _found(inner, name, whole, lacking)


def answer_for(version: str, body: bytes, *, tasks: bool = False) -> bytes:
    """A JSON answer without what the version does not have. `tasks`: it is about tasks, long perhaps, and there is little
    to look for."""
    quoted, lacking = _lacking(version, tasks=tasks)
    if not any(name in body for name in quoted):
        return body
    return _encode(_without(_decode(body), "", lacking))


def _without(value: Any, parent: str, lacking: frozenset[tuple[str, str]]) -> Any:
    if isinstance(value, list):
        return [_without(item, parent, lacking) for item in value]
    if isinstance(value, dict):
        return {
            name: inner if name in _FREE_FORM else _without(inner, name, lacking)
            for name, inner in value.items()
            if ("", name) not in lacking and (parent, name) not in lacking
        }
    return value
