"""Task arrays on real nodes: one request of our own, and then the official SDK, unmodified, sees tasks like any."""

from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.core.rest import HttpRequest

MILLION = 1_000_000


def add_array(batch: Any, job_id: str, array_id: str | None, end: int, script: str, **more: Any) -> dict[str, Any]:
    body = {
        "taskFactory": {
            "type": "parametricSweep",
            "parameterSets": [{"start": 1, "end": end}],
            "repeatTask": {"commandLine": f"/bin/sh -c '{script}'", **more},
        },
        **({"id": array_id} if array_id else {}),
    }
    headers = {"Content-Type": "application/json; odata=minimalmetadata"}
    request = HttpRequest("POST", f"/jobs/{job_id}/addtaskarray?api-version=2025-06-01", json=body, headers=headers)
    answer = batch.client.send_request(request)
    assert answer.status_code == 201, answer.text()
    said: dict[str, Any] = answer.json()
    return said


def test_an_array_runs_and_what_waits_for_it_runs_after(batch: Any) -> None:
    job_id = batch.create_job(uses_task_dependencies=True)
    said = add_array(
        batch, job_id, None, 12, "echo $NUMBER {0:3}", environmentSettings=[{"name": "NUMBER", "value": "{0}"}]
    )
    assert (said["count"], said["firstTaskId"], said["lastTaskId"]) == (12, "0", "11")
    merge = m.BatchTaskDependencies(task_id_ranges=[m.BatchTaskIdRange(start=0, end=11)])
    batch.add(job_id, "merge", "/bin/true", depends_on=merge)
    merged = batch.completed(job_id, "merge")
    tasks = {task.id: task for task in batch.client.list_tasks(job_id)}
    assert list(tasks) == [*map(str, range(12)), "merge"]
    assert max(tasks[str(index)].execution_info.end_time for index in range(12)) <= merged.execution_info.start_time
    assert batch.stdout(job_id, "11") == "12 012\n"
    counts = batch.client.get_job_task_counts(job_id).task_counts
    assert (counts.active, counts.running, counts.succeeded) == (0, 0, 13)


def test_a_million_tasks_are_there_at_once(batch: Any) -> None:
    job_id = batch.create_job(pool_info=m.BatchPoolInfo(pool_id="not-there-yet"))
    said = add_array(batch, job_id, "sweep", MILLION, "exit {0}", requiredSlots=2, displayName="piece {0:7}")
    assert (said["id"], said["lastTaskId"]) == ("sweep", "sweep-999999")
    counts = batch.client.get_job_task_counts(job_id)
    assert (counts.task_counts.active, counts.task_slot_counts.active) == (MILLION, 2 * MILLION)
    last = batch.client.get_task(job_id, "SWEEP-999999")
    assert (last.id, last.display_name, last.state) == ("sweep-999999", "piece 1000000", m.BatchTaskState.ACTIVE)
    assert last.required_slots == 2

    pages = batch.client.list_tasks(job_id, max_results=700, select=["id"]).by_page()
    shown = [task.id for _ in range(3) for task in next(pages)]
    assert shown == [f"sweep-{index}" for index in range(2100)]
    assert next(iter(batch.client.list_tasks(job_id, filter="state eq 'completed'")), None) is None
    assert [task.id for task in batch.client.list_tasks(job_id, filter="id eq 'sweep-33333'")] == ["sweep-33333"]

    # One of them changes, one goes; the rest stays as it is.
    batch.client.replace_task(
        job_id, "sweep-5", m.BatchTask(constraints=m.BatchTaskConstraints(max_task_retry_count=4))
    )
    batch.client.terminate_task(job_id, "sweep-7")
    batch.client.delete_task(job_id, "sweep-6")
    assert batch.client.get_task(job_id, "sweep-5").constraints.max_task_retry_count == 4
    ended = batch.client.get_task(job_id, "sweep-7")
    assert (ended.state, ended.execution_info.failure_info.code) == (m.BatchTaskState.COMPLETED, "TaskEnded")
    with pytest.raises(ResourceNotFoundError):
        batch.client.get_task(job_id, "sweep-6")
    with pytest.raises(ResourceExistsError):
        batch.add(job_id, "sweep-8", "/bin/true")
    first = next(batch.client.list_tasks(job_id, max_results=9).by_page())
    assert [task.id for task in first] == [f"sweep-{index}" for index in (0, 1, 2, 3, 4, 5, 7, 8, 9)]
    assert batch.client.get_job_task_counts(job_id).task_counts.active == MILLION - 2

    batch.client.begin_terminate_job(
        job_id, options={"terminateReason": "enough"}, polling_interval=batch.poll_s
    ).result()
    assert batch.client.get_task(job_id, "sweep-500").state == m.BatchTaskState.ACTIVE
    assert batch.client.get_job_task_counts(job_id).task_counts.active == MILLION - 2
    batch.client.begin_delete_job(job_id, polling_interval=batch.poll_s).result()
    with pytest.raises(ResourceNotFoundError):
        batch.client.get_task(job_id, "sweep-500")
