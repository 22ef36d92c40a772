"""Task arrays: from the body of a request to what the scheduler is given.

A placeholder is `{0}`, the value of the first parameter set, or `{0:4}`, that value filled up with zeros to four
characters; a brace that is meant as one is doubled (Azure Batch CLI extensions: task factories).
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import msgspec

from millpond.api.decode import convert
from millpond.api.intake.common import check_id, within
from millpond.api.intake.tasks import check_constraints, encode_spec, new_task
from millpond.api.schema.base import JsonObject
from millpond.api.schema.task import TaskCreate
from millpond.api.schema.task_array import ParameterSetBody, TaskArrayCreate, TaskOverride
from millpond.domain import task_array
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.ids import MAX_ID_LENGTH
from millpond.domain.task import NewTask
from millpond.domain.task_array import ItemTemplate, Override, ParameterSet, TaskArray

SWEEP: Final = "parametricSweep"
MAX_PARAMETER_SETS: Final = 10
MAX_OVERRIDES: Final = 1000
_FACTORY: Final = "taskFactory"
_REPEAT: Final = "taskFactory.repeatTask"
_MAX_WIDTH: Final = 9
_BRACES: Final = re.compile(r"\{\{|\}\}|\{([0-9]{1,2})(?::([0-9]))?\}|[{}]")
_REFUSED: Final = {
    "id": "the ids of its tasks are made from the array's",
    "dependsOn": "what is in an array waits for no other task; tasks can wait for what is in an array",
    "multiInstanceSettings": "multi-instance tasks are added one by one",
}
"""What a `repeatTask` cannot have, and why."""


class NewArray(msgspec.Struct, frozen=True):
    """An array, checked by itself, and the tasks of it that were looked at."""

    array: TaskArray
    samples: list[TaskCreate]


def new_task_array(body: TaskArrayCreate) -> NewArray:
    """The array. Raises BatchError naming what is wrong, and in which task of the array it shows.

    What is checked as any added task is: the first and the last task of the array and of every override, and the one
    with the longest values.
    """
    if body.task_factory.type.lower() != SWEEP.lower():
        raise invalid_property(f"{_FACTORY}.type", body.task_factory.type, f"the only type there is here is {SWEEP}")
    array_id = body.id or ""
    if array_id:
        check_id("id", array_id)
    sets = _parameter_sets(body.task_factory.parameter_sets)
    repeat = body.task_factory.repeat_task
    with within(_REPEAT):
        template = _template(array_id, repeat, len(sets))
    array = TaskArray(array_id, sets, template)
    count = array.count
    if count > task_array.MAX_ITEMS:
        raise invalid_property(
            f"{_FACTORY}.parameterSets", count, f"an array has at most {task_array.MAX_ITEMS:,} tasks"
        )
    longest = array.task_id(count - 1)
    if len(longest) > MAX_ID_LENGTH:
        raise invalid_property("id", array_id, f"the id of its last task, '{longest}', is longer than {MAX_ID_LENGTH}")
    found = _overrides(body.overrides or [], array, repeat)
    array = msgspec.structs.replace(array, overrides=tuple(override for override, _ in found))
    return _checked(array, [f"overrides[{number}].repeatTask" for _, number in found])


def _parameter_sets(bodies: list[ParameterSetBody]) -> tuple[ParameterSet, ...]:
    name = f"{_FACTORY}.parameterSets"
    if not 1 <= len(bodies) <= MAX_PARAMETER_SETS:
        raise invalid_property(name, len(bodies), f"there are 1 to {MAX_PARAMETER_SETS} of them")
    sets = []
    for index, body in enumerate(bodies):
        step = 1 if body.step is None else body.step
        if step == 0:
            raise invalid_property(f"{name}[{index}].step", step, "it must not be 0")
        parameters = ParameterSet(body.start, body.end, step)
        if parameters.count == 0:
            raise invalid_property(f"{name}[{index}].step", step, "it leads away from the end")
        sets.append(parameters)
    return tuple(sets)


def _overrides(bodies: list[TaskOverride], array: TaskArray, repeat: JsonObject) -> list[tuple[Override, int]]:
    """In order of what they are about, each with its number in the body."""
    if len(bodies) > MAX_OVERRIDES:
        raise invalid_property("overrides", len(bodies), f"there are at most {MAX_OVERRIDES} of them")
    found: list[tuple[Override, int]] = []
    for number, body in enumerate(bodies):
        name = f"overrides[{number}]"
        end = body.start if body.end is None else body.end
        if not 0 <= body.start <= end < array.count:
            raise invalid_property(
                name, f"{body.start}-{end}", f"the tasks of the array have the indexes 0 to {array.count - 1}"
            )
        with within(f"{name}.repeatTask"):
            template = _template(array.id, {**repeat, **body.repeat_task}, len(array.parameter_sets))
        found.append((Override(body.start, end, template), number))
    found.sort(key=lambda entry: entry[0].first)
    for (before, one), (after, other) in pairwise(found):
        if after.first <= before.last:
            raise invalid_property(
                f"overrides[{max(one, other)}]",
                f"{after.first}-{after.last}",
                f"it says what task {after.first} is, and so does overrides[{min(one, other)}]",
            )
    return found


def _template(array_id: str, repeat: JsonObject, sets: int) -> ItemTemplate:
    """All but what follows from the specification (see `_checked`)."""
    for name, reason in _REFUSED.items():
        if repeat.get(name) is not None:
            raise BatchError(
                ErrorCode.UNSUPPORTED_PROPERTY,
                f"The property '{name}' is not supported here: {reason}.",
                PropertyName=name,
            )
    marked = {name: _marked(value, name, sets) for name, value in repeat.items()}
    mark = task_array.INDEX_MARK
    body = convert({**marked, "id": f"{array_id}-{mark}" if array_id else mark}, TaskCreate)
    constraints, affinity = body.constraints, body.affinity_info
    for name, text in (
        ("affinityInfo.affinityId", affinity and affinity.affinity_id),
        ("constraints.maxWallClockTime", constraints and constraints.max_wall_clock_time),
        ("constraints.retentionTime", constraints and constraints.retention_time),
    ):
        if isinstance(text, str) and task_array.has_mark(text):
            raise invalid_property(name, "", "a placeholder has no place here; use overrides")
    if constraints is not None:
        check_constraints(constraints)
    return ItemTemplate(encode_spec(body).decode())


def _marked(value: Any, path: str, sets: int) -> Any:
    """A part of a `repeatTask` with marks in place of its placeholders."""
    if isinstance(value, str):
        return _BRACES.sub(lambda match: _mark(match, value, path, sets), _plain(value, path))
    if isinstance(value, list):
        return [_marked(item, f"{path}[{index}]", sets) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {name: _marked(item, f"{path}.{name}", sets) for name, item in value.items()}
    return value


def _plain(text: str, path: str) -> str:
    if task_array.has_mark(text):
        raise invalid_property(path, text, "it has a character for private use, U+E000 or U+E001")
    return text


def _mark(match: "re.Match[str]", text: str, path: str, sets: int) -> str:
    found = match[0]
    if found in ("{{", "}}"):
        return found[0]
    if match[1] is None:
        raise invalid_property(path, text, "a brace that begins or ends no placeholder is doubled: '{{' or '}}'")
    number = int(match[1])
    if number >= sets:
        raise invalid_property(path, text, f"'{found}' stands for parameter set {number}, and there are {sets}")
    return task_array.value_mark(number, int(match[2] or 0))


# --- the tasks themselves -------------------------------------------------------------------------------------------


def _checked(array: TaskArray, names: list[str]) -> NewArray:
    """The array with the rest of its templates, which is taken from tasks of it. `names`: where the body has the
    overrides."""
    samples: list[TaskCreate] = []
    made: dict[int, NewTask] = {}
    for index, name in _looked_at(array, names):
        body = msgspec.json.decode(array.spec(index), type=TaskCreate)
        try:
            with within(name):
                made[index] = new_task(body)
        except BatchError as error:
            text = f"{error.message} (in task '{array.task_id(index)}')"
            raise BatchError(error.code, text, **error.values) from None
        samples.append(body)
    overrides = tuple(
        Override(override.first, override.last, _completed(override.template, made[override.first]))
        for override in array.overrides
    )
    plain = next((index for index in made if array.template_of(index) is array.template), 0)
    whole = msgspec.structs.replace(array, overrides=overrides, template=_completed(array.template, made[plain]))
    return NewArray(whole, samples)


def _completed(template: ItemTemplate, task: NewTask) -> ItemTemplate:
    return ItemTemplate(template.spec, task.required_slots, task.max_retry_count, task.rules)


def _looked_at(array: TaskArray, names: list[str]) -> Iterator[tuple[int, str]]:
    """Indexes of tasks, and where the body says what they are."""
    left = iter(names)
    for first, last, template in array.sections():
        name = _REPEAT if template is array.template else next(left)
        yield first, name
        if first != last:
            yield last, name
    longest = 0
    for parameters in array.parameter_sets:
        last = parameters.start + (parameters.count - 1) * parameters.step
        place = parameters.count - 1 if len(str(last)) > len(str(parameters.start)) else 0
        longest = longest * parameters.count + place
    if array.template_of(longest) is array.template:
        yield longest, _REPEAT
