"""Tasks in wire form.

A task is its stored specification, spliced as it is between what the record says: a page of a thousand is made without
parsing a thousand specifications.
"""

from typing import Any, Final

import msgspec

from millpond.api.render.common import (
    DEFAULT_RETENTION,
    UNLIMITED,
    failure_object,
    job_url,
    node_url,
    path_quoted,
    quoted,
    timestamp_text,
    words,
)
from millpond.api.render.statistics import task_statistics
from millpond.api.schema.task import StoredTask
from millpond.domain.durations import Timestamp, etag_of
from millpond.domain.ids import affinity_id, task_directory
from millpond.domain.job import Job
from millpond.domain.states import TaskState
from millpond.domain.task import Task
from millpond.store.base import TaskRow

PROPERTIES: Final = words(
    "id displayName url eTag lastModified creationTime exitConditions state stateTransitionTime previousState "
    "previousStateTransitionTime commandLine containerSettings resourceFiles outputFiles environmentSettings "
    "affinityInfo constraints requiredSlots userIdentity executionInfo nodeInfo multiInstanceSettings stats dependsOn "
    "applicationPackageReferences authenticationTokenSettings"
)
"""What `$select` may name."""

_encode: Final = msgspec.json.Encoder().encode
_decode_stored: Final = msgspec.json.Decoder(StoredTask).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode
_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_BEFORE_ID: Final = b'{"id":"'
_DEFAULT_IDENTITY: Final = b',"userIdentity":{"autoUser":{"scope":"pool","elevationLevel":"nonadmin"}}'
_DEFAULT_SLOTS: Final = b',"requiredSlots":1'
_CONSTRAINTS: Final = b',"constraints":'
_NEVER_HANDED_OUT: Final = b',"executionInfo":{"retryCount":0,"requeueCount":0}}'
_COMPLETED: Final = TaskState.COMPLETED
_ACTIVE: Final = TaskState.ACTIVE


