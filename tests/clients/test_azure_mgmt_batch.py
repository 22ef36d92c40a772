"""The management plane with azure-mgmt-batch, unmodified: the account, its keys, pools, locations."""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.core import MatchConditions
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import (
    HttpResponseError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.mgmt.batch import BatchManagementClient
from azure.mgmt.batch import models as am

from millpond.staging.auto_storage import sign_url
from tests.clients.conftest import connect
from tests.clients.management import HTTP, management_client
from tests.conftest import MillpondProcess, ServiceFactory
from tests.waiting import PATIENCE_S, until

GROUP = "any-group"
LOCATION = "westeurope"
IMAGE = am.DeploymentConfiguration(
    virtual_machine_configuration=am.VirtualMachineConfiguration(
        image_reference=am.ImageReference(publisher="canonical", offer="0001-com-ubuntu-server-jammy", sku="22_04-lts"),
        node_agent_sku_id="batch.node.ubuntu 22.04",
    )
)
FAST: dict[str, Any] = {**HTTP, "polling_interval": 0.1}


@pytest.fixture(scope="module")
def manager(service: Any) -> Iterator[BatchManagementClient]:
    with management_client(service) as client:
        yield client


def code_of(caught: "pytest.ExceptionInfo[HttpResponseError]") -> tuple[int | None, str]:
    assert caught.value.error is not None
    return caught.value.status_code, str(caught.value.error.code)


def test_the_account_is_created_updated_and_kept(new_service: ServiceFactory) -> None:
    service = new_service("data").start()
    with management_client(service) as manager:
        accounts = manager.batch_account
        body = am.BatchAccountCreateParameters(
            location="West Europe",
            tags={"team": "render"},
            properties=am.BatchAccountCreateProperties(
                auto_storage=am.AutoStorageBaseProperties(storage_account_id=f"/x/storageAccounts/{service.account}"),
                allowed_authentication_modes=["SharedKey", "TaskAuthenticationToken"],
            ),
            identity=am.BatchAccountIdentity(type="UserAssigned", user_assigned_identities={"/ids/one": {}}),
        )
        made = accounts.begin_create(GROUP, service.account, body, **FAST).result()
        assert (made.location, made.tags) == ("west europe", {"team": "render"})
        update = am.BatchAccountUpdateParameters(tags={"team": "sim"})
        assert accounts.update(GROUP, service.account, update, **HTTP).tags == {"team": "sim"}
        assert [one.name for one in accounts.list(**HTTP)] == [service.account]
        assert [one.name for one in accounts.list_by_resource_group(GROUP, **HTTP)] == [service.account]
    service.kill()
    service.start()
    with management_client(service) as manager:
        account = manager.batch_account.get(GROUP, service.account, **HTTP)
        assert (account.location, account.tags) == ("west europe", {"team": "sim"})
        assert account.identity is not None
        assert list(account.identity.user_assigned_identities or ()) == ["/ids/one"]
        assert account.properties is not None
        assert account.properties.allowed_authentication_modes == ["SharedKey", "TaskAuthenticationToken"]
        assert account.properties.auto_storage is not None


def test_modes_are_honoured_at_once(new_service: ServiceFactory) -> None:
    service = new_service("data", "--development-issuer").start()
    with management_client(service) as manager, connect(service) as batch:
        assert list(batch.list_pools()) == []
        body = am.BatchAccountUpdateParameters(
            properties=am.BatchAccountUpdateProperties(allowed_authentication_modes=["AAD"])
        )
        account = manager.batch_account.update(GROUP, service.account, body, **HTTP)
        assert account.properties is not None
        assert account.properties.allowed_authentication_modes == ["AAD"]
        with pytest.raises(HttpResponseError, match="The account does not take SharedKey; it takes AAD"):
            list(batch.list_pools())
        # Who has the key cannot turn it back; who signs in can (tests/process/test_azure_cli.py).
        with pytest.raises(HttpResponseError, match="does not take SharedKey"):
            manager.batch_account.get_keys(GROUP, service.account, **HTTP)


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ({"pool_allocation_mode": "UserSubscription"}, "there is BatchService only"),
        ({"public_network_access": "Disabled"}, "server.host"),
        ({"key_vault_reference": am.KeyVaultReference(id="/v", url="https://v")}, "there is no key vault"),
        ({"encryption": am.EncryptionProperties(key_source="Microsoft.KeyVault")}, "there is no key vault"),
        ({"auto_storage": am.AutoStorageBaseProperties(storage_account_id="/storageAccounts/other")}, r"\[storage\]"),
        ({"allowed_authentication_modes": ["AAD"]}, "AAD needs an issuer"),
        ({"allowed_authentication_modes": ["TaskAuthenticationToken"]}, "nobody could manage"),
    ],
)
def test_what_cannot_be_had_is_refused(
    service: Any, manager: BatchManagementClient, properties: dict[str, Any], problem: str
) -> None:
    body = am.BatchAccountCreateParameters(location=LOCATION, properties=am.BatchAccountCreateProperties(**properties))
    with pytest.raises(HttpResponseError, match=problem) as caught:
        manager.batch_account.begin_create(GROUP, service.account, body, **FAST)
    assert code_of(caught) == (400, "InvalidPropertyValue")


