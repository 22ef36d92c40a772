"""Arrays of tasks, held against the same tasks added one by one."""

import contextlib
import copy
import random

import pytest

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.job import JobChanges
from millpond.domain.special_task import JobPreparationRules
from millpond.domain.states import DisableJobOption, JobState, TaskState
from millpond.domain.task import NewTask, Task, TaskCounts, TaskRules
from millpond.domain.task_array import (
    INDEX_MARK,
    ItemTemplate,
    Override,
    ParameterSet,
    TaskArray,
    covers,
    split_id,
    value_mark,
)
from millpond.scheduler.explain import explain_task
from tests.unit.scheduler.world import World


def an_array(count: int = 5, array_id: str = "sweep", *overrides: Override, slots: int = 1) -> TaskArray:
    spec = f'{{"id":"{array_id}-{INDEX_MARK}","commandLine":"run {value_mark(0, 0)}"}}'
    return TaskArray(array_id, (ParameterSet(1, count),), ItemTemplate(spec, slots), overrides)


def with_array(array: TaskArray, nodes: int = 0, slots: int = 1, **job: object) -> World:
    world = World()
    world.add_pool(nodes, slots)
    world.add_job(**job)
    world.do(e.TaskArrayAdded(at=world.now, job_id="job", array=array))
    return world


def reads(world: World) -> dict[int, Task]:
    """Every task of the job as a reader sees it, by key: rows, and items that have none."""
    found = dict(world.tasks)
    for key, array in world.arrays.items():
        for first, last in world.rests[key]:
            for index in range(first, last + 1):
                assert key + index not in found, f"item {index} has a row, and has none"
                found[key + index] = array.task(index)
    return found


def ids(world: World) -> list[str]:
    return [task.id for _, task in sorted(reads(world).items())]


# --- the noun -------------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_sets_the_last_changing_fastest() -> None:
    array = TaskArray("", (ParameterSet(5, 10, 3), ParameterSet(3, 1, -1)), ItemTemplate("{}"))
    assert array.count == 6
    assert [array.values(index) for index in range(6)] == [(5, 3), (5, 2), (5, 1), (8, 3), (8, 2), (8, 1)]
    assert ParameterSet(1, 5, -1).count == 0


def test_marks_become_numbers_with_zeros_before_them() -> None:
    spec = f'{{"id":"s-{INDEX_MARK}","commandLine":"{value_mark(0, 4)} {value_mark(1, 0)} {value_mark(0, 0)}"}}'
    array = TaskArray("s", (ParameterSet(-7, 0), ParameterSet(30, 31)), ItemTemplate(spec))
    assert array.spec(3) == b'{"id":"s-3","commandLine":"-006 31 -6"}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sweep-0", ("sweep", 0)),
        ("sweep-12", ("sweep", 12)),
        ("a-1-2", ("a-1", 2)),
        ("7", ("", 7)),
        ("sweep-01", None),
        ("007", None),
        ("-7", None),
        ("sweep-", None),
        ("sweep-1x", None),
        ("sweep-٣", None),
        ("", None),
        ("9" * 64, None),
    ],
)
def test_an_id_names_one_item_or_none(text: str, expected: tuple[str, int] | None) -> None:
    assert split_id(text) == expected


# --- one thing at a time --------------------------------------------------------------------------------------------


def test_an_array_is_counted_at_once_and_has_no_rows() -> None:
    world = with_array(an_array(1_000_000, slots=2))
    assert world.job().counts == TaskCounts(active=1_000_000, active_slots=2_000_000)
    assert world.tasks == {}
    assert world.job().next_task_number == 1_000_001


def test_items_are_placed_in_order_and_those_added_later_come_after() -> None:
    world = with_array(an_array(3), nodes=1)
    world.add_tasks("later")
    for place in range(4):
        world.end(world.started[place].task.id)
    assert [start.task.id for start in world.started] == ["sweep-0", "sweep-1", "sweep-2", "later"]
    assert world.job().counts.succeeded == 4
    assert world.arrays == {}


def test_a_row_and_its_hand_over_are_one_batch() -> None:
    world = with_array(an_array(9))
    world.effects.clear()
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=2, resize_timeout_s=900.0))
    world.connect_all()
    added = [effect for effect in world.effects if isinstance(effect, f.AddTasks)]
    assert [(one.tasks[0].id, one.specs[0]) for one in added] == [
        (f"sweep-{index}", f'{{"id":"sweep-{index}","commandLine":"run {index + 1}"}}'.encode()) for index in range(4)
    ]
    assert all(one.tasks[0].node_id is not None for one in added)
    assert list(world.rests.values()) == [((4, 8),)]


