"""PATCH of a pool, and the replacement of its properties, over the wire."""

from typing import Any

import pytest

from millpond.domain.events import PoolUpdated
from millpond.domain.pool import PoolChanges
from millpond.domain.special_task import StartTaskRules
from millpond.domain.states import JobDefaultOrder, NodeFillType
from tests.api.conftest import MACHINE, World


def changes(world: World) -> PoolChanges:
    event = world.control.events[-1]
    assert isinstance(event, PoolUpdated)
    return event.changes


async def test_patch_changes_what_is_given(busy: World) -> None:
    before = (await busy.call("HEAD", "/pools/p1")).headers["etag"]
    body = {
        "startTask": {"commandLine": "prepare", "maxTaskRetryCount": 2, "waitForSuccess": False},
        "metadata": [{"name": "a", "value": "b"}],
        "applicationPackageReferences": [],
        "odata.metadata": "sent back by an SDK",
    }
    answer = await busy.call("PATCH", "/pools/p1", body)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["etag"] != before
    assert answer.headers["dataserviceid"] == "http://127.0.0.1:10010/pools/p1"
    asked = changes(busy)
    assert (asked.needs_empty_pool, asked.remove_start_task) == ((), False)
    assert asked.start_task == StartTaskRules(max_retry_count=2, wait_for_success=False)
    shown = (await busy.call("GET", "/pools/p1")).json()
    assert shown["metadata"] == [{"name": "a", "value": "b"}]
    assert shown["startTask"]["commandLine"] == "prepare"
    assert "odata.metadata" in shown
    assert shown["vmSize"] == "standard_d2s_v3"


async def test_an_empty_patch_changes_nothing(busy: World) -> None:
    assert (await busy.call("PATCH", "/pools/p1", {})).status == 200
    assert changes(busy) == PoolChanges({})


async def test_what_needs_an_empty_pool_is_named(busy: World) -> None:
    body = {
        "displayName": "new",
        "vmSize": "STANDARD_A1_V2",
        "taskSlotsPerNode": 4,
        "taskSchedulingPolicy": {"nodeFillType": "Pack", "jobDefaultOrder": "CreationTime"},
        "enableInterNodeCommunication": True,
        "virtualMachineConfiguration": MACHINE,
    }
    assert (await busy.call("PATCH", "/pools/p1", body)).status == 200
    asked = changes(busy)
    assert asked.needs_empty_pool == (
        "displayName",
        "vmSize",
        "virtualMachineConfiguration",
        "enableInterNodeCommunication",
        "taskSlotsPerNode",
        "taskSchedulingPolicy",
    )
    assert (asked.vm_size, asked.task_slots_per_node, asked.fill_type, asked.job_default_order) == (
        "STANDARD_A1_V2",
        4,
        NodeFillType.PACK,
        JobDefaultOrder.CREATION_TIME,
    )
    assert asked.inter_node_communication is True


@pytest.mark.parametrize(
    ("body", "status", "code", "name"),
    [
        ({"taskSlotsPerNode": 9}, 400, "InvalidPropertyValue", "taskSlotsPerNode"),
        ({"vmSize": "standard_a1_v2", "taskSlotsPerNode": 8}, 400, "InvalidPropertyValue", "taskSlotsPerNode"),
        ({"vmSize": "enormous"}, 400, "InvalidPropertyValue", "vmSize"),
        ({"startTask": {}}, 400, "MissingRequiredProperty", "startTask.commandLine"),
        ({"startTask": {"commandLine": "x", "maxTaskRetryCount": -2}}, 400, "InvalidPropertyValue", None),
        ({"metadata": [{"name": "", "value": "x"}]}, 400, "EmptyMetadataKey", "metadata[0].name"),
        ({"displayName": "x" * 1025}, 400, "InvalidPropertyValue", "displayName"),
        ({"targetDedicatedNodes": 3}, 400, "UnsupportedProperty", None),
        ({"mountConfiguration": [{}]}, 400, "InvalidPropertyValue", "mountConfiguration[0]"),
        ({"certificateReferences": [{}]}, 501, "NotImplemented", "certificateReferences"),
    ],
)
async def test_bad_patches(busy: World, body: Any, status: int, code: str, name: str | None) -> None:
    answer = await busy.call("PATCH", "/pools/p1", body, version="2024-07-01.20.0")
    assert (answer.status, answer.code) == (status, code)
    if name is not None:
        assert answer.values()["PropertyName"] == name


async def test_patch_of_a_pool_that_is_not_there_or_not_as_expected(busy: World) -> None:
    assert (await busy.call("PATCH", "/pools/none", {})).code == "PoolNotFound"
    answer = await busy.call("PATCH", "/pools/p1", {}, headers={"if-match": "0x8D0000000000000"})
    assert (answer.status, answer.code) == (412, "ConditionNotMet")


async def test_replacement_takes_away_what_is_not_given(busy: World) -> None:
    body = {"startTask": {"commandLine": "x"}, "metadata": [{"name": "a", "value": "b"}]}
    await busy.call("PATCH", "/pools/p1", body)
    answer = await busy.call("POST", "/pools/p1/updateproperties", {"applicationPackageReferences": [], "metadata": []})
    assert (answer.status, answer.body) == (204, b"")
    asked = changes(busy)
    assert (asked.start_task, asked.remove_start_task, asked.needs_empty_pool) == (None, True, ())
    shown = (await busy.call("GET", "/pools/p1")).json()
    assert "startTask" not in shown
    assert "metadata" not in shown


async def test_replacement_needs_both_lists(busy: World) -> None:
    answer = await busy.call("POST", "/pools/p1/updateproperties", {"metadata": []})
    assert (answer.status, answer.code) == (400, "MissingRequiredProperty")
    assert answer.values()["PropertyName"] == "applicationPackageReferences"
