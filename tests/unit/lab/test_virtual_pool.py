"""The virtual pool keeps the scheduler's books straight, whatever users and machines do."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millpond.domain import events as e
from millpond.domain.errors import BatchError
from millpond.domain.node import Node
from millpond.domain.states import NodeDeallocationOption, NodeState
from millpond.scheduler.check import violations
from millpond.sim.virtual_pool import Machines, VirtualPool, Work
from tests.unit.scheduler.world import new_pool

_resizes = st.builds(
    lambda dedicated, spot, option: e.PoolResizeRequested(
        at=0.0,
        target_dedicated_nodes=dedicated,
        target_low_priority_nodes=spot,
        resize_timeout_s=300.0,
        node_deallocation_option=option,
    ),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from(NodeDeallocationOption),
)
_work = st.lists(st.builds(Work, st.sampled_from([0.0, 0.01, 0.5, 30.0, 400.0]), st.integers(1, 2)), max_size=6)
_steps = st.lists(st.tuples(st.sampled_from([0.0, 0.3, 20.0, 100.0, 1000.0]), _work | _resizes), max_size=25)
_machines = st.builds(
    Machines,
    boot_s=st.sampled_from([0.0, 5.0, 90.0]),
    boot_spread=st.sampled_from([0.0, 0.5]),
    release_s=st.sampled_from([0.0, 7.0]),
    evictions_per_hour=st.sampled_from([0.0, 20.0]),
    eviction_wait_s=st.sampled_from([0.0, 50.0]),
    evictions=st.sampled_from([(), ((1100.0, 0.5), (1200.0, 1.0))]),
)


@settings(max_examples=60, deadline=None)
@given(steps=_steps, machines=_machines, slots=st.integers(2, 3))
def test_the_books_are_straight(
    steps: list[tuple[float, list[Work] | e.PoolResizeRequested]], machines: Machines, slots: int
) -> None:
    virtual = VirtualPool(new_pool(1, slots, spot=1), machines, 1000.0, seed=3)
    for pause_s, what in steps:
        virtual.advance(virtual.now + pause_s)
        if isinstance(what, list):
            virtual.add(what)
        else:
            with contextlib.suppress(BatchError):  # it may be resizing
                virtual.do(e.PoolResizeRequested(**{**_fields(what), "at": virtual.now}))
        assert violations(virtual.state) == []
    counts = virtual.state.jobs["load"].row.counts
    assert virtual.done == counts.succeeded
    assert counts.total == len(virtual.stories)
    assert counts.running == sum(machine.running_tasks for machine in _rows(virtual))
    for dedicated in (True, False):
        assert virtual.cost_seconds(dedicated=dedicated) >= 0


def _rows(virtual: VirtualPool) -> list[Node]:
    return [node.row for node in virtual.state.nodes.values()]


def _fields(event: e.PoolResizeRequested) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


def test_all_work_ends_in_the_end() -> None:
    virtual = VirtualPool(new_pool(2, 2), Machines(boot_s=10.0), 0.0)
    virtual.add([Work(30.0, 1)] * 10)
    virtual.advance(1000.0)
    assert (virtual.done, virtual.unfinished, virtual.requeued) == (10, 0, 0)
    # Two nodes of two slots: ten tasks of 30 s take three rounds.
    assert max(story.end or 0.0 for story in virtual.stories) == 100.0
    assert {node.row.state for node in virtual.state.nodes.values()} == {NodeState.IDLE}
    assert virtual.cost_seconds(dedicated=True) == 2000.0


@pytest.mark.parametrize("option", ["requeue", "taskcompletion"])
def test_a_node_that_goes_deals_with_its_task(option: str) -> None:
    virtual = VirtualPool(new_pool(1, 1), Machines(boot_s=0.0), 0.0)
    virtual.add([Work(100.0)])
    virtual.advance(40.0)
    virtual.do(
        e.PoolResizeRequested(
            at=40.0,
            target_dedicated_nodes=0,
            resize_timeout_s=900.0,
            node_deallocation_option=NodeDeallocationOption(option),
        )
    )
    virtual.advance(500.0)
    assert virtual.cost_seconds(dedicated=True) == (40.0 if option == "requeue" else 100.0)
    assert virtual.stories[0].lost_s == (40.0 if option == "requeue" else 0.0)
    assert virtual.done == (0 if option == "requeue" else 1)
