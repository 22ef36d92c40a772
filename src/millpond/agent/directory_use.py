"""Which task directories of a node are in use, and which are to be removed: the part of `agent.state` about them."""

from collections.abc import Iterator
from typing import TypeAlias

from millpond.agent.actions import Remove
from millpond.domain.states import TaskKind
from millpond.protocol.messages import Start

Directory: TypeAlias = tuple[str, str]
"""(job id, task id); of all tasks of a job when the task id is empty"""


class DirectoryUse:
    """Two attempts never share a directory, and one that is to be removed is given to none before that is done."""

    def __init__(self) -> None:
        self.busy: set[Directory] = set()
        """Of the launched attempts."""
        self.removals: dict[Directory, bool] = {}
        """Directories to remove → whether that has begun (else it waits for attempts that use them)."""

    def take(self, start: Start) -> None:
        """The attempt is launched."""
        self.busy.add((start.job_id, start.task_id))

    def leave(self, start: Start) -> None:
        """The attempt is over."""
        self.busy.discard((start.job_id, start.task_id))

    def is_free(self, start: Start) -> bool:
        """Whether the attempt may be launched, as far as its directory goes."""
        if start.kind is TaskKind.JOB_RELEASE and self._in_use((start.job_id, "")):
            return False  # what was left of the job here is still being stopped
        directory = (start.job_id, start.task_id)
        return directory not in self.busy and not (
            self.removals and (directory in self.removals or (start.job_id, "") in self.removals)
        )

    def begin_removals(self) -> Iterator[Remove]:
        """The removals that wait for nobody any more."""
        for directory, begun in self.removals.items():
            if not begun and not self._in_use(directory):
                self.removals[directory] = True
                yield Remove(*directory)

    def _in_use(self, directory: Directory) -> bool:
        job_id, task_id = directory
        if task_id:
            return directory in self.busy
        return any(busy_job_id == job_id for busy_job_id, _ in self.busy)
