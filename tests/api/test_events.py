"""Millpond's own operation: the feed of service log events."""

import pytest

from millpond.domain.service_log import PoolDeleteStartEvent
from tests.api.conftest import World


async def test_events_are_read_on_from_where_one_was(world: World) -> None:
    answer = await world.call("GET", "/events")
    assert (answer.status, answer.json()["value"], answer.json()["missed"]) == (200, [], False)
    begin = answer.json()["next"]
    world.control.events_feed.add(PoolDeleteStartEvent(id="p1"))
    body = (await world.call("GET", "/events", query=f"after={begin}&wait=30")).json()
    (event,) = body["value"]
    assert (event["name"], event["body"], event["sequence"]) == ("PoolDeleteStartEvent", {"id": "p1"}, body["next"])
    assert (await world.call("GET", "/events", query=f"after={body['next']}")).json()["value"] == []


@pytest.mark.parametrize("query", ["after=x", "after=-1", "wait=61", "wait=-1", "wait=nan", "wait=1e1"])
async def test_what_makes_no_sense_is_refused(world: World, query: str) -> None:
    answer = await world.call("GET", "/events", query=query)
    assert (answer.status, answer.code) == (400, "InvalidQueryParameterValue")
