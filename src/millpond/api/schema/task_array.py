"""Request bodies about task arrays, in the names of the task factories of the Azure Batch CLI extensions."""

from millpond.api.schema.base import Int32, JsonObject, Wire


class ParameterSetBody(Wire, kw_only=True):
    """The values of one parameter, `end` among them where the steps hit it."""

    start: Int32
    end: Int32
    step: Int32 | None = None


class TaskFactory(Wire, kw_only=True):
    type: str
    parameter_sets: list[ParameterSetBody]
    repeat_task: JsonObject
    """A task as in POST /jobs/{jobId}/tasks, without an id and with placeholders in its texts."""


class TaskOverride(Wire, kw_only=True):
    """What is different in the tasks from index `start` to index `end` inclusive (absent: that one)."""

    start: Int32
    end: Int32 | None = None
    repeat_task: JsonObject
    """Its properties take the place of those of the factory's `repeatTask`."""


class TaskArrayCreate(Wire, kw_only=True):
    """POST /jobs/{jobId}/addtaskarray, an operation of our own."""

    id: str | None = None
    task_factory: TaskFactory
    overrides: list[TaskOverride] | None = None
