"""Pools, their nodes and node counts over the wire."""

from typing import Any

import pytest

from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import PoolDeleteRequested, PoolResizeRequested, PoolResizeStopRequested
from millpond.domain.node import NodeError
from millpond.domain.pool import ResizeError
from millpond.domain.states import AllocationState, JobDefaultOrder, NodeDeallocationOption, NodeState, TaskState
from millpond.domain.task import NameValue
from millpond.providers.catalogue import catalogue
from tests.api.conftest import MACHINE, NODE, World

POOL: dict[str, Any] = {"id": "p1", "vmSize": "STANDARD_D2s_v3", "virtualMachineConfiguration": MACHINE}


async def test_create_and_get(world: World) -> None:
    body = {
        **POOL,
        "displayName": "Render",
        "targetDedicatedNodes": 2,
        "resizeTimeout": "PT15M00S",
        "taskSlotsPerNode": 8,
        "taskSchedulingPolicy": {"nodeFillType": "Pack"},
        "metadata": [{"name": "a", "value": "b"}],
        "networkConfiguration": {"dynamicVNetAssignmentScope": "None", "publicIPAddressConfiguration": None},
        "startTask": None,
        "enableAutoScale": False,
        "mountConfiguration": [],
    }
    answer = await world.call("POST", "/pools", body)
    assert answer.status == 201
    assert answer.body == b""
    url = "http://127.0.0.1:10010/pools/p1"
    assert answer.headers["location"] == answer.headers["dataserviceid"] == url
    assert answer.headers["etag"].startswith("0x8D")
    got = await world.call("GET", "/pools/P1")
    assert got.status == 200
    assert got.headers["etag"] == answer.headers["etag"]
    assert got.headers["last-modified"] == "Sat, 21 Nov 2026 04:30:48 GMT"
    assert got.json() == {
        "odata.metadata": "http://127.0.0.1:10010/$metadata#pools/@Element",
        "id": "p1",
        "displayName": "Render",
        "url": url,
        "eTag": answer.headers["etag"],
        "lastModified": "2026-11-21T04:30:48Z",
        "creationTime": "2026-11-21T04:30:48Z",
        "state": "active",
        "stateTransitionTime": "2026-11-21T04:30:48Z",
        "allocationState": "steady",
        "allocationStateTransitionTime": "2026-11-21T04:30:48Z",
        "vmSize": "STANDARD_D2s_v3",
        "virtualMachineConfiguration": MACHINE,
        "resizeTimeout": "PT15M",
        "currentDedicatedNodes": 0,
        "currentLowPriorityNodes": 0,
        "targetDedicatedNodes": 2,
        "targetLowPriorityNodes": 0,
        "enableAutoScale": False,
        "enableInterNodeCommunication": False,
        "taskSlotsPerNode": 8,
        "taskSchedulingPolicy": {"nodeFillType": "pack"},
        "metadata": [{"name": "a", "value": "b"}],
        "networkConfiguration": {"dynamicVNetAssignmentScope": "none"},
    }


async def test_numbers_and_booleans_as_strings(world: World) -> None:
    """`az` sends them so."""
    await world.add_pool(targetDedicatedNodes="3", taskSlotsPerNode="2", enableInterNodeCommunication="true")
    body = (await world.call("GET", "/pools/p1")).json()
    assert (body["targetDedicatedNodes"], body["taskSlotsPerNode"]) == (3, 2)
    assert body["enableInterNodeCommunication"] is True


