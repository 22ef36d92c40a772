"""The management plane on the in-process app: the account, what is around it, its pools."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from millpond.api.asgi import create_app
from millpond.api.auth import AccountKeys
from millpond.api.gate import SignIn
from millpond.api.management.account import AccountQuotas, MemoryKeeper
from millpond.api.management.handlers.locations import family_of
from millpond.domain.events import PoolResizeRequested, PoolUpdated
from millpond.identity.management_token import make_token
from millpond.staging.auto_storage import AutoStorage
from tests.api.client import ACCOUNT, KEY, NOW, SECONDARY
from tests.api.conftest import MACHINE, World
from tests.api.test_management import GROUP, Issuer, call, error_of

SUBSCRIPTION = "/subscriptions/s1"
LOCATION = f"{SUBSCRIPTION}/providers/Microsoft.Batch/locations/here"
POOL = {
    "properties": {
        "vmSize": "standard_d2s_v3",
        "deploymentConfiguration": {
            "virtualMachineConfiguration": {
                "imageReference": {"publisher": "canonical", "offer": "ubuntu", "sku": "22_04-lts"},
                "nodeAgentSkuId": "batch.node.ubuntu 22.04",
            }
        },
    }
}


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def pool_with(**properties: Any) -> bytes:
    return text({"properties": {**POOL["properties"], **properties}})


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/tenants", "tenantId"),
        ("/subscriptions", "subscriptionId"),
        (f"{SUBSCRIPTION}/locations", "name"),
        (f"{SUBSCRIPTION}/resourceGroups", "name"),
        (f"{SUBSCRIPTION}/resources", "name"),
        (f"{SUBSCRIPTION}/resourceGroups/g1/resources", "name"),
        (f"{SUBSCRIPTION}/providers", "namespace"),
        ("/providers/Microsoft.Batch/operations", "name"),
    ],
)
async def test_what_is_around_the_account(world: World, path: str, key: str) -> None:
    version = "2022-12-01" if "Batch" not in path else "2025-06-01"
    answer = await call(world, "GET", path, version=version)
    assert answer.status == 200
    assert all(item[key] for item in answer.json()["value"])
    assert answer.json()["value"]


async def test_providers(world: World) -> None:
    answer = await call(world, "GET", f"{SUBSCRIPTION}/providers/Microsoft.Compute")
    assert error_of(answer) == (404, "InvalidResourceNamespace")
    answer = await call(world, "POST", f"{SUBSCRIPTION}/providers/microsoft.batch/register")
    assert answer.json()["registrationState"] == "Registered"
    assert error_of(await call(world, "GET", f"{SUBSCRIPTION}/resourcegroups", version="soon")) == (
        400,
        "InvalidApiVersionParameter",
    )


async def test_groups_are_made_and_kept(world: World) -> None:
    group = f"{SUBSCRIPTION}/resourcegroups/g1"
    more = {"version": "2024-11-01"}
    assert (await call(world, "HEAD", group, **more)).status == 404
    assert error_of(await call(world, "GET", group, **more)) == (404, "ResourceGroupNotFound")
    body = text({"location": "West Europe", "tags": {"a": "b"}})
    assert error_of(await call(world, "PUT", group, b"{}", **more)) == (400, "LocationRequired")
    assert error_of(await call(world, "PUT", f"{group}%3F", body, **more)) == (400, "InvalidResourceGroup")
    assert (await call(world, "PUT", group, body, **more)).status == 201
    assert (await call(world, "HEAD", group.upper(), **more)).status == 204
    found = (await call(world, "GET", group, **more)).json()
    assert (found["name"], found["location"], found["tags"]) == ("g1", "westeurope", {"a": "b"})
    assert (await call(world, "PATCH", group, text({"tags": {"c": "d"}}), **more)).json()["tags"] == {"c": "d"}
    assert (await call(world, "PUT", group, text({"location": "westeurope"}), **more)).json()["tags"] == {}
    moved = await call(world, "PUT", group, text({"location": "north"}), **more)
    assert error_of(moved) == (409, "InvalidResourceGroupLocation")
    listed = (await call(world, "GET", f"{SUBSCRIPTION}/resourcegroups", **more)).json()["value"]
    assert [one["name"] for one in listed] == ["millpond", "g1"]
    assert (await call(world, "DELETE", group, **more)).status == 200
    assert (await call(world, "HEAD", group, **more)).status == 404


async def test_the_first_account_is_in_every_group_that_was_not_made(world: World) -> None:
    def names(answer: Any) -> list[str]:
        return [one["name"] for one in answer.json()["value"]]

    made, other = (f"{SUBSCRIPTION}/resourceGroups/{name}" for name in ("made", "other"))
    accounts = "providers/Microsoft.Batch/batchAccounts"
    assert (await call(world, "PUT", made, text({"location": "x"}), version="2024-11-01")).status == 201
    assert names(await call(world, "GET", f"{other}/{accounts}")) == [ACCOUNT]
    assert names(await call(world, "GET", f"{made}/{accounts}")) == []
    # It can be named by any, and is in one it was put into.
    assert (await call(world, "GET", f"{made}/{accounts}/{ACCOUNT}")).status == 200
    assert (await call(world, "PUT", f"{made}/{accounts}/{ACCOUNT}", text({"location": "x"}))).status == 200
    assert names(await call(world, "GET", f"{made}/{accounts}")) == [ACCOUNT]
    blocked = (409, "ResourceGroupDeletionBlocked")
    assert error_of(await call(world, "DELETE", made, version="2024-11-01")) == blocked
    millpond = f"{SUBSCRIPTION}/resourceGroups/millpond"
    assert error_of(await call(world, "DELETE", millpond, version="2024-11-01")) == blocked
    assert (await call(world, "HEAD", millpond, version="2024-11-01")).status == 204


@pytest.mark.parametrize(
    ("where", "count"),
    [("resourceType%20eq%20'Microsoft.Batch/batchAccounts'", 1), ("resourceType%20eq%20'Microsoft.Compute/disks'", 0)],
)
async def test_resources_by_filter(world: World, where: str, count: int) -> None:
    answer = await call(world, "GET", f"{SUBSCRIPTION}/resources", query=[f"$filter={where}"])
    assert len(answer.json()["value"]) == count


@pytest.mark.parametrize(
    ("size", "family"),
    [
        ("Standard_D2s_v3", "standardDSv3Family"),
        ("Standard_A2m_v2", "standardAv2Family"),
        ("Standard_DS14_v2", "standardDSv2Family"),
        ("Standard_H8", "standardHFamily"),
        ("local", "local"),
    ],
)
def test_families(size: str, family: str) -> None:
    assert family_of(size) == family


@pytest.mark.parametrize(
    ("role", "sees", "scales", "owns"),
    [("reader", 200, 403, 403), ("operator", 200, 200, 403), ("admin", 200, 200, 200)],
)
async def test_roles(world: World, role: str, sees: int, scales: int, owns: int) -> None:
    app = create_app(
        world.control, AccountKeys(ACCOUNT, KEY, SECONDARY), world.storage, SignIn(verifier=Issuer()), management="off"
    )
    more = {"token": f"eyJhbGciOiJSUzI1NiJ9.x.{role}", "app": app}
    name = text({"name": "abc", "type": "Microsoft.Batch/batchAccounts"})
    assert (await call(world, "POST", f"{LOCATION}/checkNameAvailability", name, **more)).status == sees
    assert (await call(world, "PUT", "pools/p1", text(POOL), **more)).status == scales
    assert (await call(world, "GET", "pools", **more)).status == sees
    assert (await call(world, "POST", "listKeys", **more)).status == owns
    assert (await call(world, "PATCH", "", text({"tags": {}}), **more)).status == owns


class FailingKeeper(MemoryKeeper):
    def write_account_keys(self, primary: str, secondary: str) -> None:
        raise OSError("the disk is full")


async def test_a_key_that_cannot_be_kept_is_not_used(world: World) -> None:
    app = create_app(world.control, AccountKeys(ACCOUNT, KEY, SECONDARY), world.storage, keeper=FailingKeeper())
    answer = await call(world, "POST", "regenerateKeys", b'{"keyName":"Primary"}', app=app)
    assert error_of(answer) == (500, "InternalError")
    # The old one is good as it was.
    assert (await call(world, "GET", "", app=app)).status == 200
    assert error_of(await call(world, "POST", "regenerateKeys", b'{"keyName":"Third"}'))[0] == 400


async def test_keys_replaced_at_the_same_time_are_all_kept(world: World) -> None:
    keeper = MemoryKeeper()
    keys = AccountKeys(ACCOUNT, KEY, SECONDARY)
    app = create_app(world.control, keys, world.storage, keeper=keeper)
    token = make_token(ACCOUNT, KEY, NOW)
    bodies = [b'{"keyName":"Primary"}', b'{"keyName":"secondary"}']
    await asyncio.gather(*(call(world, "POST", "regenerateKeys", body, app=app, token=token) for body in bodies))
    answer = await call(world, "POST", "listKeys", app=app, token=make_token(ACCOUNT, keys.secondary, NOW))
    assert keeper.keys == (answer.json()["primary"], answer.json()["secondary"])
    assert KEY not in (keys.primary, keys.secondary)
    assert SECONDARY not in (keys.primary, keys.secondary)


async def test_modes_do_not_go_beyond_the_configuration(world: World, tmp_path: Path) -> None:
    def app_of(modes: tuple[str, ...], keeper: MemoryKeeper) -> Any:
        storage = AutoStorage(str(tmp_path / "s"), ACCOUNT, KEY, lambda: world.now)
        return create_app(world.control, AccountKeys(ACCOUNT, KEY, SECONDARY), storage, SignIn(modes), keeper=keeper)

    keeper = MemoryKeeper()
    body = {"properties": {"allowedAuthenticationModes": ["TaskAuthenticationToken", "SharedKey"]}}
    app = app_of(("SharedKey",), keeper)
    answer = await call(world, "PATCH", "", text(body), app=app)
    assert error_of(answer) == (400, "InvalidPropertyValue")
    assert "auth.modes" in answer.json()["error"]["message"]
    app = app_of(("SharedKey", "TaskAuthenticationToken"), keeper)
    assert (await call(world, "PATCH", "", text(body), app=app)).status == 200
    # What was set stays within a configuration that has become narrower.
    answer = await call(world, "GET", "", app=app_of(("SharedKey",), keeper))
    assert answer.json()["properties"]["allowedAuthenticationModes"] == ["SharedKey"]


async def test_settings_that_cannot_be_read(world: World) -> None:
    keeper = MemoryKeeper()
    keeper.settings = {"tags": 7}
    with pytest.raises(ValueError, match="tags"):
        create_app(world.control, AccountKeys(ACCOUNT, KEY, SECONDARY), world.storage, keeper=keeper)


async def test_quotas_are_those_of_the_configuration(world: World) -> None:
    keys = AccountKeys(ACCOUNT, KEY, SECONDARY)
    app = create_app(world.control, keys, world.storage, quotas=AccountQuotas(7, None))
    properties = (await call(world, "GET", "", app=app)).json()["properties"]
    assert (properties["poolQuota"], properties["activeJobAndJobScheduleQuota"]) == (7, 2**31 - 1)


async def test_a_pool_of_the_data_plane_is_shown_in_the_other_form(world: World) -> None:
    machine = {**MACHINE, "osDisk": {"caching": "readwrite", "managedDisk": {"storageAccountType": "premium_lrs"}}}
    await world.add_pool(
        virtualMachineConfiguration=machine,
        startTask={
            "commandLine": "true",
            "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}},
            "environmentSettings": [{"name": "scope", "value": "task"}],
        },
        metadata=[{"name": "access", "value": "allow"}],
        networkConfiguration={"dynamicVNetAssignmentScope": "none"},
        applicationPackageReferences=[],
    )
    own = (await call(world, "GET", "pools/p1")).json()["properties"]
    shown = own["deploymentConfiguration"]["virtualMachineConfiguration"]
    assert shown["nodeAgentSkuId"] == MACHINE["nodeAgentSKUId"]
    assert shown["osDisk"] == {"caching": "ReadWrite", "managedDisk": {"storageAccountType": "Premium_LRS"}}
    assert own["startTask"]["userIdentity"] == {"autoUser": {"scope": "Pool", "elevationLevel": "Admin"}}
    # What users have written is theirs, whatever it looks like.
    assert own["startTask"]["environmentSettings"] == [{"name": "scope", "value": "task"}]
    assert own["metadata"] == [{"name": "access", "value": "allow"}]
    assert own["networkConfiguration"] == {"dynamicVnetAssignmentScope": "none"}
    assert (own["allocationState"], own["interNodeCommunication"]) == ("Steady", "Disabled")


async def test_a_put_of_what_was_read_changes_nothing(world: World) -> None:
    accounts = [{"name": "jane", "password": "s", "elevationLevel": "Admin"}]
    assert (await call(world, "PUT", "pools/p1", pool_with(userAccounts=accounts, metadata=[]))).status == 200
    read = await call(world, "GET", "pools/p1")
    world.control.events.clear()
    answer = await call(world, "PUT", "pools/p1", read.body)
    assert (answer.status, answer.json()["etag"]) == (200, read.json()["etag"])
    assert not any(isinstance(event, PoolUpdated) and event.changes.spec for event in world.control.events)


async def test_a_put_takes_away_and_a_patch_leaves(world: World) -> None:
    start = {"commandLine": "true"}
    slots = {"taskSlotsPerNode": 2, "displayName": "Two"}
    assert (await call(world, "PUT", "pools/p1", pool_with(startTask=start, **slots))).status == 200
    answer = await call(world, "PATCH", "pools/p1", text({"properties": {"metadata": [{"name": "a", "value": "b"}]}}))
    assert answer.json()["properties"]["startTask"]["commandLine"] == "true"
    world.control.events.clear()
    answer = await call(world, "PUT", "pools/p1", text(POOL))
    assert "startTask" not in answer.json()["properties"]
    (event,) = world.control.events
    assert event.changes.remove_start_task
    assert sorted(event.changes.needs_empty_pool) == ["displayName", "taskSlotsPerNode"]
    assert event.changes.task_slots_per_node == 1


async def test_conditions_and_sizes(world: World) -> None:
    assert (await call(world, "PUT", "pools/p1", text(POOL))).status == 200
    scale = {"scaleSettings": {"fixedScale": {"targetDedicatedNodes": 2, "nodeDeallocationOption": "Terminate"}}}
    world.control.events.clear()
    assert (await call(world, "PATCH", "pools/p1", text({"properties": scale}))).status == 200
    (event,) = world.control.events
    assert isinstance(event, PoolResizeRequested)
    assert (event.target_dedicated_nodes, event.node_deallocation_option.value) == (2, "terminate")
    both = {"fixedScale": {}, "autoScale": {"formula": "$TargetDedicatedNodes=1"}}
    answer = await call(world, "PATCH", "pools/p1", text({"properties": {"scaleSettings": both}}))
    assert error_of(answer) == (400, "InvalidAutoScalingSettings")
    answer = await call(world, "PUT", "pools/p2", pool_with(scaleSettings=both))
    assert error_of(answer) == (400, "InvalidAutoScalingSettings")


@pytest.mark.parametrize(
    ("body", "code", "name"),
    [
        ({"properties": {"vmSize": "x"}}, "MissingRequiredProperty", "properties.deploymentConfiguration"),
        ({"properties": {"wat": 1}}, "UnsupportedProperty", "properties.wat"),
        ({"identity": {"type": "SystemAssigned"}, **POOL}, "InvalidPropertyValue", "identity.type"),
        (
            {"properties": {**POOL["properties"], "startTask": {"commandLine": "", "wat": 1}}},
            "UnsupportedProperty",
            "properties.startTask.wat",
        ),
    ],
)
async def test_bodies_that_cannot_be(world: World, body: Any, code: str, name: str) -> None:
    for prepared in (False, True):
        if prepared:
            await world.add_pool()
        answer = await call(world, "PUT", "pools/p1", text(body))
        assert error_of(answer) == (400, code), answer.body
        assert name in answer.json()["error"]["message"]


async def test_pools_by_filter_and_page(world: World) -> None:
    for number in range(3):
        await world.add_pool(f"p{number}", displayName=f"d{number}")
    answer = await call(world, "GET", "pools", query=["maxresults=2"])
    assert [one["name"] for one in answer.json()["value"]] == ["p0", "p1"]
    rest = answer.json()["nextLink"].partition("?")[2].split("&")
    answer = await call(world, "GET", "pools", version="", query=rest)
    assert [one["name"] for one in answer.json()["value"]] == ["p2"]
    where = "$filter=properties/displayName%20eq%20'd1'"
    answer = await call(world, "GET", "pools", query=[where])
    assert [one["name"] for one in answer.json()["value"]] == ["p1"]
    assert error_of(await call(world, "GET", "pools", query=["$select=name"]))[0] == 400


async def test_deletions(world: World) -> None:
    assert (await call(world, "DELETE", "pools/p1")).status == 204
    await world.add_pool()
    answer = await call(world, "DELETE", "pools/p1")
    assert answer.status == 202
    path = answer.headers["location"].partition(GROUP)[2].partition("?")[0].strip("/")
    assert (await call(world, "GET", path)).status == 202
    assert (await call(world, "DELETE", "pools/p1")).status == 202
    world.control.store.pools.clear()
    assert (await call(world, "GET", path)).status == 200
    assert (await call(world, "GET", "poolOperationResults/other")).status == 200
