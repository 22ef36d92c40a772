"""One evaluation, told: every statement with the values inside it and the samples it looked at."""

from collections.abc import Iterator, Mapping
from typing import Final

from millpond.autoscale.errors import FormulaError
from millpond.autoscale.evaluate import Inputs, evaluate
from millpond.autoscale.parser import parse
from millpond.autoscale.record import Evaluation, SampleMethod, SampleWindow, StatementTrace, Step
from millpond.autoscale.samples import History, SampleSource
from millpond.autoscale.tree import Formula
from millpond.autoscale.variables import Metric
from millpond.domain.durations import Timestamp, format_timestamp

__all__ = ["FormulaError", "explain", "explain_history", "tell"]

_WIDEST: Final = 100
"""Characters of the text of an expression."""


def explain(
    formula: Formula | str,
    samples: SampleSource,
    now: Timestamp,
    *,
    target_dedicated_nodes: int = 0,
    target_low_priority_nodes: int = 0,
    current: Mapping[Metric, float] | None = None,
) -> list[str]:
    """Lines that tell what the formula says at a time. Raises FormulaError for one that cannot be read."""
    parsed = parse(formula) if isinstance(formula, str) else formula
    inputs = Inputs(now, samples, target_dedicated_nodes, target_low_priority_nodes, current or {})
    evaluation = evaluate(parsed, inputs, trace=True)
    return list(tell(parsed, evaluation, inputs))


def explain_history(
    formula: Formula | str,
    history: History,
    at: Timestamp | None = None,
    *,
    target_dedicated_nodes: int = 0,
    target_low_priority_nodes: int = 0,
) -> list[str]:
    """As `explain`, at the time of the newest samples unless another is given. Raises ValueError when there are neither."""
    now = history.newest_time if at is None else at
    if now is None:
        raise ValueError("there are no samples, and no time was given")
    return explain(
        formula,
        history,
        now,
        target_dedicated_nodes=target_dedicated_nodes,
        target_low_priority_nodes=target_low_priority_nodes,
    )


def tell(formula: Formula, evaluation: Evaluation, inputs: Inputs) -> Iterator[str]:
    """The lines, of an evaluation that was traced."""
    windows = _by_statement(evaluation)
    for statement in evaluation.trace:
        yield from _statement(formula, statement, windows.get(id(statement), []))
        yield ""
    if evaluation.stopped:
        yield "stop() ended the evaluation: nothing after it counts."
    for warned in evaluation.warnings:
        where = f"line {warned.line}, column {warned.column}: " if warned.line else ""
        yield f"warning: {where}{warned.message}"
    failure = evaluation.error
    if failure is not None:
        yield f"{failure.code}: line {failure.line}, column {failure.column}: {failure.detail}"
        yield "The pool keeps its targets."
    yield f"At {format_timestamp(evaluation.at)}:"
    for name, now, before in (
        ("dedicated", evaluation.target_dedicated_nodes, inputs.target_dedicated_nodes),
        ("low-priority", evaluation.target_low_priority_nodes, inputs.target_low_priority_nodes),
    ):
        change = "as before" if now == before else f"before: {before}"
        yield f"  target {name} nodes: {now} ({change})"
    yield f"  nodes that go: {evaluation.node_deallocation_option}"


def _by_statement(evaluation: Evaluation) -> dict[int, list[SampleWindow]]:
    """Windows by (the identity of) the statement they were looked at in."""
    found: dict[int, list[SampleWindow]] = {}
    for window in evaluation.windows:
        inside = [one for one in evaluation.trace if (one.line, one.column) <= (window.line, window.column)]
        if inside:
            found.setdefault(id(inside[-1]), []).append(window)
    return found


def _statement(formula: Formula, statement: StatementTrace, windows: list[SampleWindow]) -> Iterator[str]:
    yield f"{statement.line}:{statement.column}  {_text(formula, statement.start, statement.end)}"
    whole: Step | None = statement.steps[-1] if statement.steps else None
    for step in statement.steps:
        text = _text(formula, step.start, step.end)
        # What stands for itself needs no telling, and the whole is told below.
        if step is whole or text.replace(" ", "") == step.text.replace(" ", ""):
            continue
        yield f"    {'  ' * max(0, step.depth - 1)}{text} = {step.text}"
    for window in windows:
        yield f"    {_window(window)}"
    if statement.text is None:
        yield "    → failed"
    else:
        name = f"{statement.target} = " if statement.target is not None else ""
        yield f"    → {name}{statement.text} ({statement.type})"


def _window(window: SampleWindow) -> str:
    until = format_timestamp(window.until)
    if window.method is SampleMethod.CURRENT:
        return f"samples: {window.metric} as it is at {until}"
    wanted = f", {window.wanted_percent:g}% wanted" if window.wanted_percent is not None else ""
    have = f"{window.available} of {window.possible} ({window.percent:.0f}%{wanted})"
    if window.method is SampleMethod.GET_SAMPLE and window.after is None:
        return f"samples: {window.metric} the newest up to {until}: {have}"
    if window.method in (SampleMethod.GET_SAMPLE, SampleMethod.GET_SAMPLE_PERCENT):
        begin = "the beginning" if window.after is None else format_timestamp(window.after)
        return f"samples: {window.metric} after {begin} up to {until}: {have}"
    return f"samples: {window.metric} {window.method} up to {until}: {window.available}"


def _text(formula: Formula, start: int, end: int) -> str:
    text = " ".join(formula.text[start:end].split())
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"