def test_the_first_account_cannot_be_deleted(service: Any, manager: BatchManagementClient) -> None:
    with pytest.raises(ResourceNotFoundError):
        manager.batch_account.get(GROUP, "another", **HTTP)
    with pytest.raises(HttpResponseError, match="remove its data directory") as caught:
        manager.batch_account.begin_delete(GROUP, service.account, **FAST)
    assert code_of(caught) == (409, "AccountCannotBeDeleted")


def test_a_new_key_is_good_at_once_and_the_old_one_no_more(new_service: ServiceFactory) -> None:
    service = new_service("data").start()
    with management_client(service) as manager:
        before = manager.batch_account.get_keys(GROUP, service.account, **HTTP)
        assert before.primary == service.key

        def renew(name: str) -> am.BatchAccountKeys:
            body = am.BatchAccountRegenerateKeyParameters(key_name=name)
            return manager.batch_account.regenerate_key(GROUP, service.account, body, **HTTP)

        after = renew("Secondary")
        assert (after.primary, after.secondary != before.secondary) == (before.primary, True)
        assert _opens(service, after.secondary)
        assert not _opens(service, before.secondary)
        # The token of this client was made with the old primary.
        last = renew("Primary")
        assert last.secondary == after.secondary
        assert _opens(service, last.primary)
        assert not _opens(service, before.primary)
        with pytest.raises(HttpResponseError) as caught:
            manager.batch_account.get_keys(GROUP, service.account, **HTTP)
        assert code_of(caught) == (401, "InvalidAuthenticationToken")
    kept = json.loads((service.data_dir / "keys.json").read_text())
    assert kept == {"primary": last.primary, "secondary": last.secondary}
    service.kill()
    service.start()
    assert service.key == last.primary
    assert _opens(service, last.primary)
    assert not _opens(service, before.primary)


def _opens(service: MillpondProcess, key: str | None) -> bool:
    assert key is not None
    with BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, key)) as client:
        try:
            list(client.list_pools())
        except HttpResponseError as error:
            return error.status_code != 403
        return True


def test_what_surrounds_the_account(service: Any, manager: BatchManagementClient) -> None:
    accounts = manager.batch_account
    account = service.account
    accounts.synchronize_auto_storage_keys(GROUP, account, **HTTP)
    assert list(accounts.list_detectors(GROUP, account, **HTTP)) == []
    with pytest.raises(ResourceNotFoundError):
        accounts.get_detector(GROUP, account, "poolsAndNodes", **HTTP)
    (group,) = accounts.list_outbound_network_dependencies_endpoints(GROUP, account, **HTTP)
    assert group.endpoints is not None
    assert group.endpoints[0].domain_name == "127.0.0.1"
    assert list(manager.private_link_resource.list_by_batch_account(GROUP, account, **HTTP)) == []
    assert list(manager.private_endpoint_connection.list_by_batch_account(GROUP, account, **HTTP)) == []
    assert list(manager.network_security_perimeter.list_configurations(GROUP, account, **HTTP)) == []
    names = [operation.name for operation in manager.operations.list(**HTTP)]
    assert "Microsoft.Batch/batchAccounts/pools/write" in names
    assert "Microsoft.Batch/batchAccounts/listKeys/action" in names