def test_neighbours_that_need_other_slots_wait_in_their_own_line() -> None:
    wide = ItemTemplate("{}", required_slots=4)
    world = with_array(an_array(6, "sweep", Override(1, 1, wide), Override(2, 2, wide)), nodes=1, slots=2)
    # The wide ones fit nowhere, and hold nobody up.
    assert [start.task.id for start in world.started] == ["sweep-0", "sweep-3", "sweep-4", "sweep-5"]
    assert world.job().counts.active_slots == 4 * 1 + 2 * 4


@pytest.mark.parametrize("index", [0, 2, 4])
def test_what_is_asked_of_one_item_gives_that_item_a_row(index: int) -> None:
    world = with_array(an_array(5))
    world.do(e.TaskTerminateRequested(at=world.tick(), job_id="job", task_id=f"SWEEP-{index}"))
    assert [task.id for task in world.tasks.values()] == [f"sweep-{index}"]
    row = world.task(f"sweep-{index}")
    assert row.state is TaskState.COMPLETED
    assert row.failure is not None
    assert world.job().counts == TaskCounts(active=4, failed=1, active_slots=4, failed_slots=1)
    world.do(e.TaskReactivateRequested(at=world.tick(), job_id="job", task_id=f"sweep-{index}"))
    assert world.job().counts.active == 5
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=1, resize_timeout_s=900.0))
    world.connect_all()
    for place in range(5):
        world.end(world.started[place].task.id)
    assert world.job().counts.succeeded == 5


def test_a_deleted_item_never_has_a_row_and_its_id_is_free() -> None:
    world = with_array(an_array(5))
    world.effects.clear()
    world.do(e.TaskDeleteRequested(at=world.tick(), job_id="job", task_id="sweep-2"))
    assert not any(isinstance(effect, f.AddTasks | f.DeleteTask) for effect in world.effects)
    assert ids(world) == ["sweep-0", "sweep-1", "sweep-3", "sweep-4"]
    with pytest.raises(BatchError) as caught:
        world.do(e.TaskDeleteRequested(at=world.tick(), job_id="job", task_id="sweep-2"))
    assert caught.value.code is ErrorCode.TASK_NOT_FOUND
    world.add_tasks("sweep-2")
    assert world.job().counts.active == 5


def test_an_item_that_is_updated_keeps_waiting() -> None:
    world = with_array(an_array(3))
    for index in (0, 1):
        world.do(
            e.TaskUpdated(at=world.tick(), job_id="job", task_id=f"sweep-{index}", max_retry_count=7, spec=b'{"x":1}')
        )
    assert [world.task(f"sweep-{index}").max_retry_count for index in (0, 1)] == [7, 7]
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=3, resize_timeout_s=900.0))
    world.connect_all()
    assert sorted(start.task.id for start in world.started) == ["sweep-0", "sweep-1", "sweep-2"]


def test_a_refusal_gives_no_item_a_row() -> None:
    world = with_array(an_array(3))
    with pytest.raises(BatchError) as caught:
        world.do(e.TaskReactivateRequested(at=world.now, job_id="job", task_id="sweep-1"))
    assert caught.value.code is ErrorCode.TASK_NOT_COMPLETED
    assert world.tasks == {}


@pytest.mark.parametrize("taken", ["sweep-0", "Sweep-4"])
def test_ids_do_not_collide(taken: str) -> None:
    world = World()
    world.add_pool(0)
    world.add_job()
    world.add_tasks(taken, "sweep-5", "sweep-04", "sweep", "sweep-4-1")
    with pytest.raises(BatchError) as caught:
        world.do(e.TaskArrayAdded(at=world.now, job_id="job", array=an_array(5)))
    assert caught.value.code is ErrorCode.TASK_EXISTS
    world.do(e.TaskDeleteRequested(at=world.now, job_id="job", task_id=taken))
    world.do(e.TaskArrayAdded(at=world.now, job_id="job", array=an_array(5)))
    with pytest.raises(BatchError):
        world.do(e.TaskArrayAdded(at=world.now, job_id="job", array=an_array(5, "SWEEP")))
    with pytest.raises(BatchError):
        world.do(e.TasksAdded(at=world.now, job_id="job", tasks=(NewTask(taken, b"{}"),), single=True))
    world.add_tasks("sweep-6")
    assert len(set(map(str.lower, ids(world)))) == world.job().counts.active == 10


