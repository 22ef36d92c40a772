"""Several accounts in one service, with azure-mgmt-batch and azure-batch unmodified, and real nodes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.mgmt.batch import BatchManagementClient
from azure.mgmt.batch import models as am

from tests.clients.conftest import Batch, connect
from tests.clients.management import HTTP, management_client
from tests.conftest import MillpondProcess, ServiceFactory
from tests.servers.azurite import Azurite

GROUP = "millpond"
FAST: dict[str, Any] = {**HTTP, "polling_interval": 0.1}
CONFIGURATION = """
[account]
account_quota = 3
pool_quota = 3
[accounts.small]
pool_quota = 1
dedicated_core_quota = 4
active_job_and_job_schedule_quota = 1
"""


def make(manager: BatchManagementClient, name: str) -> am.BatchAccount:
    body = am.BatchAccountCreateParameters(location="local")
    return manager.batch_account.begin_create(GROUP, name, body, **FAST).result()


def client_of(service: MillpondProcess, manager: BatchManagementClient, name: str) -> BatchClient:
    account = manager.batch_account.get(GROUP, name, **HTTP)
    assert account.properties is not None
    key = manager.batch_account.get_keys(GROUP, name, **HTTP).primary
    assert key is not None
    return BatchClient(f"http://{account.properties.account_endpoint}", AzureNamedKeyCredential(name, key))


@pytest.fixture
def manager(service: Any) -> Iterator[BatchManagementClient]:
    with management_client(service) as client:
        yield client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MillpondProcess]:
    directory = tmp_path_factory.mktemp("accounts")
    (directory / "millpond.toml").write_text(CONFIGURATION)
    running = MillpondProcess(directory / "data", "--config", str(directory / "millpond.toml"))
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.mark.timeout(300)
def test_the_same_ids_run_in_both_and_one_goes_while_the_other_runs(new_service: ServiceFactory) -> None:
    service = new_service("data").start()
    with management_client(service) as manager, connect(service) as first:
        make(manager, "render")
        with client_of(service, manager, "render") as second:
            both = [Batch(first, "shared"), Batch(second, "shared")]
            for number, batch in enumerate(both):
                batch.create_pool("shared", 1)
                batch.client.create_job(m.BatchJobCreateOptions(id="job", pool_info=m.BatchPoolInfo(pool_id="shared")))
                batch.sh("job", "say", f"echo {number} $AZ_BATCH_ACCOUNT_NAME $AZ_BATCH_ACCOUNT_URL")
            for batch in both:
                batch.completed("job", "say")
            assert both[0].stdout("job", "say").split() == ["0", service.account, service.endpoint]
            assert both[1].stdout("job", "say").split() == ["1", "render", f"{service.endpoint}/accounts/render"]
            (mine,), (theirs,) = (batch.nodes() for batch in both)
            assert mine.id != theirs.id
            with pytest.raises(ResourceNotFoundError):
                first.get_node("shared", str(theirs.id))

            # What is running in one goes with it, and the other does not notice.
            for batch in both:
                batch.sh("job", "long", "sleep 600")
                batch.running("job", "long")
            directory = service.data_dir / "accounts" / "render"
            assert directory.is_dir()
            manager.batch_account.begin_delete(GROUP, "render", **FAST).result()
            assert not directory.exists()
            with pytest.raises(ResourceNotFoundError):
                second.get_job("job")
            assert both[0].running("job", "long").id == "long"
            first.terminate_task("job", "long")
            both[0].completed("job", "long")
            assert [one.name for one in manager.batch_account.list(**HTTP)] == [service.account]


@pytest.mark.timeout(300)
def test_accounts_are_back_after_a_crash(new_service: ServiceFactory) -> None:
    service = new_service("data").start()
    with management_client(service) as manager:
        make(manager, "render")
        with client_of(service, manager, "render") as client:
            batch = Batch(client, "pool")
            batch.create_pool("pool", 1)
            client.create_job(m.BatchJobCreateOptions(id="job", pool_info=m.BatchPoolInfo(pool_id="pool")))
            release = service.data_dir.parent / "release"
            batch.sh("job", "wait", f"while [ ! -e {release} ]; do sleep 0.1; done; echo done")
            batch.running("job", "wait")
        changed = am.BatchAccountRegenerateKeyParameters(key_name="Secondary")
        keys = manager.batch_account.regenerate_key(GROUP, "render", changed, **HTTP)
    service.kill()
    service.start()
    assert keys.secondary is not None
    credential = AzureNamedKeyCredential("render", keys.secondary)
    with BatchClient(f"{service.endpoint}/accounts/render", credential) as client:
        batch = Batch(client, "pool")
        assert batch.until_state("job", "wait", m.BatchTaskState.RUNNING)
        release.touch()
        batch.completed("job", "wait")
        assert batch.stdout("job", "wait") == "done\n"


@pytest.mark.timeout(300)
def test_a_deletion_is_gone_on_with_after_a_crash(new_service: ServiceFactory) -> None:
    service = new_service("data").start()
    directory = service.data_dir / "accounts" / "render"
    told = service.data_dir.parent / "pid"
    with management_client(service) as manager:
        make(manager, "render")
        with client_of(service, manager, "render") as client:
            batch = Batch(client, "pool")
            batch.create_pool("pool", 1)
            client.create_job(m.BatchJobCreateOptions(id="job", pool_info=m.BatchPoolInfo(pool_id="pool")))
            batch.sh("job", "long", f"echo $$ > {told}; sleep 600")
            batch.until(lambda: told.exists() and told.read_text().strip(), bool)
        pid = int(told.read_text())
        assert Path(f"/proc/{pid}").exists()
        manager.batch_account.begin_delete(GROUP, "render", polling=False, **HTTP)
    service.kill()
    service.start()
    batch.until(directory.exists, lambda there: not there)
    assert not Path(f"/proc/{pid}").exists()
    with management_client(service) as manager:
        assert [one.name for one in manager.batch_account.list(**HTTP)] == [service.account]
        # The name is free again.
        make(manager, "render")


def test_keys_are_good_for_their_account_only(service: Any, manager: BatchManagementClient) -> None:
    make(manager, "render")
    key = manager.batch_account.get_keys(GROUP, "render", **HTTP).primary
    assert key is not None
    for account, good, bad in (("render", key, service.key), (service.account, service.key, key)):
        # By the name in the signature, without the account's own path.
        with BatchClient(service.endpoint, AzureNamedKeyCredential(account, good)) as client:
            assert list(client.list_pools()) == []
        with (
            BatchClient(service.endpoint, AzureNamedKeyCredential(account, bad)) as client,
            pytest.raises((ClientAuthenticationError, HttpResponseError)) as caught,
        ):
            list(client.list_pools())
        assert caught.value.status_code == 403
    new = manager.batch_account.regenerate_key(
        GROUP, "render", am.BatchAccountRegenerateKeyParameters(key_name="Primary"), **HTTP
    ).primary
    assert new is not None
    with (
        BatchClient(service.endpoint, AzureNamedKeyCredential("render", key)) as client,
        pytest.raises((ClientAuthenticationError, HttpResponseError)),
    ):
        list(client.list_pools())
    with BatchClient(service.endpoint, AzureNamedKeyCredential("render", new)) as client:
        assert list(client.list_pools()) == []
    with connect(service) as client:
        assert list(client.list_pools()) == []
    manager.batch_account.begin_delete(GROUP, "render", **FAST).result()


@pytest.mark.timeout(300)
def test_quotas_are_each_accounts_own(service: Any, manager: BatchManagementClient) -> None:
    small = make(manager, "small")
    assert small.properties is not None
    shown = small.properties
    assert (shown.pool_quota, shown.dedicated_core_quota, shown.active_job_and_job_schedule_quota) == (1, 4, 1)
    with client_of(service, manager, "small") as client, connect(service) as first:
        batch = Batch(client, "pool")
        batch.create_pool("pool", 3)
        with pytest.raises(HttpResponseError) as caught:
            batch.create_pool("more", 0)
        assert (caught.value.status_code, caught.value.error.code) == (409, "PoolQuotaReached")
        Batch(first, "pool").create_pool("more", 0)
        pool = batch.until(
            lambda: client.get_pool("pool"), lambda pool: pool.allocation_state == m.AllocationState.STEADY
        )
        # The size has two cores.
        assert pool.current_dedicated_nodes == 2
        assert [error.code for error in pool.resize_errors or []] == ["AccountCoreQuotaReached"]
        batch.create_job()
        with pytest.raises(HttpResponseError) as caught:
            batch.create_job()
        assert (caught.value.status_code, caught.value.error.code) == (409, "ActiveJobAndScheduleQuotaReached")
    make(manager, "third")
    with pytest.raises(HttpResponseError) as refused:
        make(manager, "fourth")
    assert refused.value.error is not None
    assert (refused.value.status_code, refused.value.error.code) == (409, "SubscriptionQuotaExceeded")
    assert manager.location.get_quotas("local", **HTTP).account_quota == 3
    for name, available in (("small", False), ("another", True)):
        body = am.CheckNameAvailabilityParameters(name=name, type="Microsoft.Batch/batchAccounts")
        assert manager.location.check_name_availability("local", body, **HTTP).name_available is available
    for name in ("small", "third"):
        manager.batch_account.begin_delete(GROUP, name, **FAST).result()


def test_packages_are_in_the_accounts_own_storage(service: Any, manager: BatchManagementClient) -> None:
    make(manager, "render")
    manager.application.create(GROUP, "render", "tool", **HTTP)
    package = manager.application_package.create(GROUP, "render", "tool", "1", **HTTP)
    assert package.properties is not None
    assert str(package.properties.storage_url).startswith(f"{service.endpoint}/accounts/render/storage/")
    assert list(manager.application.list(GROUP, service.account, **HTTP)) == []
    manager.batch_account.begin_delete(GROUP, "render", **FAST).result()


def test_a_further_account_keeps_its_blobs_where_the_configuration_says(
    new_service: ServiceFactory, tmp_path: Path, azurite: Azurite
) -> None:
    configuration = tmp_path / "millpond.toml"
    configuration.write_text(f'[accounts.films]\nconnection_string = "{azurite.connection_string}"\n')
    configuration.chmod(0o600)
    service = new_service("data", "--config", str(configuration)).start()
    with management_client(service) as manager:
        make(manager, "films")
        manager.application.create(GROUP, "films", "tool", **HTTP)
        package = manager.application_package.create(GROUP, "films", "tool", "1", **HTTP)
        assert package.properties is not None
        assert str(package.properties.storage_url).startswith(azurite.endpoint)
        manager.application.create(GROUP, service.account, "tool", **HTTP)
        package = manager.application_package.create(GROUP, service.account, "tool", "1", **HTTP)
        assert package.properties is not None
        assert str(package.properties.storage_url).startswith(f"{service.endpoint}/storage/")
        manager.batch_account.begin_delete(GROUP, "films", **FAST).result()
    with azurite.client() as blobs:
        assert list(blobs.list_containers())