def test_locations(service: Any, manager: BatchManagementClient) -> None:
    assert manager.location.get_quotas(LOCATION, **HTTP).account_quota == 3
    skus = {sku.name: sku for sku in manager.location.list_supported_virtual_machine_skus(LOCATION, **HTTP)}
    capabilities = {one.name: one.value for one in skus["Standard_D2s_v3"].capabilities or ()}
    assert capabilities == {"vCPUs": "2", "MemoryGB": "8"}
    family = "standardDSv3Family"
    found = manager.location.list_supported_virtual_machine_skus(
        LOCATION, maxresults=2, filter=f"familyName eq '{family}'", **HTTP
    )
    assert [sku.name for sku in found] == sorted(sku.name or "" for sku in skus.values() if sku.family_name == family)
    for name, reason in ((service.account, "AlreadyExists"), ("No!", "Invalid"), ("free", None)):
        body = am.CheckNameAvailabilityParameters(name=name, type="Microsoft.Batch/batchAccounts")
        answer = manager.location.check_name_availability(LOCATION, body, **HTTP)
        assert (answer.name_available, answer.reason) == (reason is None, reason)


def test_a_pool_is_made_seen_on_both_planes_and_deleted(service: Any, manager: BatchManagementClient) -> None:
    pool = am.Pool(
        tags={"team": "render"},
        identity=am.BatchPoolIdentity(type="UserAssigned", user_assigned_identities={"/ids/one": {}}),
        properties=am.PoolProperties(
            display_name="Renderers",
            vm_size="STANDARD_D2S_V3",
            deployment_configuration=IMAGE,
            scale_settings=am.ScaleSettings(fixed_scale=am.FixedScaleSettings(target_dedicated_nodes=1)),
            inter_node_communication="Enabled",
            task_slots_per_node=4,
            task_scheduling_policy=am.TaskSchedulingPolicy(node_fill_type="Pack"),
            metadata=[am.MetadataItem(name="policy", value="regional")],
            user_accounts=[am.UserAccount(name="jane", password="s3cret", elevation_level="Admin")],
            start_task=am.StartTask(
                command_line="/bin/true",
                wait_for_success=True,
                user_identity=am.UserIdentity(user_name="jane"),
                environment_settings=[am.EnvironmentSetting(name="scope", value="task")],
            ),
            network_configuration=am.NetworkConfiguration(
                endpoint_configuration=am.PoolEndpointConfiguration(
                    inbound_nat_pools=[
                        am.InboundNatPool(
                            name="ssh",
                            protocol="TCP",
                            backend_port=22,
                            frontend_port_range_start=1,
                            frontend_port_range_end=2,
                        )
                    ]
                )
            ),
        ),
    )
    made = manager.pool.create(GROUP, service.account, "arm", pool, **HTTP)
    shown = made.properties
    assert shown is not None
    assert (shown.provisioning_state, made.name, made.tags) == ("Succeeded", "arm", {"team": "render"})
    assert made.identity is not None
    assert list(made.identity.user_assigned_identities or ()) == ["/ids/one"]
    assert shown.task_scheduling_policy is not None
    assert shown.start_task is not None
    assert shown.start_task.user_identity is not None
    assert shown.user_accounts is not None
    assert shown.metadata is not None
    assert shown.start_task.environment_settings is not None
    assert (
        shown.inter_node_communication,
        shown.task_scheduling_policy.node_fill_type,
        shown.start_task.user_identity.user_name,
        shown.user_accounts[0].elevation_level,
        shown.metadata[0].value,
        shown.start_task.environment_settings[0].value,
    ) == ("Enabled", "Pack", "jane", "Admin", "regional", "task")
    assert shown.network_configuration is not None
    assert shown.network_configuration.endpoint_configuration is not None
    (nat,) = shown.network_configuration.endpoint_configuration.inbound_nat_pools
    assert nat.protocol == "TCP"
    # The same pool.
    with connect(service) as batch:
        other = batch.get_pool("arm")
        assert (other.display_name, other.task_slots_per_node, other.target_dedicated_nodes) == ("Renderers", 4, 1)
        assert other.start_task is not None
        assert other.start_task.user_identity is not None
        assert other.start_task.user_identity.username == "jane"
    # Sent back as it was read, it changes nothing.
    again = manager.pool.create(GROUP, service.account, "arm", made, **HTTP)
    assert again.etag == made.etag
    assert [one.name for one in manager.pool.list_by_batch_account(GROUP, service.account, **HTTP)] == ["arm"]
    manager.pool.begin_delete(GROUP, service.account, "arm", **FAST).result()
    with pytest.raises(ResourceNotFoundError) as caught:
        manager.pool.get(GROUP, service.account, "arm", **HTTP)
    assert code_of(caught) == (404, "PoolNotFound")
    manager.pool.begin_delete(GROUP, service.account, "arm", **FAST).result()