async def test_everything_that_describes_is_kept_and_secrets_are_not(world: World) -> None:
    machine = {
        **MACHINE,
        "dataDisks": [{"lun": 0, "diskSizeGB": 64, "caching": "ReadWrite", "managedDisk": {}}],
        "osDisk": {"ephemeralOSDiskSettings": {"placement": "CacheDisk"}, "diskSizeGB": "30"},
        "securityProfile": {"uefiSettings": {"vTpmEnabled": True}, "securityType": "trustedlaunch"},
        "extensions": [
            {
                "name": "e",
                "publisher": "p",
                "type": "t",
                "settings": {"a": {"b": 1}},
                "protectedSettings": {"k": "hide"},
            }
        ],
    }
    more: dict[str, Any] = {
        "virtualMachineConfiguration": machine,
        "networkConfiguration": {
            "subnetId": "/s",
            "endpointConfiguration": {
                "inboundNATPools": [
                    {
                        "name": "ssh",
                        "protocol": "TCP",
                        "backendPort": 22,
                        "frontendPortRangeStart": 1,
                        "frontendPortRangeEnd": 9,
                    }
                ]
            },
        },
        "upgradePolicy": {"mode": "Manual", "automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": True}},
    }
    await world.add_pool(**more)
    answer = await world.call("GET", "/pools/p1")
    body = answer.json()
    shown = body["virtualMachineConfiguration"]
    assert shown["dataDisks"] == [{"lun": 0, "diskSizeGB": 64, "caching": "readwrite", "managedDisk": {}}]
    assert shown["osDisk"] == {"ephemeralOSDiskSettings": {"placement": "cachedisk"}, "diskSizeGB": 30}
    assert shown["securityProfile"] == {"securityType": "trustedLaunch", "uefiSettings": {"vTpmEnabled": True}}
    assert shown["extensions"] == [{"name": "e", "publisher": "p", "type": "t", "settings": {"a": {"b": 1}}}]
    assert b"hide" not in answer.body
    assert body["networkConfiguration"]["endpointConfiguration"]["inboundNATPools"][0]["protocol"] == "tcp"
    assert body["upgradePolicy"]["automaticOSUpgradePolicy"] == {"enableAutomaticOSUpgrade": True}


async def test_a_version_has_only_its_own_properties(world: World) -> None:
    withdrawn = {
        "applicationLicenses": ["maya"],
        "resourceTags": {"ipTags": "b"},
        "targetNodeCommunicationMode": "Simplified",
    }
    answer = await world.call("POST", "/pools", {**POOL, **withdrawn})
    assert (answer.status, answer.code) == (400, "UnsupportedProperty")
    assert answer.values() == {"PropertyName": "applicationLicenses"}
    old, new = "2024-02-01.19.0", {"taskSchedulingPolicy": {"nodeFillType": "pack", "jobDefaultOrder": "none"}}
    answer = await world.call("POST", "/pools", {**POOL, **new}, version=old)
    assert answer.values() == {"PropertyName": "taskSchedulingPolicy.jobDefaultOrder"}
    assert (await world.call("POST", "/pools", {**POOL, **withdrawn}, version=old)).status == 201
    of_old = (await world.call("GET", f"/pools/{POOL['id']}", version=old)).json()
    assert of_old["targetNodeCommunicationMode"] == "simplified"
    assert of_old["resourceTags"] == {"ipTags": "b"}
    of_new = (await world.call("GET", f"/pools/{POOL['id']}")).json()
    assert of_new.keys().isdisjoint(withdrawn)
    answer = await world.call("PATCH", f"/pools/{POOL['id']}", {"displayName": "x"}, version=old)
    assert answer.values() == {"PropertyName": "displayName"}
    answer = await world.call("DELETE", "/jobs/none", query="force=true", version=old)
    assert (answer.status, answer.code) == (400, "UnsupportedQueryParameter")


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"id": "a b"}, "InvalidPropertyValue", "id"),
        ({"id": "x" * 65}, "InvalidPropertyValue", "id"),
        ({"id": None}, "MissingRequiredProperty", "id"),
        ({"vmSize": None}, "MissingRequiredProperty", "vmSize"),
        ({"virtualMachineConfiguration": None}, "MissingRequiredProperty", "virtualMachineConfiguration"),
        (
            {"virtualMachineConfiguration": {"nodeAgentSKUId": "x"}},
            "MissingRequiredProperty",
            "virtualMachineConfiguration.imageReference",
        ),
        ({"vmSize": "standard_huge"}, "InvalidPropertyValue", "vmSize"),
        ({"displayName": "x" * 1025}, "InvalidPropertyValue", "displayName"),
        ({"displayName": 7}, "InvalidPropertyValue", "displayName"),
        ({"colour": "red"}, "UnsupportedProperty", "colour"),
        (
            {"virtualMachineConfiguration": {**MACHINE, "colour": 1}},
            "UnsupportedProperty",
            "virtualMachineConfiguration.colour",
        ),
        ({"taskSlotsPerNode": 9}, "InvalidPropertyValue", "taskSlotsPerNode"),
        ({"taskSlotsPerNode": 0}, "InvalidPropertyValue", "taskSlotsPerNode"),
        ({"taskSlotsPerNode": 10**30}, "InvalidPropertyValue", "taskSlotsPerNode"),
        ({"targetDedicatedNodes": -1}, "InvalidPropertyValue", "targetDedicatedNodes"),
        ({"targetLowPriorityNodes": 1.5}, "InvalidPropertyValue", "targetLowPriorityNodes"),
        ({"resizeTimeout": "PT4M59S"}, "InvalidPropertyValue", "resizeTimeout"),
        ({"resizeTimeout": "P8D"}, "InvalidPropertyValue", "resizeTimeout"),
        ({"resizeTimeout": "soon"}, "InvalidPropertyValue", "resizeTimeout"),
        (
            {"taskSchedulingPolicy": {"nodeFillType": "heap"}},
            "InvalidPropertyValue",
            "taskSchedulingPolicy.nodeFillType",
        ),
        ({"autoScaleFormula": "$x=1"}, "InvalidPropertyValue", "autoScaleFormula"),
        ({"metadata": [{"name": "", "value": ""}]}, "EmptyMetadataKey", "metadata[0].name"),
        ({"metadata": [{"name": "a"}]}, "MissingRequiredProperty", "metadata[0].value"),
    ],
)
async def test_bad_bodies(world: World, change: dict[str, Any], code: str, named: str) -> None:
    answer = await world.call("POST", "/pools", {**POOL, **change})
    assert (answer.status, answer.code) == (400, code)
    assert answer.values()["PropertyName"] == named
    assert not world.control.store.pools


