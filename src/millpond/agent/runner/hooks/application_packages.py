"""Application packages: unpacked on the node before the task's command line runs, for all tasks (semantics 5.4)."""

from collections.abc import Awaitable

from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.agent.runner.packages import NodePackages
from millpond.staging.base import Staging


class ApplicationPackages(TaskHook):
    def __init__(self, packages: NodePackages, staging: Staging) -> None:
        self._packages = packages
        self._staging = staging

    async def set_up(self, attempt: Attempt) -> None:
        await self._packages.set_up(attempt.spec.application_packages, self._staging)

    def prestart(self, attempt: Attempt) -> Awaitable[None] | None:
        if attempt.spec.application_packages and not attempt.resumed:
            return self._packages.deploy(attempt.spec.application_packages, self._staging)
        return None