def _simple(nodes: int = 0, **more: Any) -> am.Pool:
    scale = am.ScaleSettings(fixed_scale=am.FixedScaleSettings(target_dedicated_nodes=nodes))
    given: dict[str, Any] = {
        "vm_size": "standard_d2s_v3",
        "deployment_configuration": IMAGE,
        "scale_settings": scale,
        **more,
    }
    return am.Pool(properties=am.PoolProperties(**given))


def _patch(**properties: Any) -> am.Pool:
    return am.Pool(properties=am.PoolProperties(**properties))


def test_a_pools_size(service: Any, manager: BatchManagementClient) -> None:
    account = service.account
    auto = am.AutoScaleSettings(formula="$TargetDedicatedNodes = 1;", evaluation_interval="PT1H")
    made = manager.pool.create(
        GROUP, account, "sized", _simple(scale_settings=am.ScaleSettings(auto_scale=auto)), **HTTP
    )
    assert made.properties is not None
    assert made.properties.scale_settings is not None
    assert made.properties.scale_settings.auto_scale is not None
    assert made.properties.scale_settings.auto_scale.formula == auto.formula
    seen = until(
        lambda: manager.pool.get(GROUP, account, "sized", **HTTP).properties, lambda seen: seen and seen.auto_scale_run
    )
    assert seen is not None
    assert seen.auto_scale_run is not None
    assert "$TargetDedicatedNodes=1" in str(seen.auto_scale_run.results)
    assert _until_steady(manager, account, "sized").current_dedicated_nodes == 1
    bad = am.ScaleSettings(auto_scale=am.AutoScaleSettings(formula="$Target ="))
    with pytest.raises(HttpResponseError) as caught:
        manager.pool.update(GROUP, account, "sized", _patch(scale_settings=bad), **HTTP)
    assert code_of(caught) == (400, "AutoScalingFormulaSyntaxError")
    # A fixed size ends the formula.
    fixed = am.FixedScaleSettings(target_dedicated_nodes=0, node_deallocation_option="Terminate")
    body = _patch(scale_settings=am.ScaleSettings(fixed_scale=fixed))
    assert _fixed(manager.pool.update(GROUP, account, "sized", body, **HTTP)).target_dedicated_nodes == 0
    assert _until_steady(manager, account, "sized").current_dedicated_nodes == 0
    body = _patch(scale_settings=am.ScaleSettings(auto_scale=auto))
    manager.pool.update(GROUP, account, "sized", body, **HTTP)
    _fixed(manager.pool.disable_auto_scale(GROUP, account, "sized", **HTTP))
    with pytest.raises(HttpResponseError) as caught:
        manager.pool.stop_resize(GROUP, account, "sized", **HTTP)
    assert code_of(caught) == (409, "OperationInvalidForCurrentState")
    manager.pool.begin_delete(GROUP, account, "sized", **FAST).result()


def _fixed(pool: am.Pool) -> am.FixedScaleSettings:
    assert pool.properties is not None
    assert pool.properties.scale_settings is not None
    assert pool.properties.scale_settings.auto_scale is None
    assert pool.properties.scale_settings.fixed_scale is not None
    return pool.properties.scale_settings.fixed_scale