async def test_an_unknown_size_tells_how_to_add_one(world: World) -> None:
    answer = await world.call("POST", "/pools", {**POOL, "vmSize": "mine"})
    reason = answer.values()["Reason"]
    assert "standard_a1_v2, standard_d2s_v3" in reason
    assert "[vm_sizes.<name>]" in reason


async def test_an_unknown_size_of_a_big_catalogue_is_told_what_is_like_it(world: World) -> None:
    world.control.vm_sizes = catalogue({})
    answer = await world.call("POST", "/pools", {**POOL, "vmSize": "Standrd_D2s_v3"})
    reason = answer.values()["Reason"]
    assert "standard_d2s_v3" in reason
    assert "and others" in reason
    assert len(reason) < 250


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"certificateReferences": [{}]}, "certificateReferences"),
        ({"cloudServiceConfiguration": {"osFamily": "4"}}, "cloudServiceConfiguration"),
        (
            {"virtualMachineConfiguration": {**MACHINE, "containerConfiguration": {"type": "dockerCompatible"}}},
            "virtualMachineConfiguration.containerConfiguration",
        ),
        (
            {"virtualMachineConfiguration": {**MACHINE, "windowsConfiguration": {}}},
            "virtualMachineConfiguration.windowsConfiguration",
        ),
        (
            {"virtualMachineConfiguration": {**MACHINE, "nodeAgentSKUId": "batch.node.windows amd64"}},
            "virtualMachineConfiguration.nodeAgentSKUId",
        ),
    ],
)
async def test_what_is_not_built_is_refused(world: World, change: dict[str, Any], named: str) -> None:
    # The last version that still knows what was withdrawn.
    answer = await world.call("POST", "/pools", {**POOL, **change}, version="2024-07-01.20.0")
    assert (answer.status, answer.code) == (501, "NotImplemented")
    assert answer.values()["PropertyName"] == named
    assert not world.control.store.pools


async def test_exists(busy: World) -> None:
    answer = await busy.call("HEAD", "/pools/p1")
    assert (answer.status, answer.body) == (200, b"")
    assert "etag" in answer.headers
    assert (await busy.call("HEAD", "/pools/none")).status == 404


async def test_twice(world: World) -> None:
    await world.add_pool()
    answer = await world.call("POST", "/pools", POOL)
    assert (answer.status, answer.code) == (409, "PoolExists")


