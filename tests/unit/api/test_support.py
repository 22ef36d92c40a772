"""The table of what is taken and not acted on, against the wire types."""

import types
import typing
from typing import Any

import msgspec
import pytest

from millpond.api.schema.base import Wire
from millpond.api.schema.job import JobCreate
from millpond.api.schema.node import NodeUserCreate, UploadLogs
from millpond.api.schema.pool import PoolCreate
from millpond.api.schema.task import TaskCreate
from millpond.api.support import SUPPORT, Support

BODIES: dict[str, type[Wire]] = {
    "pool": PoolCreate,
    "job": JobCreate,
    "task": TaskCreate,
    "nodeUser": NodeUserCreate,
    "uploadLogs": UploadLogs,
}


def inner(kind: Any) -> Any:
    """The wire type inside `X | None` and `list[X]`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return inner(next(part for part in typing.get_args(kind) if part is not type(None)))
    return inner(typing.get_args(kind)[0]) if typing.get_origin(kind) is list else kind


@pytest.mark.parametrize("row", SUPPORT, ids=lambda row: f"{row.entity}.{row.path}")
def test_every_property_of_the_table_exists(row: Support) -> None:
    kind: Any = BODIES[row.entity]
    for name in row.path.split("."):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        assert name in fields
        kind = inner(fields[name])
    assert row.note.endswith(".")


def test_no_property_is_listed_twice() -> None:
    assert len({(row.entity, row.path) for row in SUPPORT}) == len(SUPPORT)
