"""The invariants bite: each of these bugs, planted into the true code, is caught within a few seeds."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from millpond.agent.node import NodeAgent
from millpond.agent.state import AgentState
from millpond.control.engine import Engine
from millpond.control.outbox import Outbox
from millpond.domain import events as e
from millpond.domain.effects import Effect, StopTask
from millpond.protocol.messages import Welcome
from millpond.scheduler import core, dependencies, placement
from millpond.scheduler.state import NodeMemory, SchedulerState
from millpond.sim import cluster
from millpond.sim.cluster import Cluster
from millpond.sim.disk import SimDisk
from millpond.store.base import Fence
from millpond.store.changes import ChangeSet

Patch = pytest.MonkeyPatch


def _caught(words: str, seeds: int = 40) -> str:
    """The violation that ends one of the first seeds; it must say what is wrong."""
    for seed in range(1, seeds + 1):
        result = Cluster(seed, minutes=5.0).run()
        if result.violation:
            assert result.story
            assert any(word in result.violation for word in words.split("|")), result.violation
            return result.violation
    raise AssertionError(f"{seeds} seeds, and nobody noticed")


def test_an_answer_before_the_commit(monkeypatch: Patch) -> None:
    true_commit = SimDisk.commit

    async def commit(self: SimDisk, changes: ChangeSet, fence: Fence) -> None:
        task = asyncio.ensure_future(true_commit(self, changes, fence))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    monkeypatch.setattr(SimDisk, "commit", commit)
    _caught("not on disk|counts are|memory is not|no such row|rows that cannot be|handed out")


def test_no_attempt_numbers(monkeypatch: Patch) -> None:
    """A report counts for whatever attempt of the task the node holds."""
    true_handler = core._HANDLERS[e.TaskEnded]

    def on_task_ended(state: SchedulerState, event: e.TaskEnded, effects: list[Effect]) -> None:
        for node in state.nodes.values():
            assignment = node.assigned.get(event.key)
            if assignment is not None:
                event = msgspec.structs.replace(event, node_id=node.row.id, attempt=assignment.attempt)
        true_handler(state, event, effects)

    monkeypatch.setitem(core._HANDLERS, e.TaskEnded, on_task_ended)
    _caught("it never exited with that")


def test_a_node_that_overfills_itself(monkeypatch: Patch) -> None:
    true_welcomed = AgentState.welcomed

    def welcomed(self: AgentState, welcome: Welcome, at: float) -> Any:
        return true_welcomed(self, msgspec.structs.replace(welcome, task_slots=2 * welcome.task_slots), at)

    monkeypatch.setattr(AgentState, "welcomed", welcomed)
    _caught("slots and starts|slots handed out")


def test_books_that_give_slots_away_too_early(monkeypatch: Patch) -> None:
    """A stopped attempt frees its slots before the node has said that it is gone."""
    true_handler = core._HANDLERS[e.TaskTerminateRequested]

    def on_terminate(state: SchedulerState, event: e.TaskTerminateRequested, effects: list[Effect]) -> None:
        true_handler(state, event, effects)
        for effect in effects:
            if isinstance(effect, StopTask):
                node: NodeMemory = state.nodes[effect.node_id]
                free = node.free
                node.free += node.stopping[effect.key, effect.attempt].slots
                state.refile(node, free)

    monkeypatch.setitem(core._HANDLERS, e.TaskTerminateRequested, on_terminate)
    _caught("free is")


def test_an_agent_that_writes_nothing_down(monkeypatch: Patch) -> None:
    monkeypatch.setattr(NodeAgent, "_flush", lambda _: None)
    _caught("it has been started before|slots and starts|in use|not on disk")


def test_dependencies_nobody_waits_for(monkeypatch: Patch) -> None:
    monkeypatch.setattr(dependencies, "add_dependent", lambda _index, _task: True)
    _caught("before its parent")


def test_an_engine_that_keeps_what_was_not_written(monkeypatch: Patch) -> None:
    """After a failed commit the memory is kept as it is."""
    monkeypatch.setattr(Engine, "_drop", _keep_memory)
    _caught("rows|counts|not on disk|memory is not|no such row|handed out")


def _keep_memory(engine: Engine, entries: list[Any], error: Exception, *, retry_s: float) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)
            entry.future.exception()


def test_directives_that_are_sent_once(monkeypatch: Patch) -> None:
    true_take: Callable[[Outbox], Any] = Outbox.take

    def take(self: Outbox) -> Any:
        directives, requests = true_take(self)
        self._pending = []
        return directives, requests

    monkeypatch.setattr(Outbox, "take", take)
    monkeypatch.setattr(cluster, "CALM_S", 200.0)
    _caught("not finished")


def test_a_task_that_is_placed_twice(monkeypatch: Patch) -> None:
    true_assign = placement._assign

    def assign(state: SchedulerState, job: Any, task: Any, node: Any, *rest: Any, **more: Any) -> None:
        true_assign(state, job, task, node, *rest, **more)
        if task.attempt == 2:
            job.ready.setdefault(task.required_slots, deque()).append(task)
            task.node_id = None

    monkeypatch.setattr(placement, "_assign", assign)
    _caught("is not on it|in 2 of|books say|memory is not|has died|failed")
