"""Millpond's own operations: why a job, task, pool or node waits."""

import pytest

from millpond.domain.errors import BatchError, ErrorCode
from tests.api.conftest import World


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("/jobs/j1/explain", {"kind": "job", "id": "j1"}),
        ("/pools/p1/explain", {"kind": "pool", "id": "p1"}),
        ("/pools/p1/nodes/tvmps_1_d/explain", {"kind": "node", "id": "tvmps_1_d"}),
    ],
)
async def test_the_chain_of_causes_is_told(world: World, path: str, subject: dict[str, str]) -> None:
    answer = await world.call("GET", path)
    assert answer.status == 200
    body = answer.json()
    assert body["subject"] == subject
    assert (body["state"], body["summary"], body["never"]) == ("active", "It waits.", False)
    (cause,) = body["causes"]
    assert (cause["code"], cause["message"], cause["never"]) == ("dependencyPending", "it waits", False)
    assert cause["references"] == [{"kind": "task", "jobId": "j1", "id": "t9"}]
    assert "since" not in cause
    (behind,) = cause["causes"]
    assert (behind["unblock"], behind["never"], behind["since"]) == (
        "reactivate it",
        True,
        body["stateTransitionTime"],
    )


async def test_what_is_not_there_and_what_cannot_be_told_now(world: World) -> None:
    answer = await world.call("GET", "/jobs/none/tasks/t/explain")
    assert (answer.status, answer.code) == (404, "TaskNotFound")
    world.control.error = BatchError(ErrorCode.SERVER_BUSY)
    answer = await world.call("GET", "/jobs/none/tasks/t/explain")
    assert answer.status == 503
