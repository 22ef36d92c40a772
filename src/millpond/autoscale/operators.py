"""The binary operators: which types go together, and what they give.

    double   + - * /          double             timestamp    + timeinterval    timestamp
    doubleVec + - * /         double, doubleVec  timeinterval + timestamp       timestamp
    timeinterval * double     either order       timestamp    - timeinterval    timestamp (Azure does not list it)
    timeinterval / double                        timestamp    - timestamp       timeinterval
    timeinterval + - timeinterval                < <= == >= > !=    of two doubles, strings, timestamps, timeintervals

Options can be compared for being equal. `&&` and `||` are the evaluator's, because they may leave out their right side.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, Final

from millpond.autoscale.values import Interval, Moment, Value, Vector, format_value, interval, moment, type_name
from millpond.domain.states import NodeDeallocationOption

_ARITHMETIC: Final[dict[str, Callable[[float, float], float]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
}
_ORDERED: Final = frozenset({float, str, Moment, Interval})


def apply(symbol: str, left: Value, right: Value) -> Value:
    """The value of `left symbol right`. Raises ValueError with the reason when there is none."""
    arithmetic = _ARITHMETIC.get(symbol)
    try:
        if arithmetic is None:
            return _compare(symbol, left, right)
        if isinstance(left, float) and isinstance(right, float):
            return finite(arithmetic(left, right))
        if isinstance(left, (float, tuple)) and isinstance(right, (float, tuple)):
            return _by_element(arithmetic, left, right)
        result = _with_time(symbol, left, right)
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except OverflowError as error:
        raise ValueError(str(error)) from None
    if result is None:
        raise _mismatch(symbol, left, right)
    return result


def finite(value: float) -> float:
    """The number itself. Raises ValueError for what is infinite or no number."""
    if not math.isfinite(value):
        raise ValueError("the result is too large")
    return value


def _mismatch(symbol: str, left: Value, right: Value) -> ValueError:
    advice = ""
    if isinstance(left, tuple) or isinstance(right, tuple):
        advice = "; make one number of a doubleVec with avg, max, min, sum or val"
    return ValueError(f"'{symbol}' does not go with a {type_name(left)} and a {type_name(right)}{advice}")


def _compare(symbol: str, left: Value, right: Value) -> float:
    kind = type(left)
    if kind is not type(right) or not (kind in _ORDERED or (kind is NodeDeallocationOption and symbol in {"==", "!="})):
        raise _mismatch(symbol, left, right)
    return 1.0 if _COMPARISONS[symbol](left, right) else 0.0


def _by_element(arithmetic: Callable[[float, float], float], left: float | Vector, right: float | Vector) -> Vector:
    length = len(left) if isinstance(left, tuple) else len(right) if isinstance(right, tuple) else 1
    lefts = left if isinstance(left, tuple) else (left,) * length
    rights = right if isinstance(right, tuple) else (right,) * length
    if len(lefts) != len(rights):
        raise ValueError(f"the doubleVecs have {len(lefts)} and {len(rights)} elements")
    result = tuple(map(arithmetic, lefts, rights))
    if not all(map(math.isfinite, result)):
        raise ValueError("the result is too large")
    return result


def _with_time(symbol: str, left: Value, right: Value) -> Value | None:
    match symbol, left, right:
        case "*", Interval(), float():
            return _scaled(left, right)
        case "*", float(), Interval():
            return _scaled(right, left)
        case "/", Interval(), float():
            return interval(round(finite(left.ticks / right)))
        case "+", Interval(), Interval():
            return interval(left.ticks + right.ticks)
        case "-", Interval(), Interval():
            return interval(left.ticks - right.ticks)
        case "-", Moment(), Moment():
            return interval(left.ticks - right.ticks)
        case "+", Moment(), Interval():
            return moment(left.ticks + right.ticks)
        case "+", Interval(), Moment():
            return moment(left.ticks + right.ticks)
        case "-", Moment(), Interval():
            return moment(left.ticks - right.ticks)
    return None


def _scaled(of: Interval, by: float) -> Interval:
    # Whole factors stay exact whatever their size.
    return interval(of.ticks * int(by) if by.is_integer() else round(finite(of.ticks * by)))


def describe(value: Value) -> str:
    """A value for a message: short, with its type."""
    return f"the {type_name(value)} {format_value(value, 8)[:64]}"
