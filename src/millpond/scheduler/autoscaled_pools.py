"""Pools that scale themselves: enabling and disabling, and what an evaluation of the formula does to them.

Formulas are evaluated outside (`control/autoscaling.py`), on `SetAutoScaleTimer` or when the queue has changed; here
their outcomes become targets. A resize begun by a formula has no timeout: the next evaluation may replace its targets,
so it goes on for as long as nodes are being made, or drained.
"""

import msgspec

from millpond.domain.autoscale import DEFAULT_INTERVAL_S, ENABLE_PAUSE_S, AutoScale
from millpond.domain.durations import later_than
from millpond.domain.effects import Effect, Reply, SavePool, SetAutoScaleTimer
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import PoolAutoScaled, PoolAutoScaleDisableRequested, PoolAutoScaleEnableRequested
from millpond.domain.pool import Pool, ResizeError
from millpond.domain.states import AllocationState, PoolState
from millpond.scheduler import service_log
from millpond.scheduler.pools import begin_resize, find_live_pool
from millpond.scheduler.state import SchedulerState

NODE_QUOTA: ResizeError = ResizeError(
    "AccountCoreQuotaReached",
    "The formula asks for more nodes than a pool may have: the targets were cut to the limit of autoscale.max_nodes "
    "in the service's configuration",
)


def on_pool_auto_scale_enable_requested(
    state: SchedulerState, event: PoolAutoScaleEnableRequested, effects: list[Effect]
) -> None:
    """Azure Batch: enabling does not evaluate; a new interval begins a new schedule from now on, a formula alone keeps
    the schedule."""
    pool = find_live_pool(state, event.condition)
    at = event.at
    if pool.allocation_state is not AllocationState.STEADY:
        raise BatchError(ErrorCode.POOL_BEING_RESIZED)
    if pool.auto_scale_enabled is not None and 0 <= at - pool.auto_scale_enabled < ENABLE_PAUSE_S:
        raise BatchError(
            ErrorCode.TOO_MANY_ENABLE_AUTO_SCALE_REQUESTS,
            f"Automatic scaling of pool '{pool.id}' was enabled less than {ENABLE_PAUSE_S:.0f} s ago; try again shortly.",
        )
    known = pool.auto_scale
    formula = event.formula if event.formula is not None or known is None else known.formula
    if formula is None or (event.formula is None and event.interval_s is None):
        raise BatchError(
            ErrorCode.MISSING_REQUIRED_PROPERTY,
            f"Pool '{pool.id}' needs "
            + ("an autoScaleFormula." if known is None else "an autoScaleFormula or an autoScaleEvaluationInterval."),
            PropertyName="autoScaleFormula",
        )
    if known is None:
        interval_s = DEFAULT_INTERVAL_S if event.interval_s is None else event.interval_s
        pool.auto_scale = AutoScale(formula, interval_s, at, at + interval_s)
    elif event.interval_s is None:
        pool.auto_scale = msgspec.structs.replace(known, formula=formula, since=at)
    else:
        pool.auto_scale = AutoScale(formula, event.interval_s, at, at + event.interval_s, known.run)
    pool.auto_scale_enabled = at
    pool.last_modified = later_than(pool.last_modified, at)
    effects.append(SetAutoScaleTimer(pool.auto_scale.next_run))
    effects.append(SavePool(pool))


def on_pool_auto_scale_disable_requested(
    state: SchedulerState, event: PoolAutoScaleDisableRequested, effects: list[Effect]
) -> None:
    """The pool keeps its targets, and a resize under way goes on. Of a pool that does not scale itself nothing changes."""
    pool = find_live_pool(state, event.condition)
    if pool.auto_scale is None:
        return
    pool.auto_scale = None
    pool.last_modified = later_than(pool.last_modified, event.at)
    effects.append(SetAutoScaleTimer(None))
    effects.append(SavePool(pool))


def on_pool_auto_scaled(state: SchedulerState, event: PoolAutoScaled, effects: list[Effect]) -> None:
    """Take the run down, and its targets over where they are others. Reply: whether the outcome counted."""
    pool = state.pool
    if pool is None or pool.no != event.pool_no or pool.state is PoolState.DELETING:
        effects.append(Reply(value=False))
        return
    known = pool.auto_scale
    if known is None or known.since != event.since:
        effects.append(Reply(value=False))
        return
    pool.auto_scale = msgspec.structs.replace(known, run=event.run, next_run=known.due_after(event.at))
    effects.append(service_log.auto_scaled(pool, pool.auto_scale))
    if event.run.error is None and pool.allocation_state is not AllocationState.STOPPING:
        # While a resize is being stopped nothing is begun: the next run finds the targets as they are.
        _scale(state, pool, event, effects)
    effects.append(SetAutoScaleTimer(pool.auto_scale.next_run))
    effects.append(SavePool(pool))
    effects.append(Reply(value=True))


def targets_of(event: PoolAutoScaled) -> tuple[int, int]:
    """The dedicated and low-priority nodes the outcome comes to: what the formula says, cut to what a pool may have."""
    dedicated, low_priority, most = event.target_dedicated_nodes, event.target_low_priority_nodes, event.max_nodes
    if most is None or dedicated + low_priority <= most:
        return dedicated, low_priority
    dedicated = min(dedicated, most)
    return dedicated, most - dedicated


def _scale(state: SchedulerState, pool: Pool, event: PoolAutoScaled, effects: list[Effect]) -> None:
    targets = targets_of(event)
    if targets != (pool.target_dedicated_nodes, pool.target_low_priority_nodes):
        pool.target_dedicated_nodes, pool.target_low_priority_nodes = targets
        pool.last_modified = later_than(pool.last_modified, event.at)
        begin_resize(state, pool, None, event.node_deallocation_option, event.at, effects)
    is_cut = targets != (event.target_dedicated_nodes, event.target_low_priority_nodes)
    if is_cut and NODE_QUOTA not in pool.resize_errors:
        pool.resize_errors = (*pool.resize_errors, NODE_QUOTA)
