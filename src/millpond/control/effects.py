"""What becomes of effects whose batch is on disk: directives to outboxes, wishes to the provider, timers, purges."""

from collections.abc import Callable, Sequence
from functools import partial

from millpond.control.autoscaling import AutoScaling
from millpond.control.engine import Engine
from millpond.control.events_feed import EventsFeed
from millpond.control.job_schedules import JobScheduleKeeper
from millpond.control.jobs import JobKeeper
from millpond.control.nodes import NodeLinks
from millpond.control.outbox import Outbox
from millpond.control.provisioning import Provisioning
from millpond.control.retention import Purger
from millpond.control.start_directives import StartDirectives
from millpond.control.timers import Timers
from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect
from millpond.domain.errors import BatchError
from millpond.domain.events import Event
from millpond.domain.ids import id_key
from millpond.domain.job import Job
from millpond.domain.states import IN_SERVICE_NODE_STATES
from millpond.protocol import messages as m
from millpond.store.changes import ChangeSet


class EffectRouter:
    """Hands each effect to the part of the control plane it is for."""

    def __init__(
        self,
        *,
        links: NodeLinks,
        provisioning: Provisioning,
        directives: StartDirectives,
        jobs: JobKeeper,
        schedules: JobScheduleKeeper,
        purger: Purger,
        autoscaling: AutoScaling,
        timers: Timers,
        feed: EventsFeed,
        clock: Callable[[], Timestamp],
    ) -> None:
        self._links = links
        self._provisioning = provisioning
        self._directives = directives
        self._jobs = jobs
        self._schedules = schedules
        self._purger = purger
        self._autoscaling = autoscaling
        self._timers = timers
        self._feed = feed
        self._clock = clock

    async def carry_out(self, engine: Engine, effects: Sequence[Effect], changes: ChangeSet) -> None:
        if changes.specs:
            specs = changes.specs
            if not specs.keys() <= changes.tasks.keys():  # a specification alone is of a task that may run already
                specs = {key: spec for key, spec in specs.items() if key in changes.tasks}
            self._directives.keep(specs)
        starts: list[f.StartTask] = []
        for effect in effects:
            if type(effect) is f.StartTask:
                starts.append(effect)
            elif type(effect) is f.MoveJob:
                # Before anything is waited for: whoever this engine has told that it knows no such job looks again.
                self._jobs.move(effect.job)
        specs = await self._directives.specs_of(starts) if starts else {}
        for effect in effects:
            if type(effect) is f.StartTask:  # of these there is one for each task
                spec = specs.get(effect.task.key)
                link = self._links.get(effect.node_id)
                # Without a specification the task has just been deleted, and a stop is on its way.
                if link is not None and spec is not None:
                    self._directives.start(link, effect, spec)
                continue
            match effect:
                case f.StartSpecialTask(node_id) if link := self._links.get(node_id):
                    self._directives.start_special(link, effect)
                case f.Proceed(node_id, key, attempt) if box := self._outbox(node_id):
                    box.put(m.Proceed(box.next_revision(), key, attempt))
                case f.RestartNode(_, node, wipe) if box := self._outbox(node.id):
                    box.put(m.Restart(box.next_revision(), wipe))
                case f.BeginSession(node_id, session):
                    self._links.begin_session(node_id, session)
                case f.StopTask(node_id, key, attempt) if box := self._outbox(node_id):
                    box.put(m.Stop(box.next_revision(), key, attempt))
                case f.ReturnTask(node_id, key, attempt) if box := self._outbox(node_id):
                    box.put(m.Return(box.next_revision(), key, attempt))
                case f.RemoveTaskDirectory(node_id, job_id, task_id) if box := self._outbox(node_id):
                    box.put(m.RemoveDirectory(box.next_revision(), job_id, task_id))
                case f.RemoveJobDirectories(node_id, job_id) if box := self._outbox(node_id):
                    box.put(m.RemoveDirectory(box.next_revision(), job_id))
                case f.CreateNode(pool, node):
                    self._links.add(engine, node.id)
                    if node.state not in IN_SERVICE_NODE_STATES:
                        self._links.expect_boot(node.id)
                    self._provisioning.create(engine, pool, node)
                case f.ReleaseNode(pool, node):
                    self._links.release(node.id)
                    self._provisioning.release(engine, pool, node)
                case f.DeleteNode(node):
                    self._links.remove(node.id)
                    self._provisioning.forget(node.id)
                case f.DeleteJob(job):
                    self._jobs.forget(job)
                case f.PurgeJob(job):
                    self._purge(engine, job)
                case f.TellJobCompleted(job):
                    self._schedules.job_completed(job)
                case f.Publish(event):
                    self._feed.add(event)
                case f.SetResizeTimer(deadline):
                    self._set_timer(engine, f"resize {engine.pool_key}", deadline, e.PoolResizeTimedOut)
                case f.SetAutoScaleTimer(deadline):
                    self._autoscaling.set_timer(engine, deadline)
                case f.SetJobTimer(job_id, deadline):
                    self._set_timer(engine, f"job {id_key(job_id)}", deadline, partial(e.JobTimedOut, job_id=job_id))
                case f.SetGangTimer(deadline):
                    self._set_timer(engine, f"gang {engine.pool_key}", deadline, e.GangReservationTimedOut)
                case f.SetNodeRetentionTimer(node_id, deadline):
                    self._set_timer(
                        engine, f"retention {node_id}", deadline, partial(e.NodeRetentionPassed, node_id=node_id)
                    )

    def _purge(self, engine: Engine, job: Job) -> None:
        if job.schedule_id is None:
            self._purger.purge(engine, job)
        else:
            # As long as its rows are there, its schedule does not take it for one that has yet to be made.
            self._schedules.job_goes(job, lambda: self._purger.purge(engine, job))

    def _outbox(self, node_id: str) -> Outbox | None:
        link = self._links.get(node_id)
        return link.outbox if link is not None else None

    def _set_timer(
        self,
        engine: Engine,
        key: str,
        deadline: Timestamp | None,
        event: Callable[..., Event],
    ) -> None:
        def fire() -> None:
            if deadline is None:
                return
            try:
                engine.submit(event(at=self._clock(), cause="timer", deadline=deadline))
            except BatchError:
                self._timers.set(key, self._clock() + 1.0, fire)

        self._timers.set(key, deadline, fire)
