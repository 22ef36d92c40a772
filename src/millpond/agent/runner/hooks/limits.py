"""What the node must have left for a task to start."""

import os
import time
from typing import Final

from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.agent.runner.environment import RESERVED_DISK_SPACE_BYTES
from millpond.domain.errors import TaskFailure, TaskFailureCode

_LOOK_S: Final = 0.2
"""Between looks at a disk that has room: tasks that bring nothing and follow each other closely share one."""


class Limits(TaskHook):
    """Disk space: a task that would start on a full disk ends as DiskFull instead of with errors of its own."""

    def __init__(self) -> None:
        self._looked_at = float("-inf")

    def prestart(self, attempt: Attempt) -> None:
        now = time.monotonic()
        if attempt.resumed or (attempt.makes_directory and now - self._looked_at < _LOOK_S):
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
        self._looked_at = now
