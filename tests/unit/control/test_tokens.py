"""Tokens of tasks: signed claims, and how long they are good."""

import pytest

from millpond.control.tokens import TaskClaim, read_task_token, task_token
from millpond.domain import events as e
from millpond.domain.task import NewTask, TaskRules
from millpond.protocol import messages as m
from tests.listening import hear, tell
from tests.unit.control import test_service
from tests.unit.control.test_service import Cluster

CLAIM = TaskClaim("job", "manager", 3)
cluster = test_service.cluster


def test_a_token_says_what_was_signed() -> None:
    assert read_task_token(b"secret", task_token(b"secret", CLAIM)) == CLAIM


@pytest.mark.parametrize("spoil", [str.upper, lambda t: t[:-1], lambda t: t + "=", lambda t: "x" + t, lambda t: t[:20]])
def test_a_token_that_was_touched_says_nothing(spoil: object) -> None:
    assert read_task_token(b"secret", spoil(task_token(b"secret", CLAIM))) is None


@pytest.mark.parametrize("token", ["", ".", "mptask", "mptask..", "mptask.\xe9.\xe9", "a.b.c"])
def test_anything_else_says_nothing(token: str) -> None:
    assert read_task_token(b"secret", token) is None


def test_another_services_token_says_nothing() -> None:
    assert read_task_token(b"secret", task_token(b"another", CLAIM)) is None


async def test_a_token_is_good_while_its_attempt_lasts(cluster: Cluster) -> None:
    node_id = await cluster.until_node()
    welcome = await cluster.hello(node_id)
    tasks = (NewTask("with", b"{}", max_retry_count=1, rules=TaskRules(job_access=True)), NewTask("without", b"{}"))
    control = cluster.control
    await control.to_job("job", e.TasksAdded(at=control.now(), job_id="job", tasks=tasks))
    tokens: list[str] = []
    for attempt, exit_code in ((1, 1), (2, 0)):
        reply = await hear(control.agents, node_id, welcome.session, 0)
        starts = [
            d for d in reply.directives if isinstance(d, m.Start) and (d.key, d.attempt) == ((1 << 32) | 1, attempt)
        ]
        tokens.append(starts[0].token)
        assert control.claim_of_token(tokens[-1]) == TaskClaim("job", "with", attempt)
        now = control.now()
        reports = (
            m.Started(2 * attempt, starts[0].key, attempt, now),
            m.Ended(2 * attempt + 1, starts[0].key, attempt, now, now, exit_code),
        )
        await tell(control.agents, m.Sync(node_id, welcome.session, 0, reports))
        assert control.claim_of_token(tokens[-1]) is None, "it ended with the attempt"
    assert tokens[0] != tokens[1]
    reply = await hear(control.agents, node_id, welcome.session, 0)
    others = [d.token for d in reply.directives if isinstance(d, m.Start) and d.task_id == "without"]
    assert set(others) == {""}
    assert control.claim_of_token(task_token(b"secret", TaskClaim("nojob", "t", 1))) is None
