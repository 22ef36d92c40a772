"""Auto pools: the pool that the service makes for a job, or for all jobs of a schedule."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec

from millpond.api.decode import missing_property
from millpond.api.intake.common import check_id, within
from millpond.api.intake.pools import pool_of
from millpond.api.schema.base import JsonObject
from millpond.api.schema.job import AutoPoolSpecification
from millpond.api.schema.secrets import pool_without_secrets
from millpond.domain.durations import Timestamp
from millpond.domain.errors import invalid_property
from millpond.domain.job import AutoPool, Job
from millpond.domain.pool import Pool
from millpond.domain.states import PoolLifetimeOption
from millpond.providers.base import VmSize

MAX_PREFIX: Final = 20
PATH: Final = "poolInfo.autoPoolSpecification"

PoolNamer: TypeAlias = Callable[[str], str]
"""The prefix the user chose (or nothing) → the id of the auto pool."""


def new_auto_pool(
    body: AutoPoolSpecification, name: PoolNamer, vm_sizes: Mapping[str, VmSize], at: Timestamp
) -> tuple[AutoPool, Pool]:
    """What the job says of its pool, and the pool. Raises BatchError; properties are named from the job on."""
    with within(PATH):
        prefix = body.auto_pool_id_prefix or ""
        if len(prefix) > MAX_PREFIX:
            raise invalid_property("autoPoolIdPrefix", prefix, f"it is longer than {MAX_PREFIX} characters")
        if prefix:
            check_id("autoPoolIdPrefix", prefix)
        if body.pool is None:
            raise missing_property("pool")
        with within("pool"):
            pool = pool_of(body.pool, name(prefix), vm_sizes, at)
    pool.auto_pool = True
    body.keep_alive = bool(body.keep_alive)
    return AutoPool(body.keep_alive, PoolLifetimeOption(body.pool_lifetime_option.value)), pool


def changed_keep_alive(
    body: AutoPoolSpecification, job: Job, vm_sizes: Mapping[str, VmSize], at: Timestamp
) -> JsonObject | None:
    """The job's `autoPoolSpecification` with the new keepAlive: all that can be changed of it. None when it is as it
    was. Raises BatchError for anything else."""
    stored: JsonObject | None = (job.spec.get("poolInfo") or {}).get("autoPoolSpecification")
    if job.auto_pool is None or stored is None or job.auto_pool.lifetime is not PoolLifetimeOption.JOB:
        raise invalid_property(
            PATH,
            body.pool_lifetime_option.value,
            "only keepAlive can be changed, of an auto pool that the job has already and whose poolLifetimeOption is job",
        )
    given = _comparable(body, job.pool_id, vm_sizes, at)
    for name, value in given.items():
        if name != "keepAlive" and value != stored.get(name):
            raise invalid_property(f"{PATH}.{name}", value, "only keepAlive of an auto pool can be changed")
    keep_alive = job.auto_pool.keep_alive if body.keep_alive is None else body.keep_alive
    return None if keep_alive == job.auto_pool.keep_alive else {**stored, "keepAlive": keep_alive}


def _comparable(body: AutoPoolSpecification, pool_id: str, vm_sizes: Mapping[str, VmSize], at: Timestamp) -> JsonObject:
    """The body in the form in which jobs keep it: in the service's spelling, without secrets."""
    if body.pool is not None:
        accounts, body.pool.user_accounts = body.pool.user_accounts, None  # read back, they have no passwords
        with within(f"{PATH}.pool"):
            pool_of(body.pool, pool_id, vm_sizes, at)
        body.pool.user_accounts = accounts
    given: JsonObject = msgspec.to_builtins(body)
    if body.pool is not None:
        given["pool"] = pool_without_secrets(given["pool"])
    return given
