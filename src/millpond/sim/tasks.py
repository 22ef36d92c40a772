"""Users who add, change and look at tasks."""

import asyncio
import json
from typing import Any

import msgspec

from millpond.domain import events as e
from millpond.domain.errors import BatchError
from millpond.domain.ids import id_key
from millpond.domain.states import TaskState
from millpond.domain.task import TaskAddOutcome
from millpond.domain.task_array import TaskArray
from millpond.sim.api import NoAnswer
from millpond.sim.control import SimControl
from millpond.sim.desk import Desk, Known
from millpond.sim.making import Maker
from millpond.sim.plans import TaskPlan


class TaskUsers:
    """See the module."""

    def __init__(self, desk: Desk, maker: Maker) -> None:
        self._desk = desk
        self._maker = maker

    async def add(self) -> None:
        desk = self._desk
        job_id = desk.a_job()
        if job_id is None:
            return
        random = desk.random
        node_ids = sorted(desk.ledger.nodes)
        if desk.habits.arrays and random.random() < desk.habits.arrays:
            await self._add_array(job_id, self._maker.array(node_ids))
            return
        tasks = tuple(self._maker.task(node_ids) for _ in range(random.randint(1, desk.habits.batch_at_most)))
        before = 0

        async def send(control: SimControl) -> tuple[int, list[TaskAddOutcome]]:
            nonlocal before
            before = desk.ledger.commits
            with desk.found(job_id, ""):
                outcomes = await control.to_job(
                    job_id, e.TasksAdded(at=control.now(), cause="user", job_id=job_id, tasks=tasks)
                )
            job = desk.ledger.job_named(job_id)
            return (job.no if job is not None else 0), outcomes

        def check(answer: tuple[int, list[TaskAddOutcome]]) -> None:
            job_no, outcomes = answer
            if not job_no or desk.job_goes(job_id):
                return
            for outcome in outcomes:
                if outcome.error_code is not None or (id_key(job_id), id_key(outcome.id)) in desk.audit.deletes:
                    continue
                task = desk.ledger.task_named(job_no, outcome.id)
                if task is None:
                    desk.audit.fail(f"task {outcome.id} of {job_id} is acknowledged: not on disk")

        answer = await desk.ask(f"add {len(tasks)} tasks to {job_id}", send, check, lambda: desk.job_exists(job_id))
        if answer is None:
            return
        job_no, outcomes = answer
        deleted = desk.job_goes(job_id)
        for outcome in outcomes:
            if outcome.error_code is None and job_no:
                gone = deleted or (id_key(job_id), id_key(outcome.id)) in desk.audit.deletes
                desk.known.append(Known(job_no, job_id, outcome.id, deleting=gone))

    async def _add_array(self, job_id: str, array: TaskArray) -> None:
        desk = self._desk
        ids = [array.task_id(index) for index in range(array.count)]

        async def send(control: SimControl) -> int:
            with desk.found(job_id, ""):
                await control.to_job(
                    job_id, e.TaskArrayAdded(at=control.now(), cause="user", job_id=job_id, array=array)
                )
            job = desk.ledger.job_named(job_id)
            return job.no if job is not None else 0

        def check(job_no: int) -> None:
            if not job_no or desk.job_goes(job_id):
                return
            for task_id in ids:
                if (id_key(job_id), id_key(task_id)) in desk.audit.deletes:
                    continue
                if desk.ledger.task_named(job_no, task_id) is None:
                    desk.audit.fail(f"item {task_id} of {job_id} is acknowledged: not on disk")

        job_no = await desk.ask(
            f"add an array of {array.count} tasks to {job_id}", send, check, lambda: desk.job_exists(job_id)
        )
        if job_no:
            for task_id in ids:
                gone = desk.job_goes(job_id) or (id_key(job_id), id_key(task_id)) in desk.audit.deletes
                desk.known.append(Known(job_no, job_id, task_id, deleting=gone))

    async def change(self) -> None:
        desk = self._desk
        random = desk.random
        known = [one for one in desk.known if not one.deleting or random.random() < 0.1]
        if not known:
            return
        task = random.choice(known[-60:])
        job_id, task_id = task.job_id, task.task_id
        name = (id_key(job_id), id_key(task_id))
        pick = random.randint(0, 5)
        sure = not task.deleting
        if pick == 0:
            for one in desk.known:
                if (id_key(one.job_id), id_key(one.task_id)) == name:
                    one.deleting = True
            desk.audit.deletes.add(name)
            # Some are impatient and ask again before the answer: then either of the two may find it gone.
            times = random.choice((1, 1, 2, 3))
            await asyncio.gather(
                *(
                    desk.to_job(
                        job_id,
                        f"delete task {task_id}",
                        lambda at, _: e.TaskDeleteRequested(at=at, cause="user", job_id=job_id, task_id=task_id),
                        task,
                        sure=sure and times == 1,
                    )
                    for _ in range(times)
                )
            )
        elif pick in (1, 2):
            await desk.to_job(
                job_id,
                f"terminate task {task_id}",
                lambda at, _: e.TaskTerminateRequested(at=at, cause="user", job_id=job_id, task_id=task_id),
                task,
                sure=sure,
            )
        elif pick == 3:
            task.completed = False
            desk.audit.reactivations[name] = desk.audit.reactivations.get(name, 0) + 1
            await desk.to_job(
                job_id,
                f"reactivate task {task_id}",
                lambda at, _: e.TaskReactivateRequested(at=at, cause="user", job_id=job_id, task_id=task_id),
                task,
                sure=sure,
            )
        else:
            plan = json.loads(msgspec.json.encode(TaskPlan(run_s=random.uniform(*desk.habits.run_s))))
            await desk.to_job(
                job_id,
                f"update task {task_id}",
                lambda at, _: e.TaskUpdated(
                    at=at,
                    cause="user",
                    job_id=job_id,
                    task_id=task_id,
                    max_retry_count=random.choice((None, 1)),
                    spec=json.dumps(plan).encode(),
                    retention_s=10.0 if desk.habits.retention else None,
                ),
                task,
                sure=sure,
            )

    # --- reading ---

    async def read(self) -> None:
        desk = self._desk
        known = [one for one in desk.known if not one.deleting]
        if not known:
            return
        task = desk.random.choice(known)

        async def look(control: SimControl) -> Any:
            return await control.store.get_task(task.job_id, task.task_id)

        was_completed = task.completed
        try:
            row = await desk.api.call(look, lambda _: None)
        except (NoAnswer, BatchError):
            return
        if task.deleting:
            return
        if row is None:
            desk.audit.fail(f"task {task.task_id} of {task.job_id} was acknowledged, and is lost")
            return
        completed = row.task.state is TaskState.COMPLETED
        if was_completed and task.completed and not completed:
            desk.audit.fail(f"task {task.task_id} of {task.job_id} was completed, and is {row.task.state}")
        task.completed = task.completed or (completed and task.completed == was_completed and not self._doubt(task))

    def _doubt(self, task: Known) -> bool:
        desk = self._desk
        """Whether a reactivation that was asked for may still come."""
        return desk.audit.reactivations.get((id_key(task.job_id), id_key(task.task_id)), 0) > 0
