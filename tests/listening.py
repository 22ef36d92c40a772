"""A node by itself, as its host listens for it."""

import secrets

from millpond.control.base import AgentGateway
from millpond.domain.errors import BatchError, ErrorCode
from millpond.protocol import messages as m


async def hear(
    agents: AgentGateway,
    node_id: str,
    session: str,
    seen: int = 0,
    *,
    metrics: m.NodeMetrics | None = None,
    park: bool = True,
) -> m.SyncReply:
    """What there is for the node in that session; with `park` it waits while there is nothing, as long as calls do.

    Raises BatchError for a node that is not listened for."""
    place = 1
    node = m.Listening(place, node_id, "", session, seen)
    call = m.Listen(secrets.token_hex(8), 1, begins=True, nodes=(node,), metrics=metrics)
    news = await agents.listen(call, park=park)
    for one in news.nodes:
        assert one.place == place
        if one.reply is None:
            raise BatchError(ErrorCode(one.error))
        return one.reply
    return m.SyncReply(session)


async def tell(agents: AgentGateway, sync: m.Sync) -> m.SyncReply:
    """What a node is answered that reports by itself. Raises BatchError when something is wrong with its sync."""
    (answer,) = await agents.sync_all((sync,))
    if isinstance(answer, BatchError):
        raise answer
    return answer
