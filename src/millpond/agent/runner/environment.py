"""The environment of a task: what the service sets, what the job and the task set, references expanded.

Sources: semantics 4.4 (variables), 4.2 (HOME, PWD, PATH). Nothing of the agent's own environment is passed on.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from millpond.agent.base import NodeFacts
from millpond.domain.errors import TaskFailure, TaskFailureCode

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SERVICE_PREFIX: Final = "AZ_BATCH_"
RESERVED_DISK_SPACE_BYTES: Final = 1_000_000
"""Free space below which no task is started."""

Lookup: TypeAlias = Callable[[str], str | None]

_REFERENCE: Final = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_TRUST: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""By these OpenSSL and Python, requests, and Node.js find the certificates to trust."""
_MAX_DEPTH: Final = 16
_MAX_LENGTH: Final = 128 * 1024
"""The kernel takes no longer string in an environment."""


def node_environment(facts: NodeFacts) -> dict[str, str]:
    """What is the same for all tasks of a node."""
    root = facts.root
    return {
        "LANG": "C.UTF-8",
        **(dict.fromkeys(_TRUST, facts.ca_bundle) if facts.ca_bundle else {}),
        "AZ_BATCH_ACCOUNT_NAME": facts.account_name,
        "AZ_BATCH_ACCOUNT_URL": facts.account_url,
        "AZ_BATCH_POOL_ID": facts.pool_id,
        "AZ_BATCH_NODE_ID": facts.node_id,
        "AZ_BATCH_NODE_IS_DEDICATED": "true" if facts.is_dedicated else "false",
        "AZ_BATCH_NODE_ROOT_DIR": root,
        "AZ_BATCH_NODE_SHARED_DIR": f"{root}/shared",
        "AZ_BATCH_NODE_STARTUP_DIR": f"{root}/startup",
        "AZ_BATCH_NODE_STARTUP_WORKING_DIR": f"{root}/startup/wd",
        "AZ_BATCH_NODE_MOUNTS_DIR": f"{root}/fsmounts",
        "AZ_BATCH_RESERVED_DISK_SPACE_BYTES": str(RESERVED_DISK_SPACE_BYTES),
        "AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES": str(RESERVED_DISK_SPACE_BYTES),
    }


def task_environment(
    node: Mapping[str, str],
    *,
    special: Mapping[str, str],
    task_directory: str,
    working_directory: str,
    user: str,
    user_identity: str,
    settings: Sequence[tuple[str, str]],
) -> dict[str, str]:
    """The whole environment of a task. `special` are variables that not all tasks have; `settings` are the user's, the
    job's before the task's: the last of a name wins.

    AZ_BATCH_ names are the service's: a user's setting of one is ignored. Raises TaskFailure CommandLaunchFailed for a
    name or value that no process can be given.
    """
    environment = {
        **node,
        "PATH": f"{SYSTEM_PATH}:{node['AZ_BATCH_NODE_SHARED_DIR']}:{working_directory}",
        "HOME": working_directory,
        "PWD": working_directory,
        "USER": user,
        "LOGNAME": user,
        **special,
        "AZ_BATCH_TASK_DIR": task_directory,
        "AZ_BATCH_TASK_WORKING_DIR": working_directory,
        "AZ_BATCH_CERTIFICATES_DIR": f"{task_directory}/certs",
        "AZ_BATCH_TASK_USER": user,
        "AZ_BATCH_TASK_USER_IDENTITY": user_identity,
    }
    if not settings:
        return environment
    theirs: dict[str, str] = {}
    for name, value in settings:
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise TaskFailure(
                TaskFailureCode.COMMAND_LAUNCH_FAILED,
                f"The environment setting {name!r} cannot be given to a process",
            )
        if not name.upper().startswith(SERVICE_PREFIX):
            theirs[name] = value
    return expand_settings(theirs, environment)


def expand_settings(settings: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """`base` with `settings` laid over it, `$NAME` and `${NAME}` in the settings' values expanded.

    A name stands for its final value; within its own value it stands for the one it replaces (`PATH=/opt/x:$PATH`).
    A reference to an unknown name stays as written, and so does one that would run in a circle.
    """
    result = dict(base)
    finished: dict[str, str] = {}

    def value_of(name: str, path: tuple[str, ...]) -> str | None:
        if name not in settings or (path and path[-1] == name):
            return base.get(name)
        if name in path or len(path) >= _MAX_DEPTH:
            return None
        if name in finished:
            return finished[name]
        value = expand(settings[name], lambda other: value_of(other, (*path, name)))
        if not path:
            # Further in, a circle may have been cut open at a place that is right only from there.
            finished[name] = value
        return value

    for name in settings:
        result[name] = value_of(name, ()) or ""
    return result


def expand(text: str, lookup: Lookup) -> str:
    """`text` with `$NAME` and `${NAME}` replaced by what `lookup` has for them; None leaves the reference in place."""
    if "$" not in text:
        return text
    expanded = _REFERENCE.sub(lambda match: _or_itself(lookup(match[1] or match[2]), match), text)
    if len(expanded) > _MAX_LENGTH:
        raise TaskFailure(
            TaskFailureCode.COMMAND_LAUNCH_FAILED, f"A value grows past {_MAX_LENGTH} characters when it is expanded"
        )
    return expanded


def _or_itself(value: str | None, match: re.Match[str]) -> str:
    return match[0] if value is None else value
