"""How many files a process may hold open: the service and the hosts of nodes take all they may, as each client and each
node is a socket. What they start is given the limit they were started with: programs that use `select`, or close whatever
might be open, count on a low one."""

import contextlib
import resource

_LIMIT = resource.RLIMIT_NOFILE


def raise_limit() -> int:
    """Let this process open as many files as it is allowed to. Returns the limit it had."""
    soft, hard = resource.getrlimit(_LIMIT)
    # A kernel's own bound may be lower than what was granted.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(_LIMIT, (hard, hard))
    return soft


def set_limit_of(process_id: int, limit: int) -> None:
    """Set the limit of a process just started. One that is gone already needs none."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.prlimit(process_id, _LIMIT)
        resource.prlimit(process_id, _LIMIT, (limit, hard))