async def test_resize(busy: World) -> None:
    before = (await busy.call("HEAD", "/pools/p1")).headers["etag"]
    body = {"targetDedicatedNodes": "4", "nodeDeallocationOption": "TaskCompletion", "resizeTimeout": "PT10M"}
    answer = await busy.call("POST", "/pools/p1/resize", body)
    assert (answer.status, answer.body) == (202, b"")
    assert answer.headers["etag"] != before
    assert answer.headers["dataserviceid"] == "http://127.0.0.1:10010/pools/p1"
    event = busy.control.events[-1]
    assert isinstance(event, PoolResizeRequested)
    assert (event.target_dedicated_nodes, event.target_low_priority_nodes) == (4, None)
    assert event.resize_timeout_s == 600
    assert event.node_deallocation_option is NodeDeallocationOption.TASK_COMPLETION
    assert event.cause == answer.headers["request-id"]
    assert (await busy.call("GET", "/pools/p1")).json()["allocationState"] == "resizing"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "MissingRequiredProperty"),
        (None, "InvalidRequestBody"),
        ({"targetDedicatedNodes": -1}, "InvalidPropertyValue"),
        ({"targetDedicatedNodes": 1, "resizeTimeout": "PT1M"}, "InvalidPropertyValue"),
        ({"targetDedicatedNodes": 1, "nodeDeallocationOption": "never"}, "InvalidPropertyValue"),
    ],
)
async def test_bad_resizes(busy: World, body: Any, code: str) -> None:
    answer = await busy.call("POST", "/pools/p1/resize", body)
    assert (answer.status, answer.code) == (400, code)


async def test_retained_data(busy: World) -> None:
    body = {"targetDedicatedNodes": 1, "nodeDeallocationOption": "RetainedData"}
    assert (await busy.call("POST", "/pools/p1/resize", body)).status == 202
    assert busy.control.events[-1].node_deallocation_option is NodeDeallocationOption.RETAINED_DATA


async def test_stop_resize_and_delete(busy: World) -> None:
    answer = await busy.call("POST", "/pools/p1/stopresize")
    assert (answer.status, answer.body) == (202, b"")
    assert isinstance(busy.control.events[-1], PoolResizeStopRequested)
    answer = await busy.call("DELETE", "/pools/p1")
    assert (answer.status, answer.body) == (202, b"")
    assert isinstance(busy.control.events[-1], PoolDeleteRequested)
    assert (await busy.call("GET", "/pools/p1")).json()["state"] == "deleting"
    assert (await busy.call("DELETE", "/pools/none")).code == "PoolNotFound"


async def test_refusals_of_the_scheduler_come_through(busy: World) -> None:
    busy.control.error = BatchError(ErrorCode.POOL_BEING_RESIZED)
    answer = await busy.call("POST", "/pools/p1/resize", {"targetDedicatedNodes": 1})
    assert (answer.status, answer.code) == (409, "PoolBeingResized")


async def test_resize_errors_are_shown_only_when_there_are_some(busy: World) -> None:
    assert "resizeErrors" not in (await busy.call("GET", "/pools/p1")).json()
    pool = busy.control.store.pools["p1"]
    pool.resize_errors = (ResizeError("AllocationTimedOut", "too slow", (NameValue("n", "v"),)),)
    assert (await busy.call("GET", "/pools/p1")).json()["resizeErrors"] == [
        {"code": "AllocationTimedOut", "message": "too slow", "values": [{"name": "n", "value": "v"}]}
    ]
    pool.allocation_state = AllocationState.RESIZING
    assert "resizeErrors" not in (await busy.call("GET", "/pools/p1")).json()


async def test_list_with_select_filter_and_pages(world: World) -> None:
    for name in ("c", "a", "b"):
        await world.add_pool(name)
    world.control.store.nodes["n"] = ("a", world.add_node("n", "a"))
    answer = await world.call("GET", "/pools", query="$select=id,currentDedicatedNodes&maxresults=2")
    body = answer.json()
    assert body["odata.metadata"] == "http://127.0.0.1:10010/$metadata#pools"
    assert body["value"] == [{"id": "a", "currentDedicatedNodes": 1}, {"id": "b", "currentDedicatedNodes": 0}]
    link = body["odata.nextLink"]
    assert link.startswith(
        "http://127.0.0.1:10010/pools?api-version=2025-06-01&$select=id,currentDedicatedNodes&maxresults=2&$skiptoken="
    )
    rest = link.split("api-version=2025-06-01&", 1)[1]
    assert (await world.call("GET", "/pools", query=rest)).json()["value"] == [{"id": "c", "currentDedicatedNodes": 0}]
    named = (await world.call("GET", "/pools", query="$filter=startswith(id,'a')")).json()
    assert [pool["id"] for pool in named["value"]] == ["a"]
    assert "odata.nextLink" not in named


