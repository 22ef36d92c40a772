"""constraints.retentionTime: how long the task's directory stays (semantics 4.3)."""

from millpond.agent.runner.attempt import Attempt, TaskHook


class Retention(TaskHook):
    async def stop(self, attempt: Attempt) -> None:
        attempt.directories.release(attempt.relative_directory)
        attempt.directories.retain(attempt.relative_directory, attempt.spec.retention_s)
