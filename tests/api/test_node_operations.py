"""Operations on nodes over the wire: reboot, reimage, deallocate, start, scheduling, removal, preemption."""

from typing import Any

import pytest

from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import (
    NodeOperationRequested,
    NodeSchedulingDisableRequested,
    NodeSchedulingEnableRequested,
    NodesRemoveRequested,
    NodeStartRequested,
)
from millpond.domain.states import NodeDeallocationOption, NodeOperation, NodeState, SchedulingState
from tests.api.conftest import NODE, World

PATH = f"/pools/p1/nodes/{NODE}"
URL = f"http://127.0.0.1:10010{PATH}"


@pytest.mark.parametrize(
    ("verb", "operation", "name"),
    [
        ("reboot", NodeOperation.REBOOT, "nodeRebootOption"),
        ("reimage", NodeOperation.REIMAGE, "nodeReimageOption"),
        ("deallocate", NodeOperation.DEALLOCATE, "nodeDeallocateOption"),
    ],
)
async def test_operations_and_their_options(busy: World, verb: str, operation: NodeOperation, name: str) -> None:
    for body, option in (
        (None, NodeDeallocationOption.REQUEUE),
        ({}, NodeDeallocationOption.REQUEUE),
        ({name: None}, NodeDeallocationOption.REQUEUE),
        ({name: "Terminate"}, NodeDeallocationOption.TERMINATE),
        ({name: "taskcompletion"}, NodeDeallocationOption.TASK_COMPLETION),
        ({name: "retainedData"}, NodeDeallocationOption.RETAINED_DATA),
    ):
        answer = await busy.call("POST", f"{PATH}/{verb}", body)
        assert (answer.status, answer.body) == (202, b"")
        assert answer.headers["dataserviceid"] == URL
        event = busy.control.events[-1]
        assert isinstance(event, NodeOperationRequested)
        assert (event.node_id, event.operation, event.option) == (NODE, operation, option)
        assert event.cause == answer.headers["request-id"]
    answer = await busy.call("POST", f"{PATH}/{verb}", {name: "whenever"})
    assert (answer.status, answer.code) == (400, "InvalidPropertyValue")
    answer = await busy.call("POST", f"{PATH}/{verb}", {"option": "requeue"})
    assert (answer.status, answer.code) == (400, "UnsupportedProperty")


async def test_node_ids_are_compared_without_case(busy: World) -> None:
    for verb in ("reboot", "start", "disablescheduling", "enablescheduling"):
        await busy.call("POST", f"/pools/P1/nodes/{NODE.upper()}/{verb}")
        assert busy.control.events[-1].node_id == NODE
    await busy.call("POST", "/pools/p1/removenodes", {"nodeList": [NODE.upper()]})
    assert busy.control.events[-1].node_ids == (NODE,)
    await busy.call("POST", f"/pools/p1/nodes/{NODE.upper()}/preempt")
    assert busy.control.preempted == [NODE]


async def test_start(busy: World) -> None:
    answer = await busy.call("POST", f"{PATH}/start")
    assert (answer.status, answer.headers["dataserviceid"]) == (202, URL)
    assert isinstance(busy.control.events[-1], NodeStartRequested)


async def test_scheduling(busy: World) -> None:
    answer = await busy.call("POST", f"{PATH}/disablescheduling")
    assert (answer.status, answer.headers["dataserviceid"]) == (200, URL)
    event = busy.control.events[-1]
    assert isinstance(event, NodeSchedulingDisableRequested)
    assert event.option is NodeDeallocationOption.REQUEUE
    await busy.call("POST", f"{PATH}/disablescheduling", {"nodeDisableSchedulingOption": "TaskCompletion"})
    assert busy.control.events[-1].option is NodeDeallocationOption.TASK_COMPLETION
    answer = await busy.call("POST", f"{PATH}/disablescheduling", {"nodeDisableSchedulingOption": "retaineddata"})
    assert (answer.status, answer.code) == (400, "InvalidPropertyValue")
    answer = await busy.call("POST", f"{PATH}/enablescheduling")
    assert answer.status == 200
    assert isinstance(busy.control.events[-1], NodeSchedulingEnableRequested)