async def test_conditions(busy: World) -> None:
    tag = (await busy.call("HEAD", "/pools/p1")).headers["etag"]
    stamp = "Sat, 21 Nov 2026 04:30:48 GMT"
    earlier = "Sat, 21 Nov 2026 04:30:47 GMT"
    met = [
        {"If-Match": tag},
        {"If-Match": f'"{tag}"'},
        {"If-Match": f'W/"{tag}"'},
        {"If-Match": f'"0x1", "{tag}"'},
        {"If-Match": "*"},
        {"If-None-Match": "0x1"},
        {"If-Modified-Since": earlier},
        {"If-Unmodified-Since": stamp},
        {"If-Match": tag, "If-Modified-Since": earlier},
    ]
    for headers in met:
        assert (await busy.call("GET", "/pools/p1", headers=headers)).status == 200, headers
    unmet = [
        {"If-Match": '"0x1"'},
        {"If-None-Match": tag},
        {"If-None-Match": "*"},
        {"If-Modified-Since": stamp},
        {"If-Unmodified-Since": earlier},
    ]
    for headers in unmet:
        read = await busy.call("GET", "/pools/p1", headers=headers)
        assert (read.status, read.body) == (304, b""), headers
        assert read.headers["etag"] == tag
        assert (await busy.call("HEAD", "/pools/p1", headers=headers)).status == 304
        write = await busy.call("POST", "/pools/p1/stopresize", headers=headers)
        assert (write.status, write.code) == (412, "ConditionNotMet"), headers
    for headers in (
        {"If-Match": tag, "If-None-Match": tag},
        {"If-Modified-Since": stamp, "If-Unmodified-Since": stamp},
    ):
        answer = await busy.call("GET", "/pools/p1", headers=headers)
        assert (answer.status, answer.code) == (400, "MultipleConditionHeadersNotSupported")
    for headers in ({"If-Modified-Since": "soon"}, {"If-Match": '""'}):
        answer = await busy.call("GET", "/pools/p1", headers=headers)
        assert (answer.status, answer.code) == (400, "InvalidHeaderValue")


async def test_what_a_node_says_of_itself_is_an_operation_of_its_own(busy: World) -> None:
    node = busy.control.store.nodes[NODE][1]
    plain = (await busy.call("GET", f"/pools/p1/nodes/{NODE}")).json()
    node.capabilities = (NameValue("isolation", "users"), NameValue("memoryLimitMiB", "8192"))
    assert (await busy.call("GET", f"/pools/p1/nodes/{NODE}")).json() == plain
    answer = await busy.call("GET", f"/pools/p1/nodes/{NODE}/properties")
    assert answer.json() == {
        "id": NODE,
        "properties": [{"name": "isolation", "value": "users"}, {"name": "memoryLimitMiB", "value": "8192"}],
    }
    assert (await busy.call("GET", "/pools/p1/nodes/other/properties")).code == "NodeNotFound"


