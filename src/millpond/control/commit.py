"""From the effects of a batch to the rows of one transaction, and to what leaves after it."""

from collections.abc import Iterable
from typing import Any

import msgspec

from millpond.domain import effects as f
from millpond.domain.effects import Effect
from millpond.store.changes import ChangeSet, Together


class Batch(msgspec.Struct):
    """The effects of one batch, sorted by when they may happen."""

    changes: ChangeSet = msgspec.field(default_factory=ChangeSet)
    after: list[Effect] = msgspec.field(default_factory=list)
    """Directives, wishes, timers: after the commit, in order."""

    def take(self, effects: Iterable[Effect]) -> Any:
        """Sort the effects in, the last row per key winning; the value of a `Reply`, if there was one."""
        changes, after = self.changes, self.after
        rows = changes.tasks
        reply: Any = None
        for effect in effects:
            # Of these there is one for each task: they are told apart without a match.
            if isinstance(effect, f.StartTask):
                after.append(effect)
                continue
            if isinstance(effect, f.HandOver):
                task = effect.task
                key = task.key
                if key not in rows or key in changes.new_tasks:
                    changes.handed.add(key)
                    rows[key] = task
                continue
            if isinstance(effect, f.SaveTask):
                task = effect.task
                rows[task.key] = task
                changes.handed.discard(task.key)
                self._part(task.key)
                continue
            match effect:
                case f.SaveTasks(tasks):
                    keys = [task.key for task in tasks]
                    rows.update(zip(keys, tasks, strict=True))
                    changes.handed.difference_update(keys)
                    if changes.together:
                        for key in keys:
                            self._part(key)
                case f.AddTasks(tasks, specs, alike):
                    keys = [task.key for task in tasks]
                    changes.tasks.update(zip(keys, tasks, strict=True))
                    changes.new_tasks.update(keys)
                    changes.specs.update(zip(keys, specs, strict=True))
                    if alike:
                        changes.together.append(Together(tasks, specs))
                case f.SaveNode(node):
                    changes.nodes[node.id] = node
                    changes.worked.discard(node.id)
                case f.SaveNodeWork(nodes):
                    there = changes.nodes
                    changes.worked.update([node.id for node in nodes if node.id not in there])
                    there.update([(node.id, node) for node in nodes])
                case f.SaveJob(job):
                    changes.jobs[job.no] = job
                case f.SavePool(pool):
                    changes.pools[pool.no] = pool
                    changes.deleted_pools.discard(pool.no)
                case f.SaveTaskSpec(key, spec):
                    changes.specs[key] = spec
                    self._part(key)
                case f.DeleteTask(task):
                    self._part(task.key)
                    changes.tasks.pop(task.key, None)
                    changes.handed.discard(task.key)
                    changes.specs.pop(task.key, None)
                    if task.key in changes.new_tasks:
                        changes.new_tasks.discard(task.key)
                    else:
                        changes.deleted_tasks.add(task.key)
                case f.AddTaskArray(array):
                    changes.task_arrays[array.key] = array
                    changes.rests[array.key] = ((0, array.count - 1),)
                case f.SaveRest(key, rest):
                    changes.rests[key] = rest
                case f.RememberSatisfied(job_no, id_key):
                    changes.satisfied.add((job_no, id_key))
                case f.SaveJobNode(job_node):
                    changes.job_nodes[job_node.job_no, job_node.node_id] = job_node
                case f.SaveSubtask(subtask):
                    changes.subtasks[subtask.task_key, subtask.index] = subtask
                case f.DeleteSubtasks(task_key):
                    for known in [known for known in changes.subtasks if known[0] == task_key]:
                        del changes.subtasks[known]
                    changes.deleted_subtasks.add(task_key)
                case f.SaveJobSchedule(schedule):
                    changes.job_schedules[schedule.no] = schedule
                case f.DeleteJobSchedule(schedule):
                    changes.job_schedules.pop(schedule.no, None)
                    changes.deleted_job_schedules.add(schedule.no)
                    self.after.append(effect)
                case f.DeleteNode(node):
                    changes.nodes.pop(node.id, None)
                    changes.worked.discard(node.id)
                    changes.deleted_nodes.add(node.id)
                    self.after.append(effect)
                case f.DeleteJob(job):
                    changes.jobs.pop(job.no, None)
                    changes.deleted_jobs.add(job.no)
                    self.after.append(effect)
                case f.DeletePool(pool):
                    changes.pools.pop(pool.no, None)
                    changes.deleted_pools.add(pool.no)
                case f.Reply(value):
                    reply = value
                case _:
                    self.after.append(effect)
        return reply

    def _part(self, key: int) -> None:
        """The task is not like those it came with any more, if it came in this batch: which is rare."""
        changes = self.changes
        if changes.together and key in changes.new_tasks:
            changes.together = [it for it in changes.together if not it.tasks[0].key <= key <= it.tasks[-1].key]
