"""Which properties can be filtered, by which operators (Azure Batch: "OData filters by resource")."""

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeAlias

import msgspec

from millpond.odata.filters import Operator


class PropertyType(Enum):
    """What a property's literals look like; the value is how a message names it."""

    STRING = "a string such as 'active'"
    INTEGER = "an integer"
    BOOLEAN = "true or false"
    DATE_TIME = "a date-time such as DateTime'2026-01-31T12:00:00Z'"


class Property(msgspec.Struct, frozen=True):
    """How one property may be used in a filter."""

    type: PropertyType
    operators: frozenset[Operator]
    starts_with: bool = False
    """Whether `startswith(property, …)` is offered."""
    name: str | None = None
    """The property meant, when the name is only another spelling of it."""
    words: frozenset[str] | None = None
    """The values of an enumeration, as spelled on the wire; None takes any."""


Properties: TypeAlias = Mapping[str, Property]
"""Path on the wire → how it may be used."""

_NONE: Final[frozenset[Operator]] = frozenset()
_ALL: Final = frozenset(Operator)
_EQ: Final = frozenset({Operator.EQ})
_EQ_NE: Final = frozenset({Operator.EQ, Operator.NE})

_ID: Final = Property(PropertyType.STRING, _ALL, starts_with=True)
_NAME: Final = Property(PropertyType.STRING, _NONE, starts_with=True)
_WORD: Final = Property(PropertyType.STRING, _EQ_NE)
_WORD_EQ: Final = Property(PropertyType.STRING, _EQ)


def _one_of(words: str, operators: frozenset[Operator] = _EQ_NE) -> Property:
    """An enumeration."""
    return Property(PropertyType.STRING, operators, words=frozenset(words.split()))


_RESULT: Final = _one_of("success failure")
_RUN_STATE: Final = _one_of("running completed", _EQ)
_FLAG: Final = Property(PropertyType.BOOLEAN, _EQ_NE)
_NUMBER: Final = Property(PropertyType.INTEGER, _ALL)
_TIME: Final = Property(PropertyType.DATE_TIME, _ALL)

POOLS: Final[Properties] = {
    "id": _ID,
    "state": _one_of("active deleting"),
    "stateTransitionTime": _TIME,
    "allocationState": _one_of("steady resizing stopping", _EQ),
    "allocationStateTransitionTime": _TIME,
    "creationTime": _TIME,
    "lastModified": _TIME,
    "enableAutoScale": _FLAG,
    "enableInterNodeCommunication": _FLAG,
    "vmSize": _WORD,
}
NODES: Final[Properties] = {
    "state": _one_of(
        "idle rebooting reimaging running unusable creating starting waitingforstarttask starttaskfailed unknown "
        "leavingpool offline preempted upgradingos deallocated deallocating"
    ),
    "stateTransitionTime": _TIME,
    "lastBootTime": _TIME,
    "allocationTime": _TIME,
    "startTaskInfo/state": _RUN_STATE,
    "startTaskInfo/result": _RESULT,
    "startTaskInfo/exitCode": _NUMBER,
    "startTaskInfo/startTime": _TIME,
    "startTaskInfo/endTime": _TIME,
}
JOBS: Final[Properties] = {
    "id": _ID,
    "state": _one_of("active disabling disabled enabling terminating completed deleting"),
    "stateTransitionTime": _TIME,
    "creationTime": _TIME,
    "lastModified": _TIME,
    "executionInfo/startTime": _TIME,
    "executionInfo/endTime": _TIME,
    "executionInfo/poolId": _ID,
}
JOBS_OF_SCHEDULE: Final[Properties] = {name: meant for name, meant in JOBS.items() if name != "id"}
JOB_SCHEDULES: Final[Properties] = {
    "id": _ID,
    "state": _one_of("active completed disabled terminating deleting"),
    "stateTransitionTime": _TIME,
    "creationTime": _TIME,
    "lastModified": _TIME,
    "executionInfo/endTime": _TIME,
    "schedule/doNotRunUntil": _TIME,
    "schedule/doNotRunAfter": _TIME,
}
JOB_NODES: Final[Properties] = {
    "poolId": _WORD,
    "nodeId": _WORD,
    **{
        f"{info}/{name}": meant
        for info in ("jobPreparationTaskExecutionInfo", "jobReleaseTaskExecutionInfo")
        for name, meant in {
            "state": _RUN_STATE,
            "startTime": _TIME,
            "endTime": _TIME,
            "exitCode": _NUMBER,
            "result": _RESULT,
        }.items()
    },
}
"""Of the list of preparation and release status."""
TASKS: Final[Properties] = {
    "id": _ID,
    "state": _one_of("active preparing running completed"),
    "stateTransitionTime": _TIME,
    "creationTime": _TIME,
    "lastModified": _TIME,
    # The documentation lists this name, the entity carries the one above.
    "lastModifiedTime": Property(PropertyType.DATE_TIME, _ALL, name="lastModified"),
    "executionInfo/startTime": _TIME,
    "executionInfo/endTime": _TIME,
    "executionInfo/exitCode": _NUMBER,
    "executionInfo/result": _RESULT,
}
FILES: Final[Properties] = {"name": _NAME}
SUPPORTED_IMAGES: Final[Properties] = {
    "osType": _one_of("linux windows"),
    "verificationType": _one_of("verified unverified"),
    "nodeAgentSKUId": _WORD,
}
CERTIFICATES: Final[Properties] = {"state": _one_of("active deleting deletefailed"), "stateTransitionTime": _TIME}
POOL_USAGE: Final[Properties] = {
    "poolId": Property(
        PropertyType.STRING,
        frozenset({Operator.EQ, Operator.GE, Operator.GT, Operator.LE, Operator.LT}),
        starts_with=True,
    )
}
NODE_COUNTS: Final[Properties] = {"poolId": _WORD_EQ}