@pytest.mark.parametrize("verb", ["reboot", "reimage", "deallocate", "start", "disablescheduling", "enablescheduling"])
async def test_nodes_and_pools_that_are_not_there(busy: World, verb: str) -> None:
    assert (await busy.call("POST", f"/pools/none/nodes/{NODE}/{verb}")).code == "PoolNotFound"
    assert (await busy.call("POST", f"/pools/p1/nodes/tvmps_0_d/{verb}")).code == "NodeNotFound"


async def test_refusals_of_the_scheduler_come_through(busy: World) -> None:
    busy.control.error = BatchError(ErrorCode.NODE_BEING_REBOOTED)
    answer = await busy.call("POST", f"{PATH}/reboot")
    assert (answer.status, answer.code) == (409, "NodeBeingRebooted")


async def test_removing_nodes(busy: World) -> None:
    body = {"nodeList": [NODE], "resizeTimeout": "PT6M", "nodeDeallocationOption": "RetainedData"}
    answer = await busy.call("POST", "/pools/p1/removenodes", body)
    assert (answer.status, answer.body) == (202, b"")
    assert answer.headers["dataserviceid"] == "http://127.0.0.1:10010/pools/p1"
    assert "etag" in answer.headers
    event = busy.control.events[-1]
    assert isinstance(event, NodesRemoveRequested)
    assert (event.node_ids, event.resize_timeout_s) == ((NODE,), 360.0)
    assert event.node_deallocation_option is NodeDeallocationOption.RETAINED_DATA
    await busy.call("POST", "/pools/p1/removenodes", {"nodeList": [NODE]})
    event = busy.control.events[-1]
    assert (event.resize_timeout_s, event.node_deallocation_option) == (900.0, NodeDeallocationOption.REQUEUE)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (None, "InvalidRequestBody"),
        ({}, "MissingRequiredProperty"),
        ({"nodeList": []}, "InvalidPropertyValue"),
        ({"nodeList": [NODE] * 101}, "InvalidPropertyValue"),
        ({"nodeList": [NODE], "resizeTimeout": "PT4M"}, "InvalidPropertyValue"),
        ({"nodeList": [NODE], "nodeDeallocationOption": "never"}, "InvalidPropertyValue"),
    ],
)
async def test_bad_removals(busy: World, body: Any, code: str) -> None:
    answer = await busy.call("POST", "/pools/p1/removenodes", body)
    assert (answer.status, answer.code) == (400, code)


async def test_removing_under_a_condition(busy: World) -> None:
    headers = {"if-match": "0x8D0000000000000"}
    answer = await busy.call("POST", "/pools/p1/removenodes", {"nodeList": [NODE]}, headers=headers)
    assert (answer.status, answer.code) == (412, "ConditionNotMet")


async def test_preemption_is_our_own_operation(busy: World) -> None:
    answer = await busy.call("POST", f"{PATH}/preempt")
    assert (answer.status, answer.headers["dataserviceid"]) == (202, URL)
    assert busy.control.preempted == [NODE]
    assert (await busy.call("POST", f"/pools/none/nodes/{NODE}/preempt")).code == "PoolNotFound"
    assert (await busy.call("GET", f"{PATH}/preempt")).code == "UnsupportedHttpVerb"


async def test_a_spot_node_that_was_preempted_is_shown_and_counted(busy: World) -> None:
    node = busy.add_node("tvmps_0_p", is_dedicated=False, scheduling_state=SchedulingState.DISABLED)
    node.state = NodeState.PREEMPTED
    shown = (await busy.call("GET", "/pools/p1/nodes/tvmps_0_p")).json()
    assert (shown["state"], shown["isDedicated"], shown["schedulingState"]) == ("preempted", False, "disabled")
    pool = (await busy.call("GET", "/pools/p1")).json()
    assert (pool["currentDedicatedNodes"], pool["currentLowPriorityNodes"]) == (1, 1)
    (counts,) = (await busy.call("GET", "/nodecounts")).json()["value"]
    assert (counts["lowPriority"]["preempted"], counts["lowPriority"]["total"]) == (1, 1)
    assert counts["dedicated"]["idle"] == 1


@pytest.mark.parametrize("state", list(NodeState))
async def test_every_state_is_counted(busy: World, state: NodeState) -> None:
    busy.control.store.nodes.clear()
    busy.add_node().state = state
    (counts,) = (await busy.call("GET", "/nodecounts")).json()["value"]
    found = {name.lower(): count for name, count in counts["dedicated"].items() if count}
    assert found == {state.value: 1, "total": 1}