def test_a_small_array_looks_for_its_own_ids_among_many_tasks() -> None:
    world = World()
    world.add_pool(0)
    world.add_job()
    world.add_tasks(*(f"t{number}" for number in range(20)), "3")
    with pytest.raises(BatchError) as caught:
        world.do(e.TaskArrayAdded(at=world.now, job_id="job", array=an_array(4, "")))
    assert caught.value.values["TaskId"] == "3"
    world.do(e.TaskArrayAdded(at=world.now, job_id="job", array=an_array(3, "")))
    assert ids(world)[-3:] == ["0", "1", "2"]


def test_the_preparation_task_s_id_is_taken_too() -> None:
    world = World()
    world.add_pool(0)
    world.add_job(preparation=JobPreparationRules(id="sweep-3"))
    with pytest.raises(BatchError) as caught:
        world.do(e.TaskArrayAdded(at=world.now, job_id="job", array=an_array(5)))
    assert caught.value.code is ErrorCode.TASK_EXISTS
    world.do(e.TaskArrayAdded(at=world.now, job_id="job", array=an_array(3)))


def test_tasks_wait_for_items_by_id_and_by_range() -> None:
    world = with_array(an_array(3, ""), nodes=1, dependencies=True)
    world.add_tasks("merge", rules=TaskRules(depends_on_ranges=((0, 2),)))
    world.add_tasks("one", rules=TaskRules(depends_on_ids=("1",)))
    messages = [cause.message for cause in explain_task(world.state, "job", "merge").causes]
    assert messages == [f"it waits for task '{index}', which waits itself" for index in range(3)]
    for place in range(5):
        world.end(world.started[place].task.id)
    assert [start.task.id for start in world.started] == ["0", "1", "2", "one", "merge"]


def test_why_an_item_waits_is_explained() -> None:
    world = with_array(an_array(5), nodes=1, max_parallel=1)
    assert [cause.code for cause in explain_task(world.state, "job", "sweep-4").causes][:1] == ["maxParallelTasks"]
    assert world.tasks.keys() == {start.task.key for start in world.started}


def test_a_job_that_ends_leaves_its_items_active() -> None:
    world = with_array(an_array(1000), nodes=1)
    world.do(e.JobTerminateRequested(at=world.tick(), job_id="job", reason="enough"))
    world.confirm_stops()
    assert world.job().state is JobState.COMPLETED
    assert world.job().counts.active == 1000
    # As for any task of a completed job, the store's row comes along.
    array = next(iter(world.arrays.values()))
    for _ in range(2):
        event = e.TaskDeleteRequested(at=world.tick(), job_id="job", task_id="sweep-7", row=array.task(7))
        with contextlib.suppress(BatchError):
            world.do(event)
    assert world.job().counts.active == 999
    assert not covers(world.rests[array.key], 7)
    world.do(e.JobDeleteRequested(at=world.tick(), job_id="job"))
    world.purge_all()
    assert world.state.jobs == {}


def test_an_array_goes_with_its_job_to_another_pool() -> None:
    world = with_array(an_array(5))
    world.do(e.TaskTerminateRequested(at=world.tick(), job_id="job", task_id="sweep-1"))
    world.do(e.JobDisableRequested(at=world.tick(), job_id="job", option=DisableJobOption.REQUEUE))
    before = reads(world)
    world.do(e.JobUpdated(at=world.tick(), job_id="job", changes=JobChanges(spec={}, pool_id="other")))
    assert reads(world) == {}
    other = World("other")
    other.take_in(world.moved[0])
    assert {key: repr(task) for key, task in reads(other).items()} == {k: repr(task) for k, task in before.items()}
    other.do(e.JobEnableRequested(at=other.tick(), job_id="job"))
    assert other.job().counts == TaskCounts(active=4, failed=1, active_slots=4, failed_slots=1)


# --- against the same tasks one by one ------------------------------------------------------------------------------


