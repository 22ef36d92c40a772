"""Application packages with the official clients, unmodified: made by azure-mgmt-batch and azure-storage-blob, used by pools
and tasks of azure-batch on real nodes."""

import io
import stat
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.batch import models as am
from azure.storage.blob import BlobClient

from tests.clients.conftest import Batch, connect
from tests.clients.management import HTTP, management_client

GROUP = "any-group"


def zip_of(**files: str) -> bytes:
    """Scripts by name (`_` stands for a period)."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name.replace("_", "."))
            info.external_attr = (stat.S_IFREG | 0o755) << 16
            archive.writestr(info, text)
    return content.getvalue()


def says(word: str) -> bytes:
    return zip_of(say_sh=f"#!/bin/sh\necho {word}\n")


class Manager:
    """What people do with applications."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.client = management_client(service)
        self.account = service.account

    def upload(self, app: str, version: str, content: bytes) -> am.ApplicationPackage:
        """A package up to its upload."""
        package = self.client.application_package.create(GROUP, self.account, app, version, **HTTP)
        assert package.properties is not None
        assert package.properties.storage_url is not None
        BlobClient.from_blob_url(package.properties.storage_url).upload_blob(content, blob_type="BlockBlob")
        return package

    def activate(self, app: str, version: str) -> am.ApplicationPackage:
        body = am.ActivateApplicationPackageParameters(format="zip")
        return self.client.application_package.activate(GROUP, self.account, app, version, body, **HTTP)

    def add(self, app: str, version: str, content: bytes, *, default: bool = False) -> None:
        self.client.application.create(GROUP, self.account, app, **HTTP)
        self.upload(app, version, content)
        self.activate(app, version)
        if default:
            self.change(app, default_version=version)

    def change(self, app: str, **properties: Any) -> am.Application:
        body = am.Application(properties=am.ApplicationProperties(**properties))
        return self.client.application.update(GROUP, self.account, app, body, **HTTP)


@pytest.fixture(scope="module")
def manager(service: Any) -> Iterator[Manager]:
    manager = Manager(service)
    with manager.client:
        yield manager


@pytest.fixture(scope="module")
def nodes(service: Any) -> Iterator[Batch]:
    with connect(service) as client:
        yield Batch(client, "none")


def code_of(caught: "pytest.ExceptionInfo[HttpResponseError]") -> tuple[int | None, str]:
    assert caught.value.error is not None
    return caught.value.status_code, str(caught.value.error.code)


def reference(app: str, version: str | None = None) -> m.BatchApplicationPackageReference:
    return m.BatchApplicationPackageReference(application_id=app, version=version)


def run(nodes: Batch, pool_id: str, script: str, **more: Any) -> str:
    """What a task of its own job prints."""
    job_id = nodes.create_job(pool_info=m.BatchPoolInfo(pool_id=pool_id))
    nodes.sh(job_id, "t", script, **more)
    task = nodes.completed(job_id, "t")
    assert task.execution_info is not None
    assert task.execution_info.failure_info is None, task.execution_info.failure_info
    return nodes.stdout(job_id, "t")


def reboot(nodes: Batch, pool_id: str) -> None:
    (node,) = nodes.nodes(pool_id)
    assert node.id is not None
    nodes.client.begin_reboot_node(pool_id, node.id, {"nodeRebootOption": "requeue"}, polling_interval=nodes.poll_s)

    def rebooted(seen: list[m.BatchNode]) -> bool:
        return seen[0].last_boot_time != node.last_boot_time and seen[0].state in (
            m.BatchNodeState.IDLE,
            m.BatchNodeState.UNUSABLE,
        )

    nodes.until(lambda: nodes.nodes(pool_id), rebooted)


