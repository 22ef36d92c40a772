"""A filter means the same in memory and in SQL: the same rows, in the same order, page by page.

The filters are written out and parsed, over everything each listing offers; the rows are chosen so that literals meet
them: missing values, both cases, neighbouring microseconds, the ends of numbers.
"""

import asyncio
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millpond.domain import ids
from millpond.domain.autoscale import AutoScale
from millpond.domain.durations import format_timestamp, whole_microseconds
from millpond.domain.job_schedule import JobSchedule, Recurrence
from millpond.domain.special_task import JobNode, SpecialTaskInfo
from millpond.domain.states import (
    AllocationState,
    ErrorCategory,
    JobScheduleState,
    JobState,
    NodeState,
    PoolState,
    SpecialTaskState,
    TaskState,
)
from millpond.domain.task import FailureInfo
from millpond.odata import properties
from millpond.odata.filters import Filter, Operator
from millpond.odata.parse import MAX_INTEGER, parse_filter
from millpond.odata.properties import Properties, Property, PropertyType
from millpond.store import filterable, sqlite_listing
from millpond.store.changes import ChangeSet
from millpond.store.memory import MemoryStore
from millpond.store.sqlite import SqliteStore
from tests.contracts.stores import T0, a_job, a_node, a_pool, a_task, all_pages, lease

ROWS = 60
T1 = whole_microseconds(T0 + 0.000001)
TIMES = (0.0, 1.5, T0 - 1, whole_microseconds(T0 - 0.000001), T0, T1, T0 + 86_400, 253_402_300_799.0)
CODES = (-(2**31), -1, 0, 1, 2, 255, 2**31 - 1, MAX_INTEGER, -MAX_INTEGER)
NAMES = ("a", "A", "aB", "Ab", "a-b", "a_b", "a:b", "B", "z", "Z9", "_", "-", "0", "10", "9")
SIZES = ("Standard_D2s_v3", "STANDARD_D2S_V3", "it's", "50%", "gr\u00f6\u00dfe", "GR\u00d6SSE", "\U0001f4a7", "\ud7ff")
FAILURE = FailureInfo(ErrorCategory.USER_ERROR, "FailureExitCode", "it failed")