class TaskRenderer:
    """Renders tasks of one job for one request."""

    def __init__(
        self,
        job: Job,
        base_url: str,
        select: frozenset[str] | None = None,
        stats_at: Timestamp | None = None,
    ) -> None:
        """With `stats_at`, the time it is, statistics are shown, selected or not."""
        self._job = job
        self._tasks_url = f"{job_url(base_url, job.id)}/tasks/"
        self._before_id = f'{{"url":"{self._tasks_url}'.encode()
        self._base_url = base_url
        self._select = select if select is None or stats_at is None else select | {"stats"}
        self._stats_at = stats_at
        self._default_constraints = self._constraints_text({})
        self._tails = {
            (identity, slots): (_DEFAULT_IDENTITY if identity else b"") + (_DEFAULT_SLOTS if slots else b"")
            for identity in (False, True)
            for slots in (False, True)
        }
        """By what is missing."""
        self._moves: tuple[object, ...] = ()
        self._moves_text = b""
        self._added: tuple[object, ...] = ()
        self._added_text = ""
        self._nodes: dict[str, tuple[str, str]] = {}
        self._rest = b""
        self._completed_rest = b""

    def render(self, row: TaskRow, *, metadata: str = "") -> bytes:
        """The task as a JSON object; `metadata` is the odata.metadata to begin it with."""
        body = self._whole(row)
        if self._select is not None:
            chosen = self._select
            body = _encode({name: value for name, value in _decode_raw(body).items() if name in chosen})
        if not metadata:
            return body
        head = b'{"odata.metadata":' + _encode(metadata)
        return head + b"}" if body == b"{}" else head + b"," + body[1:]

    def _whole(self, row: TaskRow) -> bytes:
        task = row.task
        moves = (
            task.last_modified,
            task.creation_time,
            task.state,
            task.state_time,
            task.previous_state,
            task.previous_state_time,
        )
        if moves != self._moves:
            # Tasks that were added together have it in common, and come one after the other.
            self._moves, self._moves_text = moves, self._text_of_moves(task).encode()
        task_id = task.id.encode()
        before, _, rest = row.spec.partition(task_id)
        if before == _BEFORE_ID:
            if rest != self._rest:
                # What follows the id is often the same for all of them, too.
                self._rest, self._completed_rest = rest, self._completed(row.spec, len(before) + len(task_id))
            specification = (before[1:], task_id, self._completed_rest)
        else:
            specification = (self._completed(row.spec), b"", b"")
        stats = b""
        if self._stats_at is not None:
            stats = b',"stats":' + _encode(task_statistics(task, f"{self._tasks_url}{task.id}", self._stats_at))
        return b"".join((self._before_id, task_id, self._moves_text, *specification, stats, self._ending(task)))

    def _completed(self, spec: bytes, start: int = 1) -> bytes:
        """The specification from a place on, which is not beyond its first property, and with its defaults: without the
        closing brace."""
        stored = _decode_stored(spec)
        end = -1
        tail = self._tails[stored.user_identity is msgspec.UNSET, stored.required_slots is msgspec.UNSET]
        if stored.constraints is msgspec.UNSET:
            constraints = self._default_constraints
        else:
            given = bytes(stored.constraints)
            constraints = self._constraints_text(_decode_object(given))
            ending = _CONSTRAINTS + given + b"}"
            if spec.endswith(ending):
                end = -len(ending)
            else:
                other = _decode_raw(spec)
                del other["constraints"]
                spec = _encode(other)
        return b"".join((spec[start:end], constraints, tail))

    def _text_of_moves(self, task: Task) -> str:
        """What stands between the id in the task's URL and its specification."""
        before = ""
        if task.previous_state is not None:
            before = f'"previousState":"{task.previous_state._value_}",'
            if task.previous_state_time is not None:
                before += f'"previousStateTransitionTime":"{timestamp_text(task.previous_state_time)}",'
        added = (task.last_modified, task.creation_time)
        if added != self._added:
            self._added = added
            self._added_text = (
                f'","eTag":"{etag_of(task.last_modified)}","creationTime":"{timestamp_text(task.creation_time)}",'
                f'"lastModified":"{timestamp_text(task.last_modified)}","state":"'
            )
        return f'{self._added_text}{task.state._value_}","stateTransitionTime":"{timestamp_text(task.state_time)}",{before}'

    def _constraints_text(self, given: dict[str, Any]) -> bytes:
        """Completed with defaults; a retry count that the task does not set is its job's."""
        whole = {
            "maxWallClockTime": UNLIMITED,
            "retentionTime": DEFAULT_RETENTION,
            "maxTaskRetryCount": self._job.max_task_retry_count,
            **given,
        }
        return _CONSTRAINTS + _encode(whole)

    def _ending(self, task: Task) -> bytes:
        """The end of the object: executionInfo, nodeInfo, the closing brace."""
        if task.attempt == 0 and task.state is _ACTIVE:
            return _NEVER_HANDED_OUT
        text = f',"executionInfo":{execution_text(task)}'
        # A task handed to a node and not begun is plainly active: where it waits is nobody's business.
        if task.node_id is None or task.state is _ACTIVE:
            return text.encode() + b"}"
        return f'{text},"nodeInfo":{self._node_info(task, task.node_id)}}}'.encode()

    def _node_info(self, task: Task, node_id: str) -> str:
        known = self._nodes.get(node_id)
        if known is None:
            known = self._nodes[node_id] = self._node_texts(node_id)
        before, between = known
        # An id needs no quoting.
        return f'{before}{task.id}{between}{task.id}"}}'

    def _node_texts(self, node_id: str) -> tuple[str, str]:
        """What comes before the task's id in nodeInfo, and what between it and the id again."""
        url = node_url(self._base_url, self._job.pool_id, node_id)
        directory = task_directory(self._job.id, "")
        before = (
            f'{{"affinityId":"{affinity_id(node_id)}","nodeUrl":"{url}","poolId":"{self._job.pool_id}",'
            f'"nodeId":"{node_id}","taskRootDirectory":"{directory}'
        )
        return before, f'","taskRootDirectoryUrl":"{url}/files/{path_quoted(directory)}'


def execution_text(task: Task) -> str:
    """Azure Batch: TaskExecutionInformation, as JSON."""
    text = "{"
    if task.start_time is not None:
        text += f'"startTime":"{timestamp_text(task.start_time)}",'
    if task.state is _COMPLETED:
        if task.end_time is not None:
            text += f'"endTime":"{timestamp_text(task.end_time)}",'
        if task.exit_code is not None:
            text += f'"exitCode":{task.exit_code},'
        text += '"result":"success",' if task.failure is None else '"result":"failure",'
        if task.failure is not None:
            text += f'"failureInfo":{_encode(failure_object(task.failure)).decode()},'
    text += f'"retryCount":{task.retry_count},"requeueCount":{task.requeue_count}'
    if task.last_retry_time is not None:
        text += f',"lastRetryTime":"{timestamp_text(task.last_retry_time)}"'
    if task.last_requeue_time is not None:
        text += f',"lastRequeueTime":"{timestamp_text(task.last_requeue_time)}"'
    return text + "}"


def task_info(job_id: str, task: Task, base_url: str) -> dict[str, Any]:
    """Azure Batch: TaskInformation."""
    return {
        "taskUrl": f"{job_url(base_url, job_id)}/tasks/{quoted(task.id)}",
        "jobId": job_id,
        "taskId": task.id,
        "taskState": task.state.value,
        "executionInfo": _decode_object(execution_text(task)),
    }
