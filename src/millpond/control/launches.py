"""Commands that one instance of a multi-instance task has run in another: mpirun's daemons, without ssh.

The nodes listen to nobody, so the launch agent of one asks the service, and the service asks the other node with its next
sync. Nothing of it is kept here: the command, its output and its end are with the node it runs on, and the launch agent
asks until it has ended. So a control plane that is restarted in between costs a moment, and a lost message a repetition.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, Protocol

from millpond.control.outbox import Outbox
from millpond.control.tokens import LaunchClaim, read_launch_token
from millpond.domain.errors import BatchError, ErrorCode
from millpond.protocol import messages as m
from millpond.scheduler.state import SchedulerState

_WAIT_S: Final = 20.0
"""How long a node may wait before it says that nothing has happened."""
_ANSWER_S: Final = 15.0
"""How much later its answer must be there."""


class _Reach(Protocol):
    """How nodes are reached: see `nodes.NodeLinks`."""

    def state_of(self, node_id: str) -> SchedulerState | None:
        """What the engine of the node's pool knows. None for a node that is in no pool. Raises BatchError ServerBusy."""
        ...

    def connected(self, node_id: str) -> Outbox | None:
        """What goes out with the node's next sync; None while it is not in touch."""
        ...


class Launches:
    """The calls of launch agents that wait for a node's answer."""

    def __init__(self, secret: bytes, reach: Callable[[], _Reach]) -> None:
        self._secret = secret
        self._reach = reach
        self._asked: dict[str, tuple[str, asyncio.Future[m.LaunchReply]]] = {}

    def close(self) -> None:
        """Let all that wait ask again."""
        for _, answer in self._asked.values():
            if not answer.done():
                answer.set_exception(BatchError(ErrorCode.SERVER_BUSY))

    async def launch(self, token: str, call: m.LaunchCall) -> m.LaunchAnswer:
        """Have a command run, unless that was done before, and say how far it is.

        Raises BatchError: AuthenticationFailed (no such token, or its attempt is over), NodeNotFound (the host is none
        of the task's), ServerBusy and NodeNotReady (to be tried again), and what the node answers.
        """
        claim = read_launch_token(self._secret, token)
        if claim is None:
            raise BatchError(ErrorCode.AUTHENTICATION_FAILED)
        node_id = self._target(claim, call.host)
        outbox = self._reach().connected(node_id)
        if outbox is None:
            raise BatchError(ErrorCode.NODE_NOT_READY, f"The node of {call.host} is not in touch with the service.")
        request_id = secrets.token_urlsafe(16)
        answer: asyncio.Future[m.LaunchReply] = asyncio.get_running_loop().create_future()
        self._asked[request_id] = node_id, answer
        try:
            outbox.launch(
                m.LaunchRequest(
                    id=request_id,
                    key=claim.key,
                    attempt=claim.attempt,
                    command_id=call.id,
                    command=call.command,
                    stdout_from=call.stdout_from,
                    stderr_from=call.stderr_from,
                    wait_s=_WAIT_S,
                )
            )
            async with asyncio.timeout(_WAIT_S + _ANSWER_S):
                reply = await answer
        except TimeoutError:
            raise BatchError(ErrorCode.NODE_NOT_READY, f"The node of {call.host} did not answer in time.") from None
        finally:
            del self._asked[request_id]
        if reply.error:
            raise _error_of(reply)
        return m.LaunchAnswer(exit_code=reply.exit_code, stdout=reply.stdout, stderr=reply.stderr)

    def answer(self, node_id: str, request_id: str, reply: m.LaunchReply) -> None:
        """A node's answer; one that nobody waits for is dropped."""
        asked = self._asked.get(request_id)
        if asked is not None and asked[0] == node_id and not asked[1].done():
            asked[1].set_result(reply)

    def _target(self, claim: LaunchClaim, host: str) -> str:
        """The node of the task's instance on that host."""
        state = self._reach().state_of(claim.node_id)
        gang = state.gangs.get(claim.key) if state is not None else None
        if state is None or gang is None or gang.task.attempt != claim.attempt:
            raise BatchError(ErrorCode.AUTHENTICATION_FAILED, "The attempt that this token was given to is over.")
        addresses: list[str] = []
        for instance in gang.instances:
            node = state.nodes.get(instance.node_id)
            if node is None:
                continue
            if host in (node.row.ip_address, node.row.id):
                return node.row.id
            addresses.append(node.row.ip_address)
        message = f"The host {host!r} is none of the task's nodes: they are {', '.join(addresses)}."
        raise BatchError(ErrorCode.NODE_NOT_FOUND, message)


def _error_of(reply: m.LaunchReply) -> BatchError:
    try:
        code = ErrorCode(reply.error)
    except ValueError:
        return BatchError(ErrorCode.INTERNAL_ERROR, reply.message or f"The node answered {reply.error}.")
    return BatchError(code, reply.message or None)
