"""What the node must have left for a task to start."""

import os

from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.agent.runner.environment import RESERVED_DISK_SPACE_BYTES
from millpond.domain.errors import TaskFailure, TaskFailureCode


class Limits(TaskHook):
    """Disk space: a task that would start on a full disk ends as DiskFull instead of with errors of its own."""

    def prestart(self, attempt: Attempt) -> None:
        if attempt.resumed:
            return
        disk = os.statvfs(attempt.directories.root)
        free = disk.f_bavail * disk.f_frsize
        if free < RESERVED_DISK_SPACE_BYTES:
            raise TaskFailure(
                TaskFailureCode.DISK_FULL,
                "There is not enough disk space on the node to run the task",
                FreeBytes=str(free),
                ReservedBytes=str(RESERVED_DISK_SPACE_BYTES),
            )
