"""What nodes are told to run: from the scheduler's wish and the stored specification to the `Start` that goes out."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from millpond.control.listening import NodeLink
from millpond.control.settings import ControlSettings
from millpond.control.specs import SpecCache, release_spec
from millpond.control.tokens import LaunchClaim, TaskClaim, launch_token, task_token
from millpond.domain import effects as f
from millpond.domain.errors import StoreUnavailable
from millpond.domain.job import Job
from millpond.domain.pool import Pool
from millpond.domain.states import TaskKind
from millpond.domain.task import JsonObject
from millpond.protocol import messages as m
from millpond.scheduler.retries import may_retry
from millpond.store.base import Store

log = logging.getLogger(__name__)

_SETUP: Final = ("applicationPackageReferences", "mountConfiguration")
"""What of a pool's definition its nodes are set up with."""

PrepareSpec: TypeAlias = Callable[[bytes, Pool | None], bytes]
"""A stored specification as a node of that pool can use it."""


def _common_environment(job: Job) -> tuple[tuple[str, str], ...]:
    settings = job.spec.get("commonEnvironmentSettings")
    return tuple((entry["name"], entry.get("value") or "") for entry in settings) if settings else ()


def _pool_of(link: NodeLink) -> Pool | None:
    state = link.engine.state
    return state.pool if state is not None else None


class StartDirectives:
    """Makes `Start` directives. Specifications are kept between their commit and their hand-over, as far as they fit."""

    def __init__(self, store: Store, secret: bytes, prepare_spec: PrepareSpec, settings: ControlSettings) -> None:
        self._store = store
        self._secret = secret
        self._prepare_spec = prepare_spec
        self._settings = settings
        self._specs = SpecCache(settings.spec_cache_bytes)

    def keep(self, specs: dict[int, bytes]) -> None:
        """Specifications just committed, by task key."""
        self._specs.add(specs)

    async def specs_of(self, starts: Sequence[f.StartTask]) -> dict[int, bytes]:
        """The specifications of the tasks to start, however long the store takes; one that is missing has been deleted."""
        specs: dict[int, bytes] = {}
        missing: list[int] = []
        for start in starts:
            spec = self._specs.take(start.task.key)
            if spec is None:
                missing.append(start.task.key)
            else:
                specs[start.task.key] = spec
        while missing:
            try:
                specs.update(await self._store.task_specs(missing))
                break
            except StoreUnavailable as error:
                # The batch is on disk, so all that follows from it has to be carried out some time.
                log.warning("specifications of %d tasks cannot be read yet: %s", len(missing), error)
                await asyncio.sleep(self._settings.store_retry_s)
        return specs

    def start(self, link: NodeLink, start: f.StartTask, spec: bytes) -> None:
        """Tell the node to run a task, or its instance of one."""
        job, task, members = start.job, start.task, start.members
        outbox = link.outbox
        # In the order of the fields: by name takes twice as long, and this is done for every attempt there is.
        outbox.put(
            m.Start(
                outbox.next_revision(),
                task.key,
                start.attempt,
                job.id,
                task.id,
                start.slots,
                self._prepare_spec(spec, _pool_of(link)),
                _common_environment(job),
                TaskKind.INSTANCE if members else TaskKind.TASK,
                job.preparation.id if job.preparation is not None else "",
                task_token(self._secret, TaskClaim(job.id, task.id, start.attempt))
                if task.rules is not None and task.rules.job_access
                else "",
                self._instance_of(start) if members else None,
                may_retry(task, job),
            )
        )

    def _instance_of(self, start: f.StartTask) -> m.Instance:
        claim = LaunchClaim(start.node_id, start.task.key, start.attempt)
        addresses = tuple(member.ip_address for member in start.members)
        return m.Instance(start.index, addresses, launch_token=launch_token(self._secret, claim))

    def start_special(self, link: NodeLink, start: f.StartSpecialTask) -> None:
        """Tell the node to set itself up, or to run a start, preparation or release task."""
        job = start.job
        spec: JsonObject | None
        if start.kind is TaskKind.NODE_SETUP and start.pool is not None:
            spec = {name: start.pool.spec[name] for name in _SETUP if name in start.pool.spec}
            task_id = ""
        elif start.kind is TaskKind.START_TASK or job is None:
            spec = start.pool.spec.get("startTask") if start.pool is not None else None
            task_id = ""
        else:
            is_release = start.kind is TaskKind.JOB_RELEASE
            spec = job.spec.get("jobReleaseTask" if is_release else "jobPreparationTask")
            if is_release and spec is not None:
                spec = release_spec(spec)
            rules = job.release if is_release else job.preparation
            task_id = rules.id if rules is not None else ""
        link.outbox.put(
            m.Start(
                revision=link.outbox.next_revision(),
                key=start.key,
                attempt=start.attempt,
                job_id=job.id if job is not None else "",
                task_id=task_id,
                slots=0,
                spec=self._prepare_spec(msgspec.json.encode(spec or {}), _pool_of(link)),
                common_environment=_common_environment(job) if job is not None else (),
                kind=start.kind,
                preparation_id=job.preparation.id if job is not None and job.preparation is not None else "",
            )
        )
