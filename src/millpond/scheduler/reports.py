"""What nodes report of attempts: the key tells whether it is a task's or a special task's."""

from millpond.domain.effects import Effect
from millpond.domain.events import TaskEnded, TaskStarted, TaskStopped
from millpond.domain.ids import is_special_key
from millpond.scheduler import special, tasks
from millpond.scheduler.state import SchedulerState


def on_task_started(state: SchedulerState, event: TaskStarted, effects: list[Effect]) -> None:
    (special.on_started if is_special_key(event.key) else tasks.on_task_started)(state, event, effects)


def on_task_ended(state: SchedulerState, event: TaskEnded, effects: list[Effect]) -> None:
    (special.on_ended if is_special_key(event.key) else tasks.on_task_ended)(state, event, effects)


def on_task_stopped(state: SchedulerState, event: TaskStopped, effects: list[Effect]) -> None:
    (special.on_stopped if is_special_key(event.key) else tasks.on_task_stopped)(state, event, effects)
