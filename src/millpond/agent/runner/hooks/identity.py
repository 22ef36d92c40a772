"""Who the task runs as (semantics 4.6)."""

import os
import pwd

from millpond.agent.runner.attempt import Attempt, TaskHook


class Identity(TaskHook):
    """Tasks run as the agent's own user; `user_identity` says what was asked for, in the service's words."""

    def __init__(self) -> None:
        try:
            self._user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            # A container may run as a user that has no entry.
            self._user = str(os.getuid())

    async def prestart(self, attempt: Attempt) -> None:
        attempt.user = self._user
        attempt.user_identity = "PoolNonAdmin"
        identity = attempt.spec.user_identity
        if identity is None:
            return
        if identity.user_name:
            attempt.user_identity = identity.user_name
        elif identity.auto_user is not None:
            scope = "Task" if (identity.auto_user.scope or "").lower() == "task" else "Pool"
            admin = (identity.auto_user.elevation_level or "").lower() == "admin"
            attempt.user_identity = f"{scope}{'Admin' if admin else 'NonAdmin'}"
