"""Forms that all entities share: times, errors, URLs."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from millpond.domain.durations import UNLIMITED_TEXT, Timestamp, etag_of, format_timestamp
from millpond.domain.ids import affinity_id, task_directory
from millpond.domain.task import FailureInfo, NameValue

DEFAULT_RETENTION: Final = "P7D"
UNLIMITED: Final = UNLIMITED_TEXT


def words(text: str) -> frozenset[str]:
    """The words of a text: a readable way to write many names."""
    return frozenset(text.split())


@lru_cache(maxsize=8192)
def timestamp_text(at: Timestamp) -> str:
    """The same as `format_timestamp`, quicker for many times in the same few seconds: a listing has thousands."""
    second, fraction = divmod(round(at * 1_000_000), 1_000_000)
    if fraction == 0:
        return _second_text(second) + "Z"
    return _second_text(second) + f".{fraction:06d}".rstrip("0") + "Z"


@lru_cache(maxsize=8192)
def _second_text(second: int) -> str:
    return format_timestamp(second)[:-1]


def etag_text(last_modified: Timestamp) -> str:
    """The `eTag` of a body: as in the header, without quotes."""
    return etag_of(last_modified)


def quoted(segment: str) -> str:
    """One segment of a URL's path, percent-encoded: an id, or a node's file path without its slashes."""
    return quote(segment, safe="")


def path_quoted(path: str) -> str:
    """A file path within a URL's path: slashes stay."""
    return quote(path, safe="/")


def pool_url(base_url: str, pool_id: str) -> str:
    return f"{base_url}/pools/{quoted(pool_id)}"


def job_url(base_url: str, job_id: str) -> str:
    return f"{base_url}/jobs/{quoted(job_id)}"


def job_schedule_url(base_url: str, schedule_id: str) -> str:
    return f"{base_url}/jobschedules/{quoted(schedule_id)}"


def task_url(base_url: str, job_id: str, task_id: str) -> str:
    return f"{base_url}/jobs/{quoted(job_id)}/tasks/{quoted(task_id)}"


def node_url(base_url: str, pool_id: str, node_id: str) -> str:
    return f"{base_url}/pools/{quoted(pool_id)}/nodes/{quoted(node_id)}"


def node_info(base_url: str, pool_id: str, node_id: str, job_id: str, task_id: str) -> dict[str, str]:
    """Azure Batch: ComputeNodeInformation: where a task runs or ran."""
    url = node_url(base_url, pool_id, node_id)
    directory = task_directory(job_id, task_id)
    return {
        "affinityId": affinity_id(node_id),
        "nodeUrl": url,
        "poolId": pool_id,
        "nodeId": node_id,
        "taskRootDirectory": directory,
        "taskRootDirectoryUrl": f"{url}/files/{path_quoted(directory)}",
    }


def name_values(items: Iterable[NameValue]) -> list[dict[str, str]]:
    return [{"name": item.name, "value": item.value} for item in items]


def failure_object(failure: FailureInfo) -> dict[str, Any]:
    """Azure Batch: TaskFailureInformation."""
    body: dict[str, Any] = {
        "category": failure.category.value,
        "code": str(failure.code),
        "message": failure.message,
    }
    if failure.details:
        body["details"] = name_values(failure.details)
    return body


def put_time(body: dict[str, Any], name: str, at: Timestamp | None) -> None:
    """Set a time that may be missing: absent rather than null."""
    if at is not None:
        body[name] = timestamp_text(at)
