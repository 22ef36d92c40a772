"""Identifiers: what a valid id is, how ids are compared, and the integer keys rows are stored under."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final

MAX_ID_LENGTH: Final = 64
_VALID_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")

TASK_NUMBER_BITS: Final = 32
_TASK_NUMBER_MASK: Final = (1 << TASK_NUMBER_BITS) - 1


def is_valid_id(text: str) -> bool:
    """Whether `text` may name a pool, job or task: 1 to 64 letters, digits, hyphens, underscores."""
    return _VALID_ID.match(text) is not None


def are_valid_ids(texts: Sequence[str]) -> bool:
    """`is_valid_id` of all of them, there being one at least: in a quarter of the time where they are many."""
    sizes = list(map(len, texts))
    if min(sizes) < 1 or max(sizes) > MAX_ID_LENGTH:
        return False
    rest = "".join(texts).replace("-", "").replace("_", "")
    return not rest or (rest.isascii() and rest.isalnum())


def id_key(text: str) -> str:
    """The form in which ids are compared: ids are case-preserving and case-insensitive."""
    return text.lower()


def id_keys(texts: Iterable[str]) -> list[str]:
    """`id_key` of each."""
    return list(map(str.lower, texts))


def task_key(job_no: int, number: int) -> int:
    """The integer key of a task: the job's number above, the task's number in its job below.

    Tasks of one job are neighbours in key order, which is creation order, so a listing is one range scan.
    """
    return (job_no << TASK_NUMBER_BITS) | number


def job_no_of(key: int) -> int:
    """The number of the job that the task with this key belongs to."""
    return key >> TASK_NUMBER_BITS


def task_number_of(key: int) -> int:
    """The number of the task with this key within its job, starting at 1."""
    return key & _TASK_NUMBER_MASK


START_TASK_KEY: Final = 1
"""The key under which a node runs its pool's start task (there is no job 0)."""
NODE_SETUP_KEY: Final = 2
"""The key under which a node gets what its pool has it ready with before its start task: application packages."""
_PREPARATION_NUMBER: Final = _TASK_NUMBER_MASK - 1
MAX_TASK_NUMBER: Final = _PREPARATION_NUMBER - 1
"""The last number a task of a job can have."""
_RELEASE_NUMBER: Final = _TASK_NUMBER_MASK


def preparation_key(job_no: int) -> int:
    """The key under which a node runs the preparation task of that job: no task of the job has it."""
    return task_key(job_no, _PREPARATION_NUMBER)


def release_key(job_no: int) -> int:
    """The key under which a node runs the release task of that job: no task of the job has it."""
    return task_key(job_no, _RELEASE_NUMBER)


def is_special_key(key: int) -> bool:
    """Whether the key is that of a node's setup, or of a start, preparation or release task."""
    return key & _TASK_NUMBER_MASK >= _PREPARATION_NUMBER or key <= NODE_SETUP_KEY


def is_valid_schedule_job_id(text: str) -> bool:
    """Whether `text` may name a job a schedule made: `<schedule>:job-<n>`."""
    schedule, separator, run = text.partition(":job-")
    return bool(separator) and is_valid_id(schedule) and run.isascii() and run.isdigit()


def make_node_id(account: str, pool_no: int, number: int, *, dedicated: bool) -> str:
    """The id of the `number`-th node ever made for a pool, in the service's form `tvmps_<64 hex>_d` (or `_p`, spot).

    A pure function of its arguments, so that a replayed event makes the same node.
    """
    digest = hashlib.sha256(f"{account}/{pool_no}/{number}".encode()).hexdigest()
    return f"tvmps_{digest}_{'d' if dedicated else 'p'}"


def make_auto_pool_id(prefix: str, *parts: object) -> str:
    """The id of an auto pool: the user's prefix (20 characters at most) and what looks like a GUID, as the service
    makes them. A pure function of its arguments, so that making it again makes the same."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).hexdigest().upper()
    guid = "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
    return f"{prefix}_{guid}" if prefix else guid


def affinity_id(node_id: str) -> str:
    """The affinityId under which a node is named in task affinity (Azure Batch: `TVM:` and the node id)."""
    return f"TVM:{node_id}"


def task_directory(job_id: str, task_id: str) -> str:
    """The task's directory relative to the node's root: `workitems/<job>/job-1/<task>`.

    Jobs made by a schedule are called `<schedule>:job-<n>` and live in `workitems/<schedule>/job-<n>`.
    """
    work_item, separator, run = job_id.partition(":")
    return f"workitems/{work_item}/{run if separator else 'job-1'}/{task_id}"
