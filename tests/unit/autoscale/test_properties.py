"""Whatever the text: only the language's own errors, in bounded time; whatever the tree: its text means the same."""

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millpond.autoscale.errors import FormulaError
from millpond.autoscale.evaluate import MAX_TARGET, Inputs, evaluate
from millpond.autoscale.lexer import MAX_CHARACTERS
from millpond.autoscale.lint import LintFacts, lint
from millpond.autoscale.parser import parse
from millpond.autoscale.signatures import FUNCTIONS, METHODS
from millpond.autoscale.tree import (
    LEVELS,
    Branch,
    Call,
    Chain,
    Choice,
    Constant,
    Expression,
    Formula,
    Member,
    Method,
    Number,
    Operation,
    Service,
    Statement,
    Text,
    Unary,
    Variable,
    print_formula,
    shape,
)
from millpond.autoscale.values import MEMBERS
from millpond.autoscale.variables import CONSTANTS, OPTIONS, SPELLINGS, Metric
from tests.unit.autoscale import published
from tests.unit.autoscale.support import NOW, history

SAMPLES = history({metric: [float(age % 7) for age in range(40)] for metric in list(Metric)[:18]})
INPUTS = Inputs(NOW, SAMPLES, 3, 4)

TOKENS = [
    *(spelling for spelling, _ in SPELLINGS.values()),
    *(name for name, _ in CONSTANTS.values()),
    *(f"{one.name}(" for one in FUNCTIONS.values()),
    *(f".{one.name}(" for one in METHODS.values()),
    *(f".{name}" for name in MEMBERS),
    *LEVELS,
    *OPTIONS,
    *("x", "$x", "y", "0", "1", "2.5", "1e308", "100", "'a'", '"2024-05-01"', "=", ";", "?", ":", "(", ")", ")", ","),
    *("// c\n", "\n", "!", "-", "x = ", "; $TargetDedicatedNodes = "),
]


def refusal_of(text: str) -> FormulaError | None:
    try:
        parse(text)
    except FormulaError as error:
        return error
    return None


def check(text: str) -> None:
    """Parse, print, evaluate and lint."""
    refused = refusal_of(text)
    if refused is not None:
        lines = re.split(r"\r\n?|\n", text)
        assert 1 <= refused.line <= len(lines)
        assert 1 <= refused.column <= len(lines[refused.line - 1]) + 1
        assert [one.rule for one in lint(text)] == ["syntax"]
        return
    formula = parse(text)
    printed = print_formula(formula)
    if len(printed) <= MAX_CHARACTERS:
        assert shape(parse(printed)) == shape(formula)
        assert print_formula(parse(printed)) == printed
    plain = evaluate(formula, INPUTS)
    traced = evaluate(formula, INPUTS, trace=True)
    assert (plain.results, plain.error, plain.windows) == (traced.results, traced.error, traced.windows)
    assert 0 <= plain.target_dedicated_nodes <= MAX_TARGET
    assert plain.results.startswith(f"$TargetDedicatedNodes={plain.target_dedicated_nodes};$TargetLowPriorityNodes=")
    if plain.error is not None:
        assert (plain.target_dedicated_nodes, plain.target_low_priority_nodes) == (3, 4)
    lint(text)
    lint(text, LintFacts(4, True))


@settings(deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=60).map(" ".join))
def test_random_tokens(text: str) -> None:
    check(text)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_random_text(text: str) -> None:
    check(text)


@settings(deadline=None)
@given(st.sampled_from(sorted(published.ALL)), st.data())
def test_published_formulas_with_a_piece_missing_or_another_in_its_place(name: str, data: st.DataObject) -> None:
    text = published.ALL[name]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    check(text[:start] + data.draw(st.sampled_from(["", *TOKENS])) + text[end:])


