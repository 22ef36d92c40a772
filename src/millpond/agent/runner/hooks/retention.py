"""constraints.retentionTime: how long the task's directory stays (semantics 4.3)."""

from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.domain.states import TaskKind


class Retention(TaskHook):
    def stop(self, attempt: Attempt) -> None:
        attempt.directories.release(attempt.relative_directory)
        if attempt.start.kind is TaskKind.START_TASK:
            # It stays as long as the node.
            return
        inode = 0 if attempt.exit is None else attempt.exit.directory_inode
        attempt.directories.retain(attempt.relative_directory, attempt.spec.retention_s, inode)
