"""What the service found out about a task while it prepared it for the node: that it cannot run."""

from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.domain.errors import TaskFailure


class Prepared(TaskHook):
    """Fails a task whose files name an identity that cannot be used, before anything is fetched (semantics 13)."""

    def prestart(self, attempt: Attempt) -> None:
        error = attempt.spec.prepare_error
        if error is not None:
            raise TaskFailure(error.code, error.message)
