"""Instances of multi-instance tasks in wire form."""

from typing import Any, Final

from millpond.api.render.common import failure_object, node_info, put_time, timestamp_text, words
from millpond.domain.job import Job
from millpond.domain.states import SubtaskState
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task

PROPERTIES: Final = words(
    "id nodeInfo startTime endTime exitCode containerInfo failureInfo state stateTransitionTime previousState "
    "previousStateTransitionTime result"
)
"""What `$select` may name."""


def subtask_object(subtask: Subtask, job: Job, task: Task, base_url: str) -> dict[str, Any]:
    """Azure Batch: SubtaskInformation."""
    body: dict[str, Any] = {
        "id": subtask.index,
        "nodeInfo": node_info(base_url, job.pool_id, subtask.node_id, job.id, task.id),
        "state": subtask.state.value,
        "stateTransitionTime": timestamp_text(subtask.state_time),
    }
    put_time(body, "startTime", subtask.start_time)
    if subtask.previous_state is not None:
        body["previousState"] = subtask.previous_state.value
        put_time(body, "previousStateTransitionTime", subtask.previous_state_time)
    if subtask.state is SubtaskState.COMPLETED:
        put_time(body, "endTime", subtask.end_time)
        if subtask.exit_code is not None:
            body["exitCode"] = subtask.exit_code
        if subtask.failure is not None:
            body["failureInfo"] = failure_object(subtask.failure)
        if subtask.result is not None:
            body["result"] = subtask.result.value
    return body