def test_an_application_from_beginning_to_end(manager: Manager, nodes: Batch) -> None:
    client, account = manager.client, manager.account
    made = client.application.create(
        GROUP,
        account,
        "Life-1",
        am.Application(properties=am.ApplicationProperties(display_name="A life", allow_updates=False)),
        **HTTP,
    )
    assert made.properties is not None
    assert (made.name, made.type) == ("Life-1", "Microsoft.Batch/batchAccounts/applications")
    assert (made.properties.display_name, made.properties.allow_updates) == ("A life", False)
    assert made.id is not None
    assert made.id.endswith(f"/batchAccounts/{account}/applications/Life-1")
    assert client.application.get(GROUP, account, "life-1", **HTTP).name == "Life-1"

    package = manager.upload("life-1", "1.0", says("hello"))
    assert package.properties is not None
    assert (package.properties.state, package.properties.format) == ("Pending", None)
    assert package.properties.storage_url_expiry is not None
    # Not active, it is nothing to the data plane.
    assert "Life-1" not in [one.id for one in nodes.client.list_applications()]
    with pytest.raises(ResourceNotFoundError):
        nodes.client.get_application("Life-1")
    active = manager.activate("life-1", "1.0")
    assert active.properties is not None
    assert (active.properties.state, active.properties.format) == ("Active", "zip")
    assert active.properties.last_activation_time is not None
    seen = nodes.client.get_application("life-1")
    assert (seen.id, seen.display_name, seen.versions) == ("Life-1", "A life", ["1.0"])
    assert "Life-1" in [one.id for one in nodes.client.list_applications(max_results=1)]

    # allowUpdates is false: an active version is not made anew, a pending one may be.
    with pytest.raises(HttpResponseError) as caught:
        client.application_package.create(GROUP, account, "life-1", "1.0", **HTTP)
    assert code_of(caught) == (409, "Conflict")
    client.application_package.create(GROUP, account, "life-1", "1.1", **HTTP)
    client.application_package.create(GROUP, account, "life-1", "1.1", **HTTP)
    versions = [one.name for one in client.application_package.list(GROUP, account, "life-1", maxresults=1, **HTTP)]
    assert versions == ["1.0", "1.1"]

    # The default has to be there, and stays.
    with pytest.raises(HttpResponseError) as caught:
        manager.change("life-1", default_version="9")
    assert code_of(caught) == (400, "InvalidPropertyValue")
    changed = manager.change("life-1", default_version="1.0", display_name="Another")
    assert changed.properties is not None
    assert (changed.properties.default_version, changed.properties.allow_updates) == ("1.0", False)
    with pytest.raises(HttpResponseError) as caught:
        client.application_package.delete(GROUP, account, "life-1", "1.0", **HTTP)
    assert code_of(caught) == (409, "Conflict")
    with pytest.raises(HttpResponseError) as caught:
        client.application.delete(GROUP, account, "life-1", **HTTP)
    assert code_of(caught) == (409, "Conflict")
    manager.change("life-1", default_version="")
    for version in ("1.0", "1.1", "1.1"):
        client.application_package.delete(GROUP, account, "life-1", version, **HTTP)
    client.application.delete(GROUP, account, "life-1", **HTTP)
    client.application.delete(GROUP, account, "life-1", **HTTP)
    with pytest.raises(HttpResponseError) as caught:
        client.application.get(GROUP, account, "life-1", **HTTP)
    assert code_of(caught) == (404, "ApplicationNotFound")


def test_what_cannot_be_activated(manager: Manager) -> None:
    client, account = manager.client, manager.account
    client.application.create(GROUP, account, "bad", **HTTP)
    client.application_package.create(GROUP, account, "bad", "1", **HTTP)
    with pytest.raises(HttpResponseError, match="upload the zip before") as caught:
        manager.activate("bad", "1")
    assert code_of(caught) == (409, "Conflict")
    manager.upload("bad", "1", b"no zip at all")
    with pytest.raises(HttpResponseError, match="not a zip file") as caught:
        manager.activate("bad", "1")
    assert code_of(caught) == (400, "InvalidPropertyValue")
    evil = io.BytesIO()
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../../evil", "x")
    manager.upload("bad", "2", evil.getvalue())
    with pytest.raises(HttpResponseError, match="leads out of the archive"):
        manager.activate("bad", "2")
    package = client.application_package.get(GROUP, account, "bad", "2", **HTTP)
    assert package.properties is not None
    assert package.properties.state == "Pending"


def test_the_account_is_found_as_clients_look_for_it(manager: Manager) -> None:
    client, account = manager.client, manager.account
    found = client.batch_account.get(GROUP, account, **HTTP)
    assert found.properties is not None
    assert found.properties.auto_storage is not None
    assert (found.name, found.properties.provisioning_state) == (account, "Succeeded")
    assert manager.service.endpoint.endswith(str(found.properties.account_endpoint))
    assert [one.name for one in client.batch_account.list(**HTTP)] == [account]
    assert [one.name for one in client.batch_account.list_by_resource_group(GROUP, **HTTP)] == [account]
    with pytest.raises(ResourceNotFoundError, match="was not found"):
        client.batch_account.get(GROUP, "another", **HTTP)