def _expressions() -> st.SearchStrategy[Expression]:
    numbers = st.one_of(st.integers(0, 100).map(float), st.floats(0, 1e308)).map(lambda value: Number(0, 0, value))
    quoted = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=8).filter(
        lambda text: text.isprintable() and not ("'" in text and '"' in text)
    )
    variables = st.sampled_from(["x", "$x", "requeue"]).map(lambda name: Variable(0, 0, name))
    services = st.sampled_from(sorted(SPELLINGS)).map(lambda key: Service(0, 0, *SPELLINGS[key]))
    constants = st.sampled_from(sorted(CONSTANTS)).map(lambda key: Constant(0, 0, *CONSTANTS[key]))
    sampled = services.filter(lambda node: node.variable.metric is not None)
    leaves = st.one_of(numbers, quoted.map(lambda text: Text(0, 0, text)), variables, services, constants)

    @st.composite
    def calls(draw: st.DrawFn, inner: st.SearchStrategy[Expression]) -> Expression:
        signature = draw(st.sampled_from(sorted(FUNCTIONS.values()) + sorted(METHODS.values())))
        arguments = draw(st.lists(inner, min_size=signature.least, max_size=min(signature.most, 4)).map(tuple))
        if signature.name.lower() in FUNCTIONS:
            return Call(0, 0, signature.name, arguments)
        return Method(0, 0, draw(st.one_of(sampled, variables)), signature.name, arguments)

    @st.composite
    def chains(draw: st.DrawFn, inner: st.SearchStrategy[Expression]) -> Expression:
        level = draw(st.integers(1, 6))
        operators = st.sampled_from([symbol for symbol, its in LEVELS.items() if its == level])
        rest = st.builds(Operation, st.just(0), operators, inner)
        return Chain(0, 0, draw(inner), draw(st.lists(rest, min_size=1, max_size=3).map(tuple)))

    def extend(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        zero = st.just(0)
        branches = st.lists(st.builds(Branch, inner, inner), min_size=1, max_size=3).map(tuple)
        return st.one_of(
            calls(inner),
            chains(inner),
            st.builds(Unary, zero, zero, st.sampled_from("-!"), inner),
            st.builds(Member, zero, zero, inner, st.sampled_from(MEMBERS)),
            st.builds(Choice, zero, zero, branches, inner),
        )

    return st.recursive(leaves, extend, max_leaves=25)


TARGETS = st.one_of(
    st.none(),
    st.sampled_from(["x", "$x"]).map(lambda name: Variable(0, 0, name)),
    st.sampled_from(["$targetdedicatednodes", "$targetlowpriority", "$nodedeallocationoption"]).map(
        lambda key: Service(0, 0, *SPELLINGS[key])
    ),
)


@settings(deadline=None)
@given(st.lists(st.builds(Statement, st.just(0), st.just(0), TARGETS, _expressions()), min_size=1, max_size=4))
def test_random_trees(statements: list[Statement]) -> None:
    formula = Formula("", tuple(statements), (0,))
    text = print_formula(formula)
    if len(text) <= MAX_CHARACTERS:
        assert shape(parse(text)) == shape(formula)
        check(text)


def _filled(pattern: str, *, before: str = "x = 1;", after: str = "") -> str:
    count = (MAX_CHARACTERS - len(before) - len(after) - 20) // len(pattern)
    return before + pattern * count + after


HOSTILE = {
    "parentheses": _filled("(", before="x = "),
    "signs": _filled("-", before="x = "),
    "ternaries": _filled("1?", before="x = "),
    "ternaries from the right": _filled("0?1:", before="x = ", after="2"),
    "additions": _filled("+1", before="x = 1"),
    "divisions": _filled("/y", before="y = 1; x = 1"),
    "logic": _filled("&&1", before="x = 1"),
    "members": _filled(".hour", before="x = time()"),
    "arguments": _filled(",1", before="x = max(1", after=")"),
    "calls": _filled("max(", before="x = "),
    "strings": "x = '" + "a" * 8000 + "'",
    "a long name": "x" * 8000 + " = 1",
    "a long unknown name": "y = " + "x" * 8000,
    "a long unknown function": "x" * 8000 + "(1)",
    "a long number": "x = " + "9" * 8000,
    "a long fraction": "x = 0." + "9" * 8000,
    "a comment": "x = 1 //" + "/" * 8000,
    "blanks": "x" + " " * 8000 + "= 1",
    "line ends": _filled("\r\n", after="x"),
    "open quotes": _filled("'"),
    "vectors that double": "x = $CPUPercent.GetSample(9); x = lg(x,x,x,x);" + "x = ln(x,x,x,x,x,x,x,x,x,x,x,x);" * 90,
    "numbers that grow": "x = 10;" + "x = x * x;" * 90,
    "times that grow": "x = TimeInterval_Year;" + "x = x * 1e200;" * 90,
    "every sample again and again": _filled("+sum($CPUPercent.GetSample(1e9))", before="x = 1"),
    "variables upon variables": "".join(f"v{n}=v{n - 1}+v{n - 1}*v{n - 1};" for n in range(1, 100)).replace("v0", "2"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_formulas(name: str) -> None:
    assert len(HOSTILE[name]) <= MAX_CHARACTERS
    check(HOSTILE[name])


def test_the_deepest_trees_do_not_exhaust_the_stack_of_a_caller_that_is_deep_itself() -> None:
    level = "(1||0&&1==1<1+1*-"
    text = "x = " + level * 18 + "1" + ")" * 18
    assert parse(text)

    def call(depth: int) -> None:
        if depth:
            call(depth - 1)
        else:
            check(text)

    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1
    call(max(0, 300 - used))
