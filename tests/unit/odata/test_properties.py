"""The words of enumerations in filters are those the records have."""

import pytest

from millpond.domain.states import (
    AllocationState,
    JobScheduleState,
    JobState,
    NodeState,
    PoolState,
    SpecialTaskState,
    TaskResult,
    TaskState,
)
from millpond.odata import properties
from millpond.odata.errors import FilterError
from millpond.odata.filters import Comparison
from millpond.odata.parse import parse_filter


@pytest.mark.parametrize(
    ("of", "path", "enumeration"),
    [
        (properties.POOLS, "state", PoolState),
        (properties.POOLS, "allocationState", AllocationState),
        (properties.NODES, "state", NodeState),
        (properties.NODES, "startTaskInfo/state", SpecialTaskState),
        (properties.NODES, "startTaskInfo/result", TaskResult),
        (properties.JOBS, "state", JobState),
        (properties.JOBS_OF_SCHEDULE, "state", JobState),
        (properties.JOB_SCHEDULES, "state", JobScheduleState),
        (properties.JOB_NODES, "jobPreparationTaskExecutionInfo/state", SpecialTaskState),
        (properties.JOB_NODES, "jobReleaseTaskExecutionInfo/result", TaskResult),
        (properties.TASKS, "state", TaskState),
        (properties.TASKS, "executionInfo/result", TaskResult),
    ],
)
def test_words_are_those_of_the_states(of, path, enumeration):
    assert of[path].words == {member.value for member in enumeration}
    word = next(iter(enumeration)).value
    parsed = parse_filter(f"{path} eq '{word.upper()}'", of).condition
    assert isinstance(parsed, Comparison)
    with pytest.raises(FilterError, match="one of: ") as caught:
        parse_filter(f"{path} eq 'asleep'", of)
    assert caught.value.position == len(path) + 4
