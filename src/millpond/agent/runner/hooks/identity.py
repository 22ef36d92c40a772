"""Who the task runs as (semantics 4.6)."""

import os
import pwd

from millpond.agent.base import RunAs
from millpond.agent.isolation.node import NodeIsolation
from millpond.agent.isolation.users import identity_words, wished
from millpond.agent.runner.attempt import Attempt, TaskHook


class Identity(TaskHook):
    """Without isolation tasks run as the agent's own user; `user_identity` says what was asked for, in the service's
    words."""

    def __init__(self) -> None:
        try:
            self._user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            # A container may run as a user that has no entry.
            self._user = str(os.getuid())

    def prestart(self, attempt: Attempt) -> None:
        attempt.user = self._user
        name, own, admin = wished(attempt.spec.user_identity, attempt.start.kind)
        attempt.user_identity = identity_words(name, own=own, admin=admin)


class IsolatedIdentity(TaskHook):
    """A user of the node."""

    def __init__(self, isolation: NodeIsolation) -> None:
        self._users = isolation.users

    def prestart(self, attempt: Attempt) -> None:
        if attempt.resumed:
            self._resume(attempt)
            return
        identity = self._users.identify(attempt.spec.user_identity, attempt.start.kind)
        attempt.user = identity.name
        attempt.user_identity = identity.words
        attempt.run_as = identity.run_as
        attempt.has_own_user = identity.own

    def _resume(self, attempt: Attempt) -> None:
        """It runs already, as the user its directory belongs to."""
        facts = os.stat(attempt.task_directory)
        _, own, admin = wished(attempt.spec.user_identity, attempt.start.kind)
        attempt.run_as = RunAs(facts.st_uid, facts.st_uid, (self._users.group,))
        if own and not admin:
            attempt.has_own_user = True
            self._users.resume(facts.st_uid)

    def given_back(self, attempt: Attempt) -> None:
        self.stop(attempt)

    def stop(self, attempt: Attempt) -> None:
        if attempt.has_own_user and attempt.run_as is not None:
            self._users.release(attempt.run_as.uid)