class Rows:
    """Random rows, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.pools = [
            a_pool(
                no,
                name,
                state=self.one(PoolState),
                allocation_state=self.one(AllocationState),
                creation_time=self.time(),
                last_modified=self.time(),
                state_time=self.time(),
                allocation_state_time=self.time(),
                auto_scale=self.one((None, AutoScale("$TargetDedicatedNodes=1;", 900.0, T0, T0))),
                spec=self.one(({}, {"enableInterNodeCommunication": True}, {"enableInterNodeCommunication": False})),
                vm_size=self.one(SIZES),
            )
            for no, name in enumerate(self.names(), 1)
        ]
        self.nodes = [
            a_node(
                number,
                state=self.one(NodeState),
                is_dedicated=self.one((True, False)),
                state_time=self.time(),
                allocation_time=self.time(),
                last_boot_time=self.one((None, *TIMES)),
                start_task=self.info(),
            )
            for number in range(ROWS)
        ]
        self.jobs = [
            a_job(
                no,
                name,
                self.one(NAMES),
                state=self.one(JobState),
                state_time=self.time(),
                creation_time=self.time(),
                last_modified=self.time(),
                start_time=self.one((None, *TIMES)),
                end_time=self.one((None, *TIMES)),
                schedule_id=self.one((None, "s", "S", "t")),
            )
            for no, name in enumerate(self.names(), 1)
        ]
        self.job_schedules = [
            JobSchedule(
                no,
                name,
                self.one(JobScheduleState),
                self.time(),
                self.time(),
                self.time(),
                {},
                Recurrence(self.one((None, *TIMES)), self.one((None, *TIMES))),
                end_time=self.one((None, *TIMES)),
            )
            for no, name in enumerate(self.names(), 1)
        ]
        self.job_nodes = [
            JobNode(1, node.id, self.one(NAMES), preparation=self.info(), release=self.info()) for node in self.nodes
        ]
        self.tasks = [
            a_task(
                number,
                task_id=name,
                state=self.one(TaskState),
                state_time=self.time(),
                creation_time=self.time(),
                last_modified=self.time(),
                start_time=self.one((None, *TIMES)),
                end_time=self.one((None, *TIMES)),
                exit_code=self.one((None, *CODES)),
                failure=self.one((None, FAILURE)),
            )
            for number, name in enumerate(self.names(), 1)
        ]

    def one(self, values):
        return self._random.choice(list(values))

    def time(self) -> float:
        return self.one(TIMES)

    def names(self) -> list[str]:
        """Unique in any case, in no order."""
        found = {
            ids.id_key(name): name
            for name in ("".join(self._random.choices(NAMES, k=self._random.randint(1, 3))) for _ in range(3 * ROWS))
        }
        names = list(found.values())[:ROWS]
        self._random.shuffle(names)
        return names

    def info(self) -> SpecialTaskInfo | None:
        if self._random.random() < 0.3:
            return None
        state = self.one(SpecialTaskState)
        end = self.time() if state is SpecialTaskState.COMPLETED else self.one((None, *TIMES))
        code = self.one((None, *CODES))
        return SpecialTaskInfo(1, self.time(), state, end, code, self.one((None, FAILURE)))

    def changes(self) -> ChangeSet:
        return ChangeSet(
            pools={pool.no: pool for pool in self.pools},
            nodes={node.id: node for node in self.nodes},
            jobs={job.no: job for job in self.jobs},
            job_schedules={schedule.no: schedule for schedule in self.job_schedules},
            job_nodes={(row.job_no, row.node_id): row for row in self.job_nodes},
            tasks={task.key: task for task in self.tasks},
            new_tasks={task.key for task in self.tasks},
            specs={task.key: b"{}" for task in self.tasks},
        )


class Both:
    """Both stores with the same rows, and a loop they live in."""

    def __init__(self, runner: asyncio.Runner, path: str, rows: Rows) -> None:
        self.runner = runner
        self.rows = rows
        self.memory, self.disk = MemoryStore(), SqliteStore(path)
        for store in (self.memory, self.disk):
            runner.run(store.open())
            runner.run(store.commit(rows.changes(), runner.run(lease(store))))

    def close(self) -> None:
        self.runner.run(self.disk.close())


@pytest.fixture(scope="module", params=[1, 2])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with asyncio.Runner() as runner:
        pair = Both(runner, str(tmp_path_factory.mktemp("store") / "store.db"), Rows(request.param))
        yield pair
        pair.close()


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def literals(described: Property) -> st.SearchStrategy[str]:
    match described.type:
        case PropertyType.STRING if described.words is not None:
            return st.sampled_from(sorted(described.words)).flatmap(
                lambda word: st.sampled_from([quoted(word), quoted(word.upper()), quoted(word.title())])
            )
        case PropertyType.STRING:
            return st.sampled_from([*NAMES, *SIZES, "", "ab", "AB-", "\u0130", "\uffff"]).map(quoted)
        case PropertyType.INTEGER:
            return st.sampled_from([*CODES, -2, 254]).map(str)
        case PropertyType.BOOLEAN:
            return st.sampled_from(["true", "false"])
        case PropertyType.DATE_TIME:
            return st.sampled_from(
                [form.format(format_timestamp(at)) for at in TIMES for form in ("DateTime'{}'", "datetime'{}'", "{}")]
                + ["DateTime'0001-01-01'", "DateTime'9999-12-31T23:59:59.9999999Z'", "2023-11-14T22:13:20.1234570Z"]
            )


def comparisons_of(offered: Properties) -> st.SearchStrategy[str]:
    """One comparison or function, in the words of a client."""
    choices: list[st.SearchStrategy[str]] = []
    for path, described in offered.items():
        if described.operators:
            operators = sorted(described.operators)
            choices.append(st.builds("{} {} {}".format, st.just(path), st.sampled_from(operators), literals(described)))
            equalities = [one for one in operators if one in (Operator.EQ, Operator.NE)]
            choices.append(st.builds("{} {} null".format, st.just(path), st.sampled_from(equalities)))
        if described.starts_with:
            choices.append(st.builds("startswith({},{})".format, st.just(path), literals(described)))
    return st.one_of(choices)


def filters_of(offered: Properties) -> st.SearchStrategy[Filter]:
    texts = st.recursive(
        comparisons_of(offered),
        lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or", "AND", "OR"]), inner),
        max_leaves=6,
    )
    return texts.map(lambda text: parse_filter(text, offered))


LISTINGS = {
    "pools": (properties.POOLS, filterable.POOL),
    "nodes": (properties.NODES, filterable.NODE),
    "jobs": (properties.JOBS, filterable.JOB),
    "jobs_of_schedule": (properties.JOBS_OF_SCHEDULE, filterable.JOB),
    "job_schedules": (properties.JOB_SCHEDULES, filterable.JOB_SCHEDULE),
    "job_nodes": (properties.JOB_NODES, filterable.JOB_NODE),
    "tasks": (properties.TASKS, filterable.TASK),
}


def listed(both: Both, store: MemoryStore | SqliteStore, noun: str, where: Filter | None, limit: int) -> list[str]:
    async def list_page(limit: int, after: str | None):
        match noun:
            case "nodes":
                return await store.list_nodes(both.rows.pools[0].id.swapcase(), where, limit, after)
            case "jobs_of_schedule":
                return await store.list_jobs(where, limit, after, schedule_id="s")
            case "job_nodes":
                return await store.list_job_nodes(1, where, limit, after)
            case "tasks":
                return await store.list_tasks(1, where, limit, after)
            case _:
                return await getattr(store, f"list_{noun}")(where, limit, after)

    items = both.runner.run(all_pages(list_page, limit))
    if noun == "tasks":
        return [row.task.id for row in items]
    return [row.node_id if noun == "job_nodes" else row.id for row in items]


def expected(rows: Rows, noun: str, where: Filter) -> list[str]:
    """What the filter says of each row by itself, in the order of the listing."""
    getters = LISTINGS[noun][1]
    if noun == "tasks":
        return [task.id for task in rows.tasks if filterable.passes(where, task, getters)]
    if noun == "job_nodes":
        return sorted(row.node_id for row in rows.job_nodes if filterable.passes(where, row, getters))
    chosen = [job for job in rows.jobs if job.schedule_id in ("s", "S")] if noun == "jobs_of_schedule" else None
    items = getattr(rows, noun) if chosen is None else chosen
    return sorted((item.id for item in items if filterable.passes(where, item, getters)), key=ids.id_key)


@pytest.mark.parametrize("noun", LISTINGS)
def test_filters_mean_the_same_in_memory_and_on_disk(both: Both, noun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        where=filters_of(LISTINGS[noun][0]), limit=st.sampled_from([1, 3, 7, 1000]), scan=st.sampled_from([5, 20_000])
    )
    def check(where: Filter, limit: int, scan: int) -> None:
        monkeypatch.setattr(sqlite_listing, "SCAN_ROWS", scan)
        wanted = expected(both.rows, noun, where)
        assert listed(both, both.memory, noun, where, limit) == wanted
        assert listed(both, both.disk, noun, where, limit) == wanted

    check()


@pytest.mark.parametrize("pool_id", ["", "none", "it's", "\u00c4"])
def test_node_counts_of_one_pool(both: Both, pool_id: str) -> None:
    with_nodes = both.rows.pools[0].id
    everything = both.runner.run(both.disk.node_counts(None))
    assert sum(entry.count for entry in everything) == ROWS
    for name, wanted in ((pool_id, []), (with_nodes, everything), (with_nodes.swapcase(), everything)):
        where = parse_filter(f"poolId eq {quoted(name)}", properties.NODE_COUNTS)
        assert both.runner.run(both.disk.node_counts(where)) == wanted
        assert both.runner.run(both.memory.node_counts(where)) == wanted


@pytest.mark.parametrize("noun", LISTINGS)
def test_without_a_filter_all_rows_are_listed(both: Both, noun: str) -> None:
    everything = listed(both, both.disk, noun, None, 7)
    assert listed(both, both.memory, noun, None, 7) == everything
    assert noun == "jobs_of_schedule" or len(everything) == ROWS


@pytest.mark.parametrize("noun", LISTINGS)
def test_every_property_offered_is_read_and_has_a_column(both: Both, noun: str) -> None:
    """A property is null in some rows and not in others, or in none of them: never in all."""
    offered, getters = LISTINGS[noun]
    names = {described.name or path for path, described in offered.items()}
    assert names <= getters.keys()
    for path in names:
        rows = both.rows.jobs if noun == "jobs_of_schedule" else getattr(both.rows, noun)
        assert any(getters[path](row) is not None for row in rows), path


@given(at=st.floats(0, 4e9))
def test_a_time_as_it_is_shown_is_the_time_it_is(at: float) -> None:
    """Who asks for what changed at a time that was shown finds it, and who asks for later does not find it again."""
    shown = format_timestamp(whole_microseconds(at))
    for form in (f"DateTime'{shown}'", shown):
        where = parse_filter(f"creationTime eq {form}", properties.TASKS)
        assert filterable.passes(where, a_task(creation_time=whole_microseconds(at)), filterable.TASK)
        where = parse_filter(f"creationTime gt {form}", properties.TASKS)
        assert not filterable.passes(where, a_task(creation_time=whole_microseconds(at)), filterable.TASK)
