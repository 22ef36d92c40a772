"""The rows one batch of events changed."""

import msgspec

from millpond.domain.job import Job
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.task import Task


class ChangeSet(msgspec.Struct):
    """Rows to write and rows to delete, by key: the last effect per key wins.

    A key is in `save_…` or in `delete_…`, never in both. `new_tasks` tells inserts from updates: keys of `tasks` that
    have no row yet (an update of a missing row would be an error, an insert of an existing one too).
    """

    pools: dict[int, Pool] = msgspec.field(default_factory=dict)
    nodes: dict[str, Node] = msgspec.field(default_factory=dict)
    jobs: dict[int, Job] = msgspec.field(default_factory=dict)
    tasks: dict[int, Task] = msgspec.field(default_factory=dict)
    new_tasks: set[int] = msgspec.field(default_factory=set)
    specs: dict[int, bytes] = msgspec.field(default_factory=dict)
    satisfied: set[tuple[int, str]] = msgspec.field(default_factory=set)
    deleted_pools: set[int] = msgspec.field(default_factory=set)
    deleted_nodes: set[str] = msgspec.field(default_factory=set)
    deleted_jobs: set[int] = msgspec.field(default_factory=set)
    deleted_tasks: set[int] = msgspec.field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(
            self.pools
            or self.nodes
            or self.jobs
            or self.tasks
            or self.specs
            or self.satisfied
            or self.deleted_pools
            or self.deleted_nodes
            or self.deleted_jobs
            or self.deleted_tasks
        )
