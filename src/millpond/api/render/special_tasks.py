"""How start, job preparation and job release tasks fare on nodes, in wire form."""

from typing import Any, Final

from millpond.api.render.common import failure_object, node_url, path_quoted, put_time, timestamp_text, words
from millpond.domain.ids import task_directory
from millpond.domain.job import Job
from millpond.domain.special_task import JobNode, SpecialTaskInfo
from millpond.domain.states import SpecialTaskState

STATUS_PROPERTIES: Final = words("poolId nodeId nodeUrl jobPreparationTaskExecutionInfo jobReleaseTaskExecutionInfo")
"""What `$select` may name in the list of preparation and release status."""


def start_task_info(info: SpecialTaskInfo) -> dict[str, Any]:
    """Azure Batch: StartTaskInformation. The end of the last run is there between retries too, the rest of how it went
    once the task is completed."""
    body = _info(info)
    put_time(body, "endTime", info.end_time)
    _put_retries(body, info)
    return body


def preparation_and_release_object(row: JobNode, job: Job, base_url: str) -> dict[str, Any]:
    """Azure Batch: JobPreparationAndReleaseTaskExecutionInformation."""
    url = node_url(base_url, row.pool_id, row.node_id)
    body: dict[str, Any] = {"poolId": row.pool_id, "nodeId": row.node_id, "nodeUrl": url}
    if row.preparation is not None and job.preparation is not None:
        info = _job_task_info(row.preparation, job.id, job.preparation.id, url)
        _put_retries(info, row.preparation)
        body["jobPreparationTaskExecutionInfo"] = info
    if row.release is not None and job.release is not None:
        body["jobReleaseTaskExecutionInfo"] = _job_task_info(row.release, job.id, job.release.id, url)
    return body


def _job_task_info(info: SpecialTaskInfo, job_id: str, task_id: str, url: str) -> dict[str, Any]:
    directory = task_directory(job_id, task_id)
    body = _info(info)
    if info.state is SpecialTaskState.COMPLETED:
        put_time(body, "endTime", info.end_time)
    body["taskRootDirectory"] = directory
    body["taskRootDirectoryUrl"] = f"{url}/files/{path_quoted(directory)}"
    return body


def _info(info: SpecialTaskInfo) -> dict[str, Any]:
    """What all three tell: state, start, and once completed how it went."""
    body: dict[str, Any] = {"state": info.state.value, "startTime": timestamp_text(info.start_time)}
    if info.state is SpecialTaskState.COMPLETED:
        if info.exit_code is not None:
            body["exitCode"] = info.exit_code
        if info.failure is not None:
            body["failureInfo"] = failure_object(info.failure)
        if info.result is not None:
            body["result"] = info.result.value
    return body


def _put_retries(body: dict[str, Any], info: SpecialTaskInfo) -> None:
    body["retryCount"] = info.retry_count
    put_time(body, "lastRetryTime", info.last_retry_time)