def _until_steady(manager: BatchManagementClient, account: str, pool: str) -> am.PoolProperties:
    seen = until(
        lambda: manager.pool.get(GROUP, account, pool, **HTTP).properties,
        lambda seen: seen and seen.allocation_state == "Steady",
    )
    assert seen is not None
    return seen


def test_conditions_on_pools(service: Any, manager: BatchManagementClient) -> None:
    account = service.account
    new = {**HTTP, "match_condition": MatchConditions.IfMissing}
    made = manager.pool.create(GROUP, account, "cond", _simple(), **new)
    assert made.etag is not None
    with pytest.raises(HttpResponseError) as failed:
        manager.pool.create(GROUP, account, "cond", _simple(), **new)
    assert failed.value.status_code == 412
    same = {**HTTP, "etag": made.etag, "match_condition": MatchConditions.IfNotModified}
    metadata = [am.MetadataItem(name="a", value="b")]
    changed = manager.pool.update(GROUP, account, "cond", _patch(metadata=metadata), **same)
    assert changed.etag != made.etag
    with pytest.raises(ResourceModifiedError):
        manager.pool.update(GROUP, account, "cond", _patch(metadata=[]), **same)
    # What a body does not have is taken away by PUT, and left by PATCH.
    kept = manager.pool.update(
        GROUP, account, "cond", _patch(start_task=am.StartTask(command_line="/bin/true")), **HTTP
    )
    assert kept.properties is not None
    assert kept.properties.metadata is not None
    replaced = manager.pool.create(GROUP, account, "cond", _simple(), **HTTP)
    assert replaced.properties is not None
    assert (replaced.properties.metadata, replaced.properties.start_task) == (None, None)
    manager.pool.begin_delete(GROUP, account, "cond", **FAST).result()


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"vm_size": "standard_x99"}, "properties.vmSize"),
        ({"deployment_configuration": am.DeploymentConfiguration()}, "properties.deploymentConfiguration"),
        ({"task_slots_per_node": 9999}, "properties.taskSlotsPerNode"),
        (
            {"scale_settings": am.ScaleSettings(fixed_scale=am.FixedScaleSettings(target_dedicated_nodes=-1))},
            "properties.scaleSettings.fixedScale.targetDedicatedNodes",
        ),
    ],
)
def test_pools_that_cannot_be(
    service: Any, manager: BatchManagementClient, properties: dict[str, Any], name: str
) -> None:
    with pytest.raises(HttpResponseError, match=f"'{name}") as caught:
        manager.pool.create(GROUP, service.account, "bad", _simple(**properties), **HTTP)
    assert caught.value.status_code == 400


def test_a_change_that_needs_an_empty_pool(service: Any, manager: BatchManagementClient) -> None:
    account = service.account
    manager.pool.create(GROUP, account, "full", _simple(1), **HTTP)
    _until_steady(manager, account, "full")
    with pytest.raises(HttpResponseError, match="taskSlotsPerNode only while it has none") as caught:
        manager.pool.create(GROUP, account, "full", _simple(1, task_slots_per_node=2), **HTTP)
    assert code_of(caught) == (409, "OperationInvalidForCurrentState")
    manager.pool.begin_delete(GROUP, account, "full", **FAST).result()


def test_signed_urls_of_the_storage_end_with_the_primary_key(new_service: ServiceFactory) -> None:
    service = new_service("data").start()
    key = base64.b64decode(service.key)
    url = sign_url(service.endpoint, service.account, key, "box", "a", "rw", time.time() + 600)

    def put(where: str) -> int:
        request = urllib.request.Request(where, b"x", method="PUT", headers={"x-ms-blob-type": "BlockBlob"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert put(url) == 201
    with management_client(service) as manager:
        body = am.BatchAccountRegenerateKeyParameters(key_name="Primary")
        keys = manager.batch_account.regenerate_key(GROUP, service.account, body, **HTTP)
    assert put(url) == 403
    assert keys.primary is not None
    key = base64.b64decode(keys.primary)
    assert put(sign_url(service.endpoint, service.account, key, "box", "a", "rw", time.time() + 600)) == 201