async def test_nodes(busy: World) -> None:
    node = busy.control.store.nodes[NODE][1]
    node.last_boot_time = node.allocation_time + 1
    node.ip_address = "10.0.0.4"
    node.agent_version = "0.1.0"
    node.total_tasks_run = 1
    node.recent_tasks = (busy.control.store.task_of("j1", "t1").task.key,)
    node.errors = (NodeError("DiskFull", "no room", (NameValue("disk", "a"),)),)
    task = busy.control.store.task_of("j1", "t1").task
    task.node_id = NODE
    task.state = TaskState.RUNNING
    task.start_time = busy.now
    body = (await busy.call("GET", f"/pools/p1/nodes/{NODE}")).json()
    assert body == {
        "odata.metadata": "http://127.0.0.1:10010/$metadata#nodes/@Element",
        "id": NODE,
        "url": f"http://127.0.0.1:10010/pools/p1/nodes/{NODE}",
        "state": "idle",
        "schedulingState": "enabled",
        "stateTransitionTime": "2026-11-21T04:30:48Z",
        "lastBootTime": "2026-11-21T04:30:49Z",
        "allocationTime": "2026-11-21T04:30:48Z",
        "ipAddress": "10.0.0.4",
        "affinityId": f"TVM:{NODE}",
        "vmSize": "standard_d2s_v3",
        "totalTasksRun": 1,
        "runningTasksCount": 0,
        "runningTaskSlotsCount": 0,
        "totalTasksSucceeded": 0,
        "isDedicated": True,
        "errors": [{"code": "DiskFull", "message": "no room", "errorDetails": [{"name": "disk", "value": "a"}]}],
        "nodeAgentInfo": {"version": "0.1.0", "lastUpdateTime": "2026-11-21T04:30:49Z"},
        "virtualMachineInfo": {"imageReference": MACHINE["imageReference"]},
        "recentTasks": [
            {
                "taskUrl": "http://127.0.0.1:10010/jobs/j1/tasks/t1",
                "jobId": "j1",
                "taskId": "t1",
                "taskState": "running",
                "executionInfo": {"startTime": "2026-11-21T04:30:48Z", "retryCount": 0, "requeueCount": 0},
            }
        ],
    }
    listed = (await busy.call("GET", "/pools/p1/nodes", query="$select=id,state&$filter=state%20eq%20'idle'")).json()
    assert listed["value"] == [{"id": NODE, "state": "idle"}]
    assert (await busy.call("GET", "/pools/p1/nodes/none")).code == "NodeNotFound"
    assert (await busy.call("GET", "/pools/none/nodes/none")).code == "PoolNotFound"
    assert (await busy.call("GET", "/pools/none/nodes")).code == "PoolNotFound"


async def test_node_counts(busy: World) -> None:
    await busy.add_pool("p2")
    busy.add_node("spot", is_dedicated=False).state = NodeState.START_TASK_FAILED
    body = (await busy.call("GET", "/nodecounts")).json()
    first, second = body["value"]
    assert (first["poolId"], second["poolId"]) == ("p1", "p2")
    assert first["dedicated"]["idle"] == first["dedicated"]["total"] == 1
    assert first["lowPriority"]["startTaskFailed"] == first["lowPriority"]["total"] == 1
    assert set(second["dedicated"].values()) == set(second["lowPriority"].values()) == {0}
    assert len(second["dedicated"]) == 17
    only = (await busy.call("GET", "/nodecounts", query="$filter=poolId%20eq%20'P2'")).json()
    assert [entry["poolId"] for entry in only["value"]] == ["p2"]
    page = (await busy.call("GET", "/nodecounts", query="maxresults=1")).json()
    assert len(page["value"]) == 1
    assert "odata.nextLink" in page


async def test_node_counts_come_in_pages_of_ten(world: World) -> None:
    for number in range(12):
        await world.add_pool(f"p{number:02}")
    page = (await world.call("GET", "/nodecounts")).json()
    assert len(page["value"]) == 10
    rest = page["odata.nextLink"].partition("?")[2].partition("&")[2]
    last = (await world.call("GET", "/nodecounts", query=rest)).json()
    assert [entry["poolId"] for entry in last["value"]] == ["p10", "p11"]
    assert "odata.nextLink" not in last
    whole = (await world.call("GET", "/nodecounts", query="maxresults=1000")).json()
    assert len(whole["value"]) == 12
    # The one asked for is on the first page, wherever it is.
    only = (await world.call("GET", "/nodecounts", query="$filter=poolId%20eq%20'p11'")).json()
    assert ([entry["poolId"] for entry in only["value"]], "odata.nextLink" in only) == (["p11"], False)


async def test_supported_images(world: World) -> None:
    body = (await world.call("GET", "/supportedimages", query="$filter=verificationType%20eq%20'verified'")).json()
    assert body["value"]
    for image in body["value"]:
        assert image["osType"] == "linux"
        assert set(image["imageReference"]) == {"publisher", "offer", "sku", "version"}
    windows = (await world.call("GET", "/supportedimages", query="$filter=osType%20eq%20'windows'")).json()
    assert windows["value"] == []
    names = []
    query = "maxresults=2"
    while query:
        page = (await world.call("GET", "/supportedimages", query=query)).json()
        names += [image["imageReference"]["offer"] for image in page["value"]]
        query = page.get("odata.nextLink", "").partition("api-version=2025-06-01&")[2]
    assert len(names) == len(body["value"])


