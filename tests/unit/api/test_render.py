"""Tasks spliced from their stored JSON say the same as tasks put together piece by piece; times print alike."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from millpond.api.decode import body_decoder, decode
from millpond.api.intake.tasks import new_task
from millpond.api.render.common import timestamp_text
from millpond.api.render.tasks import TaskRenderer
from millpond.api.schema.task import TaskCreate
from millpond.domain.durations import format_timestamp
from millpond.domain.job import Job
from millpond.domain.states import JobState, TaskState
from millpond.domain.task import Task
from millpond.store.base import TaskRow

JOB = Job(
    no=1,
    id="j:job-1",
    pool_id="p",
    state=JobState.ACTIVE,
    creation_time=0.0,
    last_modified=0.0,
    state_time=0.0,
    spec={},
    max_task_retry_count=4,
)
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=30)
CONSTRAINTS = st.fixed_dictionaries(
    {},
    optional={
        "maxWallClockTime": st.just("PT1H"),
        "retentionTime": st.just("P1D"),
        "maxTaskRetryCount": st.integers(-1, 9),
    },
)
BODIES = st.fixed_dictionaries(
    {"id": st.just("t1"), "commandLine": TEXT.filter(lambda text: not text.isspace())},
    optional={
        "displayName": TEXT,
        "constraints": CONSTRAINTS,
        "requiredSlots": st.integers(1, 256),
        "environmentSettings": st.lists(
            st.fixed_dictionaries({"name": st.just("A"), "value": TEXT | st.just(',"constraints":{}}')}), max_size=2
        ),
        "userIdentity": st.just({"autoUser": {"scope": "task"}}),
    },
)


def row_of(body: dict[str, Any]) -> TaskRow:
    new = new_task(decode(body_decoder(TaskCreate), json.dumps(body).encode()))
    task = Task(1, new.id, TaskState.ACTIVE, 1.0, 2.0, 3.5, required_slots=new.required_slots)
    return TaskRow(task, new.spec)


@given(body=BODIES)
def test_splicing_equals_merging(body: dict[str, Any]) -> None:
    shown = json.loads(TaskRenderer(JOB, "http://h").render(row_of(body)))
    constraints = {
        "maxWallClockTime": "P10675199DT2H48M5.4775807S",
        "retentionTime": "P7D",
        "maxTaskRetryCount": 4,
        **body.get("constraints", {}),
    }
    expected = {
        "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}},
        "requiredSlots": 1,
        **body,
        "constraints": constraints,
        "url": "http://h/jobs/j%3Ajob-1/tasks/t1",
        "eTag": shown["eTag"],
        "creationTime": "1970-01-01T00:00:01Z",
        "lastModified": "1970-01-01T00:00:02Z",
        "state": "active",
        "stateTransitionTime": "1970-01-01T00:00:03.5Z",
        "executionInfo": {"retryCount": 0, "requeueCount": 0},
    }
    assert shown == expected


@given(bodies=st.lists(BODIES, max_size=4))
def test_one_after_the_other_they_are_shown_as_each_alone(bodies: list[dict[str, Any]]) -> None:
    rows = [row_of(body | {"id": f"t{number}"}) for number, body in enumerate([*bodies, *bodies])]
    for row in rows[1::3]:
        row.task.state_time += 1.0
    render = TaskRenderer(JOB, "http://h").render
    assert [render(row) for row in rows] == [TaskRenderer(JOB, "http://h").render(row) for row in rows]


@given(body=BODIES, select=st.sets(st.sampled_from(["id", "constraints", "state", "displayName", "stats"])))
def test_selecting_picks_from_the_whole(body: dict[str, Any], select: set[str]) -> None:
    row = row_of(body)
    whole = json.loads(TaskRenderer(JOB, "http://h").render(row))
    some = json.loads(TaskRenderer(JOB, "http://h", frozenset(select)).render(row, metadata="m"))
    assert some == {"odata.metadata": "m", **{name: value for name, value in whole.items() if name in select}}


@given(body=BODIES)
def test_what_is_stored_is_read_back_as_it_was(body: dict[str, Any]) -> None:
    """An update decodes the stored specification, changes its constraints and writes it again."""
    spec = row_of(body).spec
    stored = msgspec.json.Decoder(TaskCreate).decode(spec)
    assert msgspec.json.encode(stored) == spec


@given(st.floats(0, 4e9))
def test_times_print_as_everywhere(at: float) -> None:
    assert timestamp_text(at) == format_timestamp(at)
