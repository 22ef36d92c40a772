"""What the task may use up: its control groups, and what the kernel did when it used more."""

import asyncio

from millpond.agent.isolation.cgroups import NodeCgroup
from millpond.agent.runner.attempt import Attempt, TaskHook, node_failure
from millpond.domain.errors import TaskFailure, TaskFailureCode


class ResourceLimits(TaskHook):
    """A task that fails, and of whose group the kernel has killed a process for want of memory meanwhile, says so.

    The group is the node's where tasks have none of their own: then of several that fail at once each kill is laid to
    one.
    """

    def __init__(self, cgroup: NodeCgroup) -> None:
        self._cgroup = cgroup
        self._kills_told = 0
        self._looked = (-1.0, 0)
        """Time of the event loop, and what the count was."""

    def prestart(self, attempt: Attempt) -> None:
        name = _name(attempt)
        try:
            attempt.cgroups = self._cgroup.enter(name, attempt.start.slots)
        except OSError as error:
            raise node_failure(
                TaskFailureCode.COMMAND_LAUNCH_FAILED, "The task's control groups could not be made", error
            ) from error
        if not attempt.waits and not (attempt.resumed and self._cgroup.is_per_task):
            attempt.memory_kills = self._cgroup.out_of_memory_kills(name)

    def began(self, attempt: Attempt) -> None:
        """What the task before it had killed is not its own. (It may have ended itself meanwhile, but is not as quick as
        that when it uses up memory.)"""
        if self._cgroup.is_per_task:
            # A group of its own is new.
            return
        # Several are told of in one turn of the loop, in which its time stands still.
        now = asyncio.get_running_loop().time()
        if now != self._looked[0]:
            self._looked = now, self._cgroup.out_of_memory_kills(_name(attempt))
        attempt.memory_kills = self._looked[1]

    def given_back(self, attempt: Attempt) -> None:
        if attempt.cgroups:
            self.stop(attempt)

    def exited(self, attempt: Attempt) -> None:
        assert attempt.exit is not None
        if attempt.exit.exit_code == 0 or attempt.interruption is not None or attempt.timed_out:
            return
        kills = self._cgroup.out_of_memory_kills(_name(attempt))
        if kills <= attempt.memory_kills:
            return
        if not self._cgroup.is_per_task:
            told = max(self._kills_told, attempt.memory_kills)
            if kills <= told:
                return
            self._kills_told = told + 1
        limit_mib = str(self._cgroup.share(attempt.start.slots) >> 20)
        of_whom = "the task" if self._cgroup.is_per_task else "the tasks of the node together"
        raise TaskFailure(
            TaskFailureCode.FAILURE_EXIT_CODE,
            "The task exited with an exit code representing a failure: a process of it was killed, as "
            f"{of_whom} used more memory than there is ({limit_mib} MiB)",
            Reason="OutOfMemory",
            MemoryLimitMiB=limit_mib,
        )

    def stop(self, attempt: Attempt) -> None:
        if attempt.start.slots > 1 or self._cgroup.is_per_task:
            self._cgroup.leave(_name(attempt))


def _name(attempt: Attempt) -> str:
    return f"{attempt.start.key:x}.{attempt.start.attempt}"
