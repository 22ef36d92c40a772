"""A host that finds many new nodes at once."""

import asyncio
import json
import random
import time
from pathlib import Path

import pytest

from millpond.agent.host import Host
from millpond.agent.http_transport import EndpointFile, HttpHost, HttpTransport, open_session
from tests.unit.agent.fakes import FakeFiles, FakeRunner
from tests.waiting import PATIENCE_S


async def test_while_new_nodes_begin_the_others_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millpond.agent.host._LOOK_TURN_S", 0.0)
    for number in range(4):
        directory = tmp_path / "nodes" / f"n{number}"
        directory.mkdir(parents=True)
        wish = {
            "node_id": directory.name,
            "pool_id": "p",
            "token": "t",
            "is_dedicated": True,
            "task_slots": 1,
            "state": "present",
        }
        (directory / "node.json").write_text(json.dumps(wish))
    seen: list[str] = []
    all_begun = asyncio.Event()

    async with open_session() as session:
        calls = HttpHost(session, EndpointFile(str(tmp_path / "endpoint")))

        def begun(*, node_id: str, token: str) -> HttpTransport:
            seen.append("node")
            if seen.count("node") == 4:
                all_begun.set()
            asyncio.get_running_loop().call_soon(seen.append, "turn")
            return HttpTransport(calls, node_id=node_id, token=token)

        host = Host(
            str(tmp_path),
            runner_factory=lambda _: FakeRunner(),
            files_factory=lambda _: FakeFiles(),
            transport_factory=begun,
            clock=time.time,
            chance=random.random,
            shared=calls,
        )
        running = asyncio.create_task(host.run())
        async with asyncio.timeout(PATIENCE_S):
            await all_begun.wait()
            host.stop()
            await running
        await calls.close()
    assert seen[:4] == ["node", "turn", "node", "turn"]
