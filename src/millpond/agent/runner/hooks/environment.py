"""The environment of the process (semantics 4.4)."""

from millpond.agent.base import NodeFacts
from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.agent.runner.environment import node_environment, task_environment
from millpond.agent.runner.instance import instance_environment
from millpond.agent.runner.packages import NodePackages
from millpond.domain import ids
from millpond.domain.states import TaskKind


class Environment(TaskHook):
    def __init__(self, facts: NodeFacts, packages: NodePackages) -> None:
        self._node = node_environment(facts)
        self._packages = packages

    def prestart(self, attempt: Attempt) -> None:
        start = attempt.start
        settings = start.common_environment
        if attempt.spec.environment_settings:
            own = tuple((setting.name, setting.value or "") for setting in attempt.spec.environment_settings)
            settings = (*settings, *own)
        attempt.environment = task_environment(
            self._node,
            special={**_special(attempt), **self._packages.environment(attempt.spec.application_packages)},
            task_directory=attempt.task_directory,
            working_directory=attempt.working_directory,
            user=attempt.user,
            user_identity=attempt.user_identity,
            settings=settings,
        )


def _special(attempt: Attempt) -> dict[str, str]:
    """The variables that not all tasks have."""
    start = attempt.start
    if start.kind is TaskKind.START_TASK:
        return {}
    variables = {"AZ_BATCH_JOB_ID": start.job_id, "AZ_BATCH_TASK_ID": start.task_id}
    if start.preparation_id and start.kind is not TaskKind.JOB_PREPARATION:
        # Also when its retention time has passed and nothing is there any more.
        preparation = f"{attempt.directories.root}/{ids.task_directory(start.job_id, start.preparation_id)}"
        variables["AZ_BATCH_JOB_PREP_DIR"] = preparation
        variables["AZ_BATCH_JOB_PREP_WORKING_DIR"] = f"{preparation}/wd"
    if start.token:
        variables["AZ_BATCH_AUTHENTICATION_TOKEN"] = start.token
    if start.instance is not None:
        variables |= instance_environment(start.instance, attempt)
    return variables
