"""The official azure-batch SDK 15.1, unmodified, against a running service: job schedules, auto pools, moved jobs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.batch import models as m
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError

ACTIVE = m.BatchJobScheduleState.ACTIVE
COMPLETED = m.BatchJobScheduleState.COMPLETED


def code_of(caught: "pytest.ExceptionInfo[HttpResponseError]") -> str:
    assert caught.value.error is not None
    assert caught.value.error.code is not None
    return caught.value.error.code


def create(batch: Any, schedule_id: str, specification: Any = None, **schedule: Any) -> None:
    batch.client.create_job_schedule(
        m.BatchJobScheduleCreateOptions(
            id=schedule_id,
            schedule=m.BatchJobScheduleConfiguration(**schedule),
            job_specification=specification or specify(batch),
        )
    )


def specify(batch: Any, **more: Any) -> m.BatchJobSpecification:
    more.setdefault("pool_info", m.BatchPoolInfo(pool_id=batch.pool_id))
    return m.BatchJobSpecification(**more)


def until_state(batch: Any, schedule_id: str, state: m.BatchJobScheduleState) -> m.BatchJobSchedule:
    seen: m.BatchJobSchedule = batch.until(
        lambda: batch.client.get_job_schedule(schedule_id), lambda schedule: schedule.state == state
    )
    return seen


def test_a_schedule_with_a_job_manager_and_then_one_that_ends_with_its_tasks(batch: Any) -> None:
    schedule_id = batch.name("nightly")
    manager = m.BatchJobManagerTask(
        id="manager", command_line='/bin/sh -c "echo of $AZ_BATCH_JOB_ID"', kill_job_on_completion=True
    )
    first = datetime.now(UTC) + timedelta(seconds=1)
    create(
        batch,
        schedule_id,
        specify(batch, job_manager_task=manager, priority=7),
        do_not_run_until=first,
        recurrence_interval=timedelta(minutes=1),
        start_window=timedelta(minutes=1),
    )
    waiting = batch.client.get_job_schedule(schedule_id)
    assert waiting.state == ACTIVE
    assert waiting.schedule.recurrence_interval == timedelta(minutes=1)
    assert abs(waiting.execution_info.next_run_time - first) < timedelta(milliseconds=1)
    made = batch.until(
        lambda: batch.client.get_job_schedule(schedule_id), lambda schedule: schedule.execution_info.recent_job
    )
    job_id = f"{schedule_id}:job-1"
    assert made.execution_info.recent_job.id == job_id
    job = batch.until_job(job_id, m.BatchJobState.COMPLETED)
    assert (job.execution_info.termination_reason, job.priority) == ("JMComplete", 7)
    assert batch.stdout(job_id, "manager").strip() == f"of {job_id}"
    later = batch.client.get_job_schedule(schedule_id)
    assert later.state == ACTIVE, "it goes on with the next job"
    assert later.execution_info.next_run_time - first >= timedelta(minutes=1) - timedelta(milliseconds=1)
    assert later.etag == waiting.etag, "the definition has not changed"

    # Without a schedule: one more job, at once.
    batch.client.replace_job_schedule(
        schedule_id,
        m.BatchJobSchedule(
            job_specification=specify(batch, all_tasks_complete_mode=m.BatchAllTasksCompleteMode.TERMINATE_JOB)
        ),
        etag=later.etag,
        match_condition=MatchConditions.IfNotModified,
    )
    over = until_state(batch, schedule_id, COMPLETED)
    assert over.execution_info.recent_job is not None
    assert over.execution_info.recent_job.id == f"{schedule_id}:job-2"
    assert over.execution_info.end_time is not None
    assert over.execution_info.next_run_time is None
    jobs = {job.id: job for job in batch.client.list_jobs_from_schedule(schedule_id)}
    assert list(jobs) == [f"{schedule_id}:job-{n}" for n in (1, 2)]
    assert jobs[f"{schedule_id}:job-2"].execution_info.termination_reason == "AllTasksComplete"
    assert jobs[job_id].priority == 7, "a change is for later jobs"
    with pytest.raises(HttpResponseError) as caught:
        batch.client.disable_job_schedule(schedule_id)
    assert code_of(caught) == "JobScheduleCompleted"
    batch.client.begin_delete_job_schedule(schedule_id, polling_interval=batch.poll_s).result()
    with pytest.raises(ResourceNotFoundError):
        batch.client.get_job(job_id)


def test_disable_enable_terminate_and_conditions(batch: Any) -> None:
    schedule_id = batch.name("Schedule")
    create(batch, schedule_id, recurrence_interval=timedelta(hours=1))
    job_id = f"{schedule_id}:job-1"
    batch.until(lambda: list(batch.client.list_jobs_from_schedule(schedule_id)), bool)
    assert batch.client.job_schedule_exists(schedule_id.lower())
    tag = batch.client.get_job_schedule(schedule_id).etag
    batch.client.disable_job_schedule(schedule_id)
    disabled = batch.client.get_job_schedule(schedule_id)
    assert (disabled.state, disabled.previous_state) == (m.BatchJobScheduleState.DISABLED, ACTIVE)
    assert batch.client.get_job(job_id).state == m.BatchJobState.ACTIVE, "the running job goes on"
    with pytest.raises(ResourceModifiedError):
        batch.client.update_job_schedule(
            schedule_id,
            m.BatchJobScheduleUpdateOptions(metadata=[m.BatchMetadataItem(name="a", value="b")]),
            etag=tag,
            match_condition=MatchConditions.IfNotModified,
        )
    batch.client.update_job_schedule(
        schedule_id, m.BatchJobScheduleUpdateOptions(metadata=[m.BatchMetadataItem(name="a", value="b")])
    )
    batch.client.enable_job_schedule(schedule_id)
    enabled = batch.client.get_job_schedule(schedule_id, select=["id", "state", "metadata"])
    assert (enabled.state, enabled.metadata[0].value, enabled.schedule) == (ACTIVE, "b", None)
    found = batch.client.list_job_schedules(filter=f"startswith(id,'{schedule_id}') and state eq 'active'")
    assert [schedule.id for schedule in found] == [schedule_id]
    batch.client.begin_terminate_job_schedule(schedule_id, polling_interval=batch.poll_s).result()
    until_state(batch, schedule_id, COMPLETED)
    assert batch.client.get_job(job_id).execution_info.termination_reason == "TerminateJobSchedule"


def test_what_is_refused(batch: Any) -> None:
    schedule_id = batch.name("schedule")
    with pytest.raises(HttpResponseError) as caught:
        create(batch, schedule_id, recurrence_interval=timedelta(seconds=59))
    assert (caught.value.status_code, code_of(caught)) == (400, "InvalidPropertyValue")
    create(batch, schedule_id, do_not_run_until=datetime.now(UTC) + timedelta(days=1))
    for taken in (schedule_id, schedule_id.upper()):
        with pytest.raises(HttpResponseError) as exists:
            create(batch, taken)
        assert code_of(exists) == "JobScheduleExists"
        with pytest.raises(HttpResponseError) as exists:
            batch.client.create_job(m.BatchJobCreateOptions(id=taken, pool_info=m.BatchPoolInfo(pool_id="p")))
        assert code_of(exists) == "JobScheduleWithSameIdExists"
    job_id = batch.create_job()
    with pytest.raises(HttpResponseError) as exists:
        create(batch, job_id)
    assert code_of(exists) == "JobWithSameIdExists"
    with pytest.raises(ResourceNotFoundError):
        batch.client.get_job_schedule("nowhere")


def auto_pool(batch: Any, lifetime: m.BatchPoolLifetimeOption) -> m.BatchPoolInfo:
    return m.BatchPoolInfo(
        auto_pool_specification=m.BatchAutoPoolSpecification(
            auto_pool_id_prefix="auto",
            pool_lifetime_option=lifetime,
            pool=m.BatchPoolSpecification(
                vm_size="standard_d2s_v3",
                virtual_machine_configuration=batch.image(),
                target_dedicated_nodes=1,
            ),
        )
    )


def test_a_job_in_a_pool_of_its_own(batch: Any) -> None:
    job_id = batch.create_job(
        pool_info=auto_pool(batch, m.BatchPoolLifetimeOption.JOB),
    )
    pool_id = batch.client.get_job(job_id).execution_info.pool_id
    assert pool_id.startswith("auto_")
    assert batch.client.get_pool(pool_id).auto_scale_formula is None
    batch.sh(job_id, "t", "echo here")
    assert batch.completed(job_id, "t").execution_info.exit_code == 0
    batch.client.begin_terminate_job(job_id, options={"terminateReason": "done"}, polling_interval=0.1).result()
    batch.until_job(job_id, m.BatchJobState.COMPLETED)
    batch.until(lambda: [pool.id for pool in batch.client.list_pools()], lambda ids: pool_id not in ids)


def test_a_schedule_whose_jobs_share_a_pool(batch: Any) -> None:
    schedule_id = batch.name("sharing")
    manager = m.BatchJobManagerTask(id="manager", command_line="true", kill_job_on_completion=True)
    specification = specify(
        batch, pool_info=auto_pool(batch, m.BatchPoolLifetimeOption.JOB_SCHEDULE), job_manager_task=manager
    )
    create(batch, schedule_id, specification)
    until_state(batch, schedule_id, COMPLETED)
    (job,) = batch.client.list_jobs_from_schedule(schedule_id)
    assert job.execution_info.termination_reason == "JMComplete"
    pool_id = job.execution_info.pool_id
    batch.until(lambda: [pool.id for pool in batch.client.list_pools()], lambda ids: pool_id not in ids)


def test_a_disabled_job_moves_to_another_pool(batch: Any) -> None:
    other = batch.name("other")
    job_id = batch.create_job()
    batch.sh(job_id, "first", "echo first")
    batch.completed(job_id, "first")
    elsewhere = m.BatchJobUpdateOptions(pool_info=m.BatchPoolInfo(pool_id=other))
    with pytest.raises(HttpResponseError) as caught:
        batch.client.update_job(job_id, elsewhere)
    assert (caught.value.status_code, code_of(caught)) == (409, "OperationInvalidForCurrentState")
    batch.client.begin_disable_job(
        job_id,
        m.BatchJobDisableOptions(disable_tasks=m.DisableBatchJobOption.REQUEUE),
        polling_interval=batch.poll_s,
    ).result()
    batch.sh(job_id, "second", "echo second")
    batch.client.update_job(job_id, elsewhere)
    job = batch.client.get_job(job_id)
    assert (job.pool_info.pool_id, job.execution_info.pool_id) == (other, other)
    batch.client.begin_enable_job(job_id, polling_interval=batch.poll_s).result()
    batch.create_pool(other, 1)
    moved = batch.completed(job_id, "second")
    assert moved.node_info.pool_id == other
    assert batch.stdout(job_id, "first") == "first\n"
    assert batch.stdout(job_id, "second") == "second\n"
    batch.client.begin_delete_pool(other, polling_interval=batch.poll_s).result()
