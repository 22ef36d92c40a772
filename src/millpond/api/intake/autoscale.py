"""Automatic scaling: from the body of a request to settings, or to the event that enables it.

The formula itself, and how short an interval may be, is for the control plane to check (`check_auto_scale`).
"""

from millpond.api.decode import missing_property
from millpond.api.intake.common import duration_s
from millpond.api.schema.pool import PoolEnableAutoScale, PoolSpecification
from millpond.domain.autoscale import DEFAULT_INTERVAL_S, MAX_INTERVAL_S, AutoScale
from millpond.domain.durations import Timestamp, format_duration
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.events import PoolAutoScaleEnableRequested
from millpond.domain.preconditions import Precondition

SETTINGS = ("enableAutoScale", "autoScaleFormula", "autoScaleEvaluationInterval")


def auto_scale_of(body: PoolSpecification, at: Timestamp) -> AutoScale | None:
    """How a new pool is to scale itself; None where its size is fixed. Raises BatchError."""
    if not body.enable_auto_scale:
        for name, value in (
            ("autoScaleFormula", body.auto_scale_formula),
            ("autoScaleEvaluationInterval", body.auto_scale_evaluation_interval),
        ):
            if value is not None:
                raise invalid_property(name, value, "it needs enableAutoScale to be true")
        return None
    for name, target in (
        ("targetDedicatedNodes", body.target_dedicated_nodes),
        ("targetLowPriorityNodes", body.target_low_priority_nodes),
    ):
        if target is not None:
            raise BatchError(
                ErrorCode.INVALID_AUTO_SCALING_SETTINGS,
                f"'{name}' is the formula's to say where enableAutoScale is true: leave it out.",
                PropertyName=name,
                PropertyValue=str(target),
            )
    if body.auto_scale_formula is None:
        raise missing_property("autoScaleFormula")
    interval_s = DEFAULT_INTERVAL_S
    if body.auto_scale_evaluation_interval is not None:
        interval_s = _interval_s(body.auto_scale_evaluation_interval)
        body.auto_scale_evaluation_interval = format_duration(interval_s)
    return AutoScale(body.auto_scale_formula, interval_s, at, at)


def enable_of(
    body: PoolEnableAutoScale, at: Timestamp, cause: str, condition: Precondition | None
) -> PoolAutoScaleEnableRequested:
    """Raises BatchError."""
    interval = body.auto_scale_evaluation_interval
    return PoolAutoScaleEnableRequested(
        at=at,
        cause=cause,
        formula=body.auto_scale_formula,
        interval_s=None if interval is None else _interval_s(interval),
        condition=condition,
    )


def _interval_s(text: str) -> float:
    name = "autoScaleEvaluationInterval"
    seconds = duration_s(name, text, maximum_s=MAX_INTERVAL_S)
    if not seconds:
        raise invalid_property(name, text, "it must be longer than nothing")
    return seconds
