"""One instance of a multi-instance task: the primary (index 0) or a subtask."""

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.states import SubtaskState, TaskResult
from millpond.domain.task import FailureInfo


class Subtask(msgspec.Struct):
    """One row of the `subtask` table, keyed by task and index: the latest attempt of that instance."""

    task_key: int
    index: int
    attempt: int
    """Of the task; the rows of one attempt are replaced together by the next."""
    node_id: str
    state: SubtaskState
    state_time: Timestamp
    """`preparing` until the coordination command has succeeded, then `running`."""
    previous_state: SubtaskState | None = None
    previous_state_time: Timestamp | None = None
    start_time: Timestamp | None = None
    end_time: Timestamp | None = None
    exit_code: int | None = None
    failure: FailureInfo | None = None

    @property
    def result(self) -> TaskResult | None:
        if self.state is not SubtaskState.COMPLETED:
            return None
        return TaskResult.SUCCESS if self.failure is None else TaskResult.FAILURE