# --- users, order of jobs, gangs -------------------------------------------------------------------------------------

USERS = [
    {
        "name": "alice",
        "password": "pa55",
        "elevationLevel": "Admin",
        "linuxUserConfiguration": {"uid": 2000, "gid": 2000, "sshPrivateKey": "secret key"},
    },
    {"name": "B\u00f6b", "password": "hidden", "windowsUserConfiguration": {"loginMode": "batch"}},
]


async def test_named_users_are_kept_and_their_secrets_never_shown(world: World) -> None:
    await world.add_pool(userAccounts=USERS)
    assert world.control.store.pools["p1"].spec["userAccounts"] == [{**USERS[0], "elevationLevel": "admin"}, USERS[1]]
    shown = (await world.call("GET", "/pools/p1")).json()["userAccounts"]
    assert shown == [
        {"name": "alice", "elevationLevel": "admin", "linuxUserConfiguration": {"uid": 2000, "gid": 2000}},
        {"name": "B\u00f6b", "windowsUserConfiguration": {"loginMode": "batch"}},
    ]
    for path, query in (("/pools/p1", ""), ("/pools", ""), ("/pools", "$select=userAccounts")):
        body = (await world.call("GET", path, query=query)).body
        assert b"B" in body
        for secret in (b"pa55", b"secret key", b"hidden"):
            assert secret not in body


@pytest.mark.parametrize(
    ("account", "code", "named"),
    [
        ({"password": "p"}, "MissingRequiredProperty", "userAccounts[0].name"),
        ({"name": "u"}, "MissingRequiredProperty", "userAccounts[0].password"),
        ({"name": "", "password": "p"}, "InvalidPropertyValue", "userAccounts[0].name"),
        ({"name": "u" * 21, "password": "p"}, "InvalidPropertyValue", "userAccounts[0].name"),
        ({"name": "u", "password": ""}, "InvalidPropertyValue", "userAccounts[0].password"),
        (
            {"name": "u", "password": "p", "elevationLevel": "root"},
            "InvalidPropertyValue",
            "userAccounts[0].elevationLevel",
        ),
        (
            {"name": "u", "password": "p", "linuxUserConfiguration": {"uid": 1}},
            "InvalidPropertyValue",
            "userAccounts[0].linuxUserConfiguration",
        ),
        (
            {"name": "u", "password": "p", "linuxUserConfiguration": {"uid": -1, "gid": 1}},
            "InvalidPropertyValue",
            "userAccounts[0].linuxUserConfiguration.uid",
        ),
    ],
)
async def test_bad_users(world: World, account: dict[str, Any], code: str, named: str) -> None:
    answer = await world.call("POST", "/pools", {**POOL, "userAccounts": [account]})
    assert (answer.status, answer.code) == (400, code)
    assert answer.values()["PropertyName"] == named
    assert not world.control.store.pools


async def test_two_users_of_one_name(world: World) -> None:
    account = {"name": "u", "password": "p"}
    answer = await world.call("POST", "/pools", {**POOL, "userAccounts": [account, account]})
    assert (answer.status, answer.code) == (400, "InvalidPropertyValue")
    assert answer.values()["PropertyName"] == "userAccounts[1].name"


async def test_order_of_jobs_and_inter_node_communication(world: World) -> None:
    await world.add_pool()
    pool = world.control.store.pools["p1"]
    assert (pool.job_default_order, pool.inter_node_communication) == (JobDefaultOrder.NONE, False)
    policy = {"jobDefaultOrder": "CreationTime", "nodeFillType": "Pack"}
    await world.add_pool("p2", taskSchedulingPolicy=policy, enableInterNodeCommunication=True)
    pool = world.control.store.pools["p2"]
    assert (pool.job_default_order, pool.inter_node_communication) == (JobDefaultOrder.CREATION_TIME, True)
    assert (pool.auto_pool, pool.start_task) == (False, None)
    shown = (await world.call("GET", "/pools/p2")).json()
    assert shown["taskSchedulingPolicy"] == {"jobDefaultOrder": "creationtime", "nodeFillType": "pack"}
    assert shown["enableInterNodeCommunication"] is True
