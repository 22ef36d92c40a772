"""The task's directories become its user's, once all the agent puts there is there (semantics 4.2)."""

import asyncio
import os
from typing import Final

from millpond.agent.isolation.as_user import give_tree
from millpond.agent.isolation.node import NodeIsolation
from millpond.agent.runner.attempt import Attempt, TaskHook, node_failure
from millpond.domain.errors import TaskFailureCode
from millpond.domain.states import TaskKind

_READABLE: Final = frozenset({TaskKind.START_TASK, TaskKind.JOB_PREPARATION})
"""What these leave in their directories is there for all tasks of the node."""
_OWN_MODE: Final = 0o770
_READABLE_MODE: Final = 0o750


class HandOver(TaskHook):
    """Until then the directory is the agent's own, closed to everybody else, so that no task of the same user can put a
    link where the agent is about to write. Where the user was the task's alone, it goes back to the agent at the end:
    its number may come again."""

    def __init__(self, isolation: NodeIsolation) -> None:
        self._group = isolation.users.group

    async def prestart(self, attempt: Attempt) -> None:
        run_as = attempt.run_as
        if attempt.resumed or run_as is None:
            return
        readable = attempt.start.kind in _READABLE
        mode = _READABLE_MODE if readable else _OWN_MODE
        uid, gid = run_as.uid, self._group if readable else run_as.gid
        try:
            if attempt.start.instance is not None or attempt.start.kind is TaskKind.START_TASK:
                # Common files are beside `wd`; of the start task's directory only `wd` is new.
                await asyncio.to_thread(give_tree, attempt.task_directory, uid, gid, itself=False)
            elif attempt.spec.resource_files:
                await asyncio.to_thread(give_tree, attempt.working_directory, uid, gid)
            else:
                os.chown(attempt.working_directory, uid, gid)
            os.chmod(attempt.working_directory, mode)
            os.chmod(attempt.task_directory, mode)
            # From here on it is open.
            os.chown(attempt.task_directory, uid, gid)
        except OSError as error:
            raise node_failure(
                TaskFailureCode.RESOURCE_DIRECTORY_CREATE_FAILED,
                "The task's directory could not be given to its user",
                error,
            ) from error

    async def stop(self, attempt: Attempt) -> None:
        if not attempt.has_own_user:
            return
        try:
            # Nobody but the agent, and whom the group lets read, gets to what is in it.
            gid = self._group if attempt.start.kind in _READABLE else 0
            os.chown(attempt.task_directory, 0, gid, follow_symlinks=False)
            os.chmod(attempt.task_directory, _READABLE_MODE)
        except FileNotFoundError:
            return
