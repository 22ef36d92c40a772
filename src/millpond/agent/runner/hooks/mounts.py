"""The mounts of the pool, made when the node is set up (semantics 5.5)."""

from millpond.agent.mounts import NodeMounts, checked
from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.domain.errors import TaskFailure, TaskFailureCode


class MountPool(TaskHook):
    """`group` is that of the node's users, where tasks run as such."""

    def __init__(self, mounts: NodeMounts, group: int | None) -> None:
        self._mounts = mounts
        self._group = group

    async def set_up(self, attempt: Attempt) -> None:
        mounts = checked(attempt.spec.mount_configuration or ())
        problem = attempt.spec.prepare_error
        if mounts and problem is not None:
            raise TaskFailure(TaskFailureCode.MOUNT_CONFIGURATION_ERROR, problem.message)
        await self._mounts.set_up(mounts, self._group)
