"""The task's directories become its user's, once all the agent puts there is there (semantics 4.2)."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
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

    def prestart(self, attempt: Attempt) -> Awaitable[None] | None:
        run_as = attempt.run_as
        if attempt.resumed or attempt.makes_directory or run_as is None:
            return None
        readable = attempt.start.kind in _READABLE
        uid, gid = run_as.uid, self._group if readable else run_as.gid
        if attempt.start.instance is not None or attempt.start.kind is TaskKind.START_TASK:
            # Common files are beside `wd`; of the start task's directory only `wd` is new.
            give = partial(give_tree, attempt.task_directory, uid, gid, itself=False)
        elif attempt.spec.resource_files:
            give = partial(give_tree, attempt.working_directory, uid, gid)
        else:
            self._give(attempt, uid, gid)
            return None
        return self._give_all(give, attempt, uid, gid)

    async def _give_all(self, give: Callable[[], None], attempt: Attempt, uid: int, gid: int) -> None:
        with _giving():
            await asyncio.to_thread(give)
        self._give(attempt, uid, gid)

    @staticmethod
    def _give(attempt: Attempt, uid: int, gid: int) -> None:
        mode = _READABLE_MODE if attempt.start.kind in _READABLE else _OWN_MODE
        with _giving():
            os.chown(attempt.working_directory, uid, gid)
            os.chmod(attempt.working_directory, mode)
            os.chmod(attempt.task_directory, mode)
            # From here on it is open.
            os.chown(attempt.task_directory, uid, gid)

    def stop(self, attempt: Attempt) -> None:
        if not attempt.has_own_user:
            return
        try:
            # Nobody but the agent, and whom the group lets read, gets to what is in it.
            gid = self._group if attempt.start.kind in _READABLE else 0
            os.chown(attempt.task_directory, 0, gid, follow_symlinks=False)
            os.chmod(attempt.task_directory, _READABLE_MODE)
        except FileNotFoundError:
            return


@contextlib.contextmanager
def _giving() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise node_failure(
            TaskFailureCode.RESOURCE_DIRECTORY_CREATE_FAILED,
            "The task's directory could not be given to its user",
            error,
        ) from error
