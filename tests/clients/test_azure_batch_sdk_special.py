"""Start, preparation, release and manager tasks, auto pools, users and gangs as the SDK writes and reads them."""

from datetime import timedelta
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError

NO_POOL = m.BatchPoolInfo(pool_id="there-is-none")


def code_of(caught: Any) -> str:
    return str(caught.value.error.code)


def test_a_pool_with_a_start_task_and_users(batch: Any) -> None:
    pool_id = batch.name("special")
    batch.create_pool(
        pool_id,
        0,
        start_task=m.BatchStartTask(
            command_line="true",
            user_identity=m.UserIdentity(
                auto_user=m.AutoUserSpecification(scope=m.AutoUserScope.POOL, elevation_level=m.ElevationLevel.ADMIN)
            ),
        ),
        user_accounts=[
            m.UserAccount(
                name="alice",
                password="pa55",
                linux_user_configuration=m.LinuxUserConfiguration(uid=2000, gid=2000, ssh_private_key="key"),
            )
        ],
        enable_inter_node_communication=True,
        task_scheduling_policy=m.BatchTaskSchedulingPolicy(
            node_fill_type=m.BatchNodeFillType.PACK, job_default_order=m.BatchJobDefaultOrder.CREATION_TIME
        ),
    )
    pool = batch.client.get_pool(pool_id)
    assert (pool.start_task.wait_for_success, pool.start_task.max_task_retry_count) == (True, 0)
    assert pool.start_task.user_identity.auto_user.elevation_level == m.ElevationLevel.ADMIN
    (account,) = pool.user_accounts
    assert (account.name, account.linux_user_configuration.uid) == ("alice", 2000)
    assert account.get("password") is None
    assert account.linux_user_configuration.get("sshPrivateKey") is None
    assert pool.enable_inter_node_communication
    assert pool.task_scheduling_policy.job_default_order == m.BatchJobDefaultOrder.CREATION_TIME
    batch.client.begin_delete_pool(pool_id, polling_interval=batch.poll_s).result()


def test_a_job_with_tasks_of_its_own(batch: Any) -> None:
    job_id = batch.create_job(
        pool_info=NO_POOL,
        job_preparation_task=m.BatchJobPreparationTask(command_line="prepare"),
        job_release_task=m.BatchJobReleaseTask(command_line="release", max_wall_clock_time=timedelta(minutes=2)),
        job_manager_task=m.BatchJobManagerTask(id="manager", command_line="manage", kill_job_on_completion=False),
        allow_task_preemption=True,
    )
    job = batch.client.get_job(job_id)
    preparation, release, manager = job.job_preparation_task, job.job_release_task, job.job_manager_task
    assert (preparation.id, preparation.wait_for_success) == ("jobpreparation", True)
    assert preparation.rerun_on_node_reboot_after_success
    assert preparation.constraints.retention_time == timedelta(days=7)
    assert (release.id, release.max_wall_clock_time) == ("jobrelease", timedelta(minutes=2))
    assert (manager.kill_job_on_completion, manager.run_exclusive) == (False, True)
    assert job.allow_task_preemption
    assert [task.id for task in batch.client.list_tasks(job_id)] == ["manager"]
    assert list(batch.client.list_job_preparation_and_release_task_status(job_id)) == []
    batch.client.begin_delete_job(job_id, polling_interval=batch.poll_s).result()


def test_a_job_without_preparation_has_no_status(batch: Any) -> None:
    job_id = batch.create_job(pool_info=NO_POOL)
    with pytest.raises(ResourceExistsError) as caught:
        list(batch.client.list_job_preparation_and_release_task_status(job_id))
    assert code_of(caught) == "JobPreparationTaskNotSpecified"


def test_a_release_task_may_take_a_quarter_of_an_hour_at_most(batch: Any) -> None:
    with pytest.raises(HttpResponseError) as caught:
        batch.create_job(
            pool_info=NO_POOL,
            job_preparation_task=m.BatchJobPreparationTask(command_line="prepare"),
            job_release_task=m.BatchJobReleaseTask(command_line="release", max_wall_clock_time=timedelta(minutes=16)),
        )
    assert (caught.value.status_code, code_of(caught)) == (400, "InvalidPropertyValue")


def test_a_multi_instance_task(batch: Any) -> None:
    job_id = batch.create_job(pool_info=NO_POOL)
    settings = m.MultiInstanceSettings(
        number_of_instances=2,
        coordination_command_line="daemons",
        common_resource_files=[m.ResourceFile(http_url="http://127.0.0.1/f", file_path="f")],
    )
    batch.add(job_id, "gang", "mpirun", multi_instance_settings=settings)
    batch.add(job_id, "plain", "true", user_identity=m.UserIdentity(username="alice"))
    task = batch.client.get_task(job_id, "gang")
    assert task.multi_instance_settings.number_of_instances == 2
    assert task.multi_instance_settings.common_resource_files[0].file_path == "f"
    assert list(batch.client.list_subtasks(job_id, "gang")) == []
    assert list(batch.client.list_subtasks(job_id, "plain")) == []
    assert batch.client.get_task(job_id, "plain").user_identity.username == "alice"
    with pytest.raises(HttpResponseError) as caught:
        batch.add(job_id, "wide", "mpirun", multi_instance_settings=settings, required_slots=2)
    assert (caught.value.status_code, code_of(caught)) == (400, "InvalidPropertyValue")
    batch.client.begin_delete_job(job_id, polling_interval=batch.poll_s).result()