def test_packages_of_a_pool(manager: Manager, nodes: Batch) -> None:
    """On the node before its start task; replaced with its reboot; the old version stays."""
    app = "tool-a_b"
    manager.add(app, "1.0-rc", says("one"), default=True)
    manager.add(app, "2.0", says("two"))
    pool_id = nodes.name("packages")
    start_task = m.BatchStartTask(
        command_line="/bin/sh -c '$AZ_BATCH_APP_PACKAGE_tool_a_b/say.sh > $AZ_BATCH_NODE_SHARED_DIR/said'",
        wait_for_success=True,
    )
    nodes.create_pool(pool_id, 1, start_task=start_task, application_package_references=[reference(app)])
    pool = nodes.client.get_pool(pool_id)
    assert pool.application_package_references is not None
    assert [(one.application_id, one.version) for one in pool.application_package_references] == [(app, None)]
    nodes.until_idle(pool_id, 1)
    script = "cat $AZ_BATCH_NODE_SHARED_DIR/said; env | grep ^AZ_BATCH_APP_PACKAGE | sort | cut -d= -f1; "
    script += "cd $AZ_BATCH_NODE_ROOT_DIR/applications; ls | wc -l; ls ../volatile/packages 2>/dev/null | wc -l"
    names = ["tool_a_b", "tool_a_b_1_0_rc", "TOOL_A_B", "TOOL_A_B_1_0_RC"]
    expected = ["one", *sorted(f"AZ_BATCH_APP_PACKAGE_{name}" for name in names), "1", "0"]
    assert sorted(run(nodes, pool_id, script).split()) == sorted(expected)

    # Another default changes nothing before the node boots.
    manager.change(app, default_version="2.0")
    with pytest.raises(HttpResponseError, match="is the default"):
        manager.client.application_package.delete(GROUP, manager.account, app, "2.0", **HTTP)
    assert "one" in run(nodes, pool_id, script).split()
    reboot(nodes, pool_id)
    said = run(nodes, pool_id, script).split()
    assert "two" in said
    assert "AZ_BATCH_APP_PACKAGE_tool_a_b_2_0" in said
    assert "AZ_BATCH_APP_PACKAGE_tool_a_b_1_0_rc" not in said
    assert said.count("2") == 1, "the old version stays"

    # Without references nothing is told, from the next boot on.
    nodes.client.replace_pool_properties(
        pool_id, m.BatchPoolReplaceOptions(application_package_references=[], metadata=[])
    )
    assert "two" in run(nodes, pool_id, script).split()
    reboot(nodes, pool_id)
    assert "AZ_BATCH_APP_PACKAGE" not in run(nodes, pool_id, "env")
    nodes.client.begin_delete_pool(pool_id, polling_interval=nodes.poll_s)


def test_packages_of_a_task_are_not_told_to_others(manager: Manager, nodes: Batch) -> None:
    manager.add("solo", "1", says("solo"), default=True)
    manager.add("solo", "2", says("duo"))
    manager.add("common", "7", says("common"))
    pool_id = nodes.name("packages")
    nodes.create_pool(pool_id, 1, task_slots_per_node=4, application_package_references=[reference("common", "7")])
    nodes.until_idle(pool_id, 1)
    job_id = nodes.create_job(pool_info=m.BatchPoolInfo(pool_id=pool_id))
    script = (
        "$AZ_BATCH_APP_PACKAGE_solo_1/say.sh; $AZ_BATCH_APP_PACKAGE_solo/say.sh; $AZ_BATCH_APP_PACKAGE_COMMON_7/say.sh"
    )
    for number in range(4):
        nodes.sh(job_id, f"t{number}", script, application_package_references=[reference("SOLO", "1")])
    both = [reference("solo", "2"), reference("common", "7")]
    nodes.sh(job_id, "both", "$AZ_BATCH_APP_PACKAGE_solo_2/say.sh; env", application_package_references=both)
    nodes.sh(job_id, "other", "env")
    for number in range(4):
        nodes.completed(job_id, f"t{number}")
        assert nodes.stdout(job_id, f"t{number}").split() == ["solo", "solo", "common"]
    nodes.completed(job_id, "both")
    said = nodes.stdout(job_id, "both")
    assert said.startswith("duo\n")
    # The default is another version, which this task does not have.
    assert "AZ_BATCH_APP_PACKAGE_solo=" not in said
    nodes.completed(job_id, "other")
    assert "solo" not in nodes.stdout(job_id, "other").lower()
    # The job manager's too.
    manager_task = m.BatchJobManagerTask(
        id="m", command_line="/bin/sh -c '$AZ_BATCH_APP_PACKAGE_solo_2/say.sh'", application_package_references=both[:1]
    )
    job_id = nodes.create_job(pool_info=m.BatchPoolInfo(pool_id=pool_id), job_manager_task=manager_task)
    nodes.completed(job_id, "m")
    assert nodes.stdout(job_id, "m") == "duo\n"
    nodes.client.begin_delete_pool(pool_id, polling_interval=nodes.poll_s)