class Twins:
    """Two schedulers to which the same happens; one has an array where the other has tasks."""

    def __init__(self, seed: int, *, nodes: int) -> None:
        self.random = random.Random(seed)
        self.array = World()
        self.single = World()
        self.worlds = (self.array, self.single)
        self.nodes = nodes
        for world in self.worlds:
            world.add_pool(nodes, 2)
            world.add_job(retries=1, max_parallel=self.pick(-1, -1, 3), terminate_when_done=False)
            self.random = random.Random(seed)

    def pick(self, *choices: object) -> object:
        return self.random.choice(choices)

    def do(self, event: e.Event) -> None:
        outcomes = []
        for world in self.worlds:
            try:
                world.do(copy.deepcopy(event))
                outcomes.append("")
            except BatchError as error:
                outcomes.append(error.code.value)
        assert outcomes[0] == outcomes[1], event
        self.compare()

    def compare(self) -> None:
        """What readers see is the same, task by task."""
        mine, theirs = ({key: repr(task) for key, task in reads(world).items()} for world in self.worlds)
        assert mine == theirs
        assert self.array.job().counts == self.single.job().counts
        assert self.array.state.load == self.single.state.load
        assert self.array.job().state is self.single.job().state

    def add_array(self) -> None:
        wide = ItemTemplate("{}", required_slots=2, max_retry_count=0)
        count = self.random.randint(1, 9)
        overrides = [Override(0, 0, wide), Override(3, 5, wide)][: self.random.randint(0, 2)]
        if overrides and overrides[-1].last >= count:
            overrides = []
        array = an_array(count, str(self.pick("sweep", "a-1", "")), *overrides)
        tasks = tuple(array.new_task(index) for index in range(array.count))
        known = {task.id for task in reads(self.single).values()}
        if any(new.id in known for new in tasks):
            with pytest.raises(BatchError):
                self.array.do(e.TaskArrayAdded(at=self.array.now, job_id="job", array=array))
            return
        held = self.array.state.jobs["job"].arrays
        if array.id in held:
            return  # some of its items were deleted, and it still has the id
        self.array.do(e.TaskArrayAdded(at=self.array.now, job_id="job", array=array))
        self.single.do(e.TasksAdded(at=self.single.now, job_id="job", tasks=tasks))
        self.compare()

    def a_task(self) -> str:
        known = [task.id for task in reads(self.single).values()]
        return self.random.choice([*known, "sweep-99", "0"])

    def step(self) -> None:
        at = self.array.tick()
        self.single.now = at
        pick = self.random.random()
        if pick < 0.15:
            self.add_array()
        elif pick < 0.2:
            self.do(e.TasksAdded(at=at, job_id="job", tasks=(NewTask(f"t{at:.0f}", b"{}"), NewTask("sweep-1", b"{}"))))
        elif pick < 0.3:
            self.do(e.TaskTerminateRequested(at=at, job_id="job", task_id=self.a_task()))
        elif pick < 0.4:
            self.do(e.TaskReactivateRequested(at=at, job_id="job", task_id=self.a_task()))
        elif pick < 0.5:
            self.do(e.TaskDeleteRequested(at=at, job_id="job", task_id=self.a_task()))
        elif pick < 0.55:
            self.do(e.TaskUpdated(at=at, job_id="job", task_id=self.a_task(), max_retry_count=5, spec=b"{}"))
        elif pick < 0.58:
            self.do(e.JobDisableRequested(at=at, job_id="job", option=DisableJobOption.REQUEUE))
        elif pick < 0.64:
            self.do(e.JobEnableRequested(at=at, job_id="job"))
        else:
            self.run_some(at)
        self.settle()

    def run_some(self, at: float) -> None:
        running = [
            (node.row.id, assignment.task.key, assignment.attempt)
            for node in self.array.state.nodes.values()
            for assignment in node.assigned.values()
            if assignment.holds
        ]
        if running:
            node_id, key, attempt = self.random.choice(running)
            common = {"at": at, "node_id": node_id, "key": key, "attempt": attempt, "start_time": at}
            if self.random.random() < 0.3:
                self.do(e.TaskStarted(**common))
            else:
                self.do(e.TaskEnded(end_time=at, exit_code=self.random.choice((0, 0, 1)), **common))

    def settle(self) -> None:
        """What nodes were told to stop or give back is so."""
        stops = list(self.array.stopped)
        for world in self.worlds:
            world.stopped.clear()
            world.returned.clear()
        for stop in stops:
            self.do(
                e.TaskStopped(at=self.array.now, node_id=stop.node_id, key=stop.key, attempt=stop.attempt, exit_code=-9)
            )


@pytest.mark.parametrize("nodes", [0, 3])
@pytest.mark.parametrize("seed", range(20))
def test_an_array_reads_as_its_tasks_would(seed: int, nodes: int) -> None:
    twins = Twins(seed, nodes=nodes)
    for _ in range(120):
        twins.step()
