"""The environment of the process (semantics 4.4)."""

from millpond.agent.base import NodeFacts
from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.agent.runner.environment import node_environment, task_environment


class Environment(TaskHook):
    def __init__(self, facts: NodeFacts) -> None:
        self._node = node_environment(facts)

    async def prestart(self, attempt: Attempt) -> None:
        start = attempt.start
        settings = start.common_environment
        if attempt.spec.environment_settings:
            own = tuple((setting.name, setting.value or "") for setting in attempt.spec.environment_settings)
            settings = (*settings, *own)
        attempt.environment = task_environment(
            self._node,
            job_id=start.job_id,
            task_id=start.task_id,
            task_directory=attempt.task_directory,
            working_directory=attempt.working_directory,
            user=attempt.user,
            user_identity=attempt.user_identity,
            settings=settings,
        )