@pytest.mark.parametrize(
    ("app", "version", "problem"),
    [
        ("nothing", None, "does not exist"),
        ("half", "1", "does not exist"),
        ("half", "2", "does not exist"),
        ("full", None, "does not have a default version"),
    ],
)
def test_references_that_cannot_be_satisfied(
    manager: Manager, nodes: Batch, batch: Batch, app: str, version: str | None, problem: str
) -> None:
    manager.client.application.create(GROUP, manager.account, "half", **HTTP)
    manager.upload("half", "1", says("never"))
    if app == "full":
        manager.add("full", "1", says("x"))
    bad = reference(app, version)
    with pytest.raises(HttpResponseError) as caught:
        nodes.create_pool(nodes.name("bad"), 0, application_package_references=[bad])
    assert code_of(caught) == (409, "InvalidApplicationPackageReferences")
    (value,) = caught.value.model.error_values
    assert value.key == (app if version is None else f"{app}:{version}")
    assert problem in value.value
    for call in (
        lambda: batch.client.update_pool("shared", m.BatchPoolUpdateOptions(application_package_references=[bad])),
        lambda: batch.client.replace_pool_properties(
            "shared", m.BatchPoolReplaceOptions(application_package_references=[bad], metadata=[])
        ),
    ):
        with pytest.raises(HttpResponseError) as caught:
            call()
        assert code_of(caught) == (409, "InvalidApplicationPackageReferences")
    # A task is told when it is to run.
    job_id = batch.create_job()
    batch.sh(job_id, "t", "true", application_package_references=[bad])
    task = batch.completed(job_id, "t")
    assert task.execution_info is not None
    assert task.execution_info.failure_info is not None
    assert (task.execution_info.failure_info.code, task.execution_info.exit_code) == ("ApplicationPackageError", None)
    assert problem in str(task.execution_info.failure_info.message)


def test_a_node_whose_packages_fail_is_unusable_until_a_reboot_after_the_repair(manager: Manager, nodes: Batch) -> None:
    manager.add("broken", "1", says("whole"), default=True)
    # Someone writes over what was activated.
    (blob,) = (manager.service.data_dir / "storage" / "millpond-packages").glob("broken-1-*")
    blob.write_bytes(says("other"))
    pool_id = nodes.name("packages")
    nodes.create_pool(
        pool_id,
        1,
        application_package_references=[reference("broken")],
        start_task=m.BatchStartTask(command_line="/bin/true", wait_for_success=True),
    )
    (node,) = nodes.until(
        lambda: nodes.nodes(pool_id),
        lambda found: bool(found) and found[0].state == m.BatchNodeState.UNUSABLE,
    )
    assert node.errors is not None
    (error,) = node.errors
    assert error.code == "ApplicationPackageError"
    assert "One or more application packages specified for the pool are invalid" in str(error.message)
    details = {one.name: one.value for one in error.error_details or []}
    assert "activate the package again" in str(details["Message"])
    assert details["ApplicationId"] == "broken"
    assert node.start_task_info is None
    reboot(nodes, pool_id)
    (node,) = nodes.nodes(pool_id)
    assert node.state == m.BatchNodeState.UNUSABLE
    manager.upload("broken", "1", says("repaired"))
    manager.activate("broken", "1")
    reboot(nodes, pool_id)
    (node,) = nodes.until_idle(pool_id, 1)
    assert not node.errors
    assert run(nodes, pool_id, "$AZ_BATCH_APP_PACKAGE_broken/say.sh") == "repaired\n"
    nodes.client.begin_delete_pool(pool_id, polling_interval=nodes.poll_s)


def test_an_auto_pool_with_a_bad_reference_completes_its_job(nodes: Batch) -> None:
    pool = m.BatchPoolSpecification(
        vm_size="standard_d2s_v3",
        virtual_machine_configuration=nodes.image(),
        application_package_references=[reference("nothing")],
    )
    auto = m.BatchAutoPoolSpecification(pool_lifetime_option=m.BatchPoolLifetimeOption.JOB, pool=pool)
    job_id = nodes.create_job(pool_info=m.BatchPoolInfo(auto_pool_specification=auto))
    job = nodes.until_job(job_id, m.BatchJobState.COMPLETED)
    assert job.execution_info is not None
    assert job.execution_info.scheduling_error is not None
    assert job.execution_info.scheduling_error.code == "InvalidApplicationPackageReferencesInAutoPool"


def test_who_may_not(service: Any) -> None:
    for token, code in (("", 401), ("a.b.c", 401), ("x", 401)):
        with management_client(service, token=token) as client, pytest.raises(HttpResponseError) as caught:
            client.application.get(GROUP, service.account, "a", **HTTP)
        assert caught.value.status_code == code
