"""The grammar: what binds how, what is refused and where, and the text of a tree again."""

import pytest

from millpond.autoscale.errors import FormulaErrorCode, FormulaSyntaxError, FormulaTooLong, refusal
from millpond.autoscale.lexer import MAX_CHARACTERS
from millpond.autoscale.parser import MAX_DEPTH, MAX_HEIGHT, MAX_STATEMENTS, parse
from millpond.autoscale.tree import Chain, Choice, print_expression, print_formula, shape
from tests.unit.autoscale import published


@pytest.mark.parametrize(
    ("text", "grouped"),
    [
        ("a - b + c", "a - b + c"),
        ("a - (b + c)", "a - (b + c)"),
        ("(a - b) + c", "(a - b) + c"),
        ("a + b * c", "a + b * c"),
        ("(a + b) * c", "(a + b) * c"),
        ("((a)) + (b * c)", "a + b * c"),
        ("a || b && c == d < e + f * -g", "a || b && c == d < e + f * -g"),
        ("(a || b) && c", "(a || b) && c"),
        ("-(a + b)", "-(a + b)"),
        ("!-a", "!-a"),
        ("-a.hour", "-a.hour"),
        ("(-a).hour", "(-a).hour"),
        ("(5).hour", "(5).hour"),
        ("a?b:c?d:e", "a ? b : c ? d : e"),
        ("a?b:(c?d:e)", "a ? b : (c ? d : e)"),
        ("a?b?c:d:e", "a ? (b ? c : d) : e"),
        ("(a?b:c)?d:e", "(a ? b : c) ? d : e"),
        ("$ACTIVETASKS.getsample(1)", "$ActiveTasks.GetSample(1)"),
        ("$targetdedicated + $targetDedicatedNodes", "$TargetDedicated + $TargetDedicatedNodes"),
        ("TIME().Hour * timeinterval_HOUR", "time().hour * TimeInterval_Hour"),
        ("Max(1, $X, x)", "max(1, $X, x)"),
        ("1. + .5 + 1e3 + 2.5E-3", "1 + 0.5 + 1000 + 0.0025"),
        ("1e300", "1e+300"),
        ("'a' == \"b\"", '"a" == "b"'),
        ("""'"' == "'" """, """'"' == "'\""""),
    ],
)
def test_trees(text: str, grouped: str) -> None:
    assert print_expression(parse(text).statements[0].value) == grouped
    assert shape(parse(grouped)) == shape(parse(text))


def test_operators_of_one_level_stand_in_one_chain() -> None:
    value = parse("a - b + c * d - e").statements[0].value
    assert isinstance(value, Chain)
    assert [one.operator for one in value.rest] == ["-", "+", "-"]


def test_a_chain_of_ternaries_is_one_choice() -> None:
    value = parse("a ? 1 : b ? 2 : c ? 3 : 4").statements[0].value
    assert isinstance(value, Choice)
    assert len(value.branches) == 3


def test_nodes_know_their_text() -> None:
    text = "x = (a + b) * c - max(1, 2) ;"
    value = parse(text).statements[0].value
    assert isinstance(value, Chain)
    assert text[value.start : value.end] == "(a + b) * c - max(1, 2)"
    assert text[value.first.start : value.first.end] == "(a + b) * c"
    assert text[value.rest[0].at] == "-"


@pytest.mark.parametrize("name", published.ALL)
def test_published_formulas_print_and_parse_to_the_same_tree(name: str) -> None:
    formula = parse(published.ALL[name])
    assert shape(parse(print_formula(formula))) == shape(formula)


def test_comments_blanks_and_line_ends() -> None:
    formula = parse("// first\r\n\tx = 1 // == $\n;\ry = // more\n 2;// end")
    assert print_formula(formula) == "x = 1;\ny = 2;\n"
    assert [formula.position(statement.start) for statement in formula.statements] == [(2, 2), (4, 1)]


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "empty"),
        (" // nothing\n", 2, 1, "empty"),
        (";", 1, 1, "Expected a statement"),
        ("a = 1;; b = 2", 1, 7, "Expected a statement"),
        ("a = 1\nb = 2", 2, 1, "Expected ';' or an operator after the statement, found 'b'"),
        ("a =", 1, 4, "Expected a value, found the end"),
        ("a = ;", 1, 5, "Expected a value, found ';'"),
        ("a = 1 +", 1, 8, "Expected a value"),
        ("a = * 2", 1, 5, "Expected a value, found '*'"),
        ("a = b = 2", 1, 7, "compare with '=='"),
        ("a = (b = 2)", 1, 8, "Expected ')'"),
        ("1 = 2", 1, 3, "Only a variable"),
        ("a = (1\n+ 2", 2, 4, "to close the '(' at line 1, column 5"),
        ("a = 1)", 1, 6, "no '('"),
        ("a = b ? 1", 1, 10, "Expected ':'"),
        ("a = b ? : 2", 1, 9, "Expected a value"),
        ("a = b : 2", 1, 7, "Expected ';'"),
        ("a = max(1,)", 1, 11, "Expected a value"),
        ("a = max(1 2)", 1, 11, "Expected ')'"),
        ("a = 5 % 2", 1, 7, "remainder"),
        ("a = b & c", 1, 7, "'&&'"),
        ("a = b | c", 1, 7, "'||'"),
        ("a = [1,2]", 1, 5, "not used in formulas"),
        ("a = $", 1, 5, "followed by a name"),
        ("# a", 1, 1, "begins with '//'"),
        ("a = 'b", 1, 5, "not closed"),
        ("a = 'b\n'", 1, 5, "not closed"),
        ("a = '\x00'", 1, 5, "cannot be printed"),
        ("a = \ud800", 1, 5, r"'\ud800' is not used"),
        ("a = \N{GREEK SMALL LETTER ALPHA}", 1, 5, r"'\u03b1' is not used"),
        ("a = 1e999", 1, 5, "too large"),
        ("a = 1.2.3", 1, 8, "Expected ';'"),
        ("a = time().", 1, 12, "Expected a name after '.'"),
        ("a = time().hours", 1, 12, "There is no member 'hours'. Is 'hour' meant?"),
        ("a = maxx(1)", 1, 5, "There is no function 'maxx'. Is 'max' meant?"),
        ("if (a) b", 1, 1, "choose with 'condition ? value : otherwise'"),
        ("a = max()", 1, 5, "here with no arguments"),
        ("a = val(1)", 1, 5, "val(doubleVec, index from 0), here with 1 arguments"),
        ("a = rand(1)", 1, 5, "rand()"),
        ("a = time(1, 2)", 1, 5, "time() or time(string)"),
        ("a = stop(1)", 1, 5, "stop()"),
        ("a = $ActiveTasks.GetSamples(1)", 1, 18, "Is 'GetSample' meant?"),
        ("a = $ActiveTasks.GetSample", 1, 27, "Expected '(' after GetSample"),
        ("a = $ActiveTasks.GetSample()", 1, 18, "GetSample(count)"),
        ("a = $ActiveTasks.GetSample(1,2,3,4)", 1, 18, "GetSample(count)"),
        ("a = $ActiveTasks.Count(1)", 1, 18, "Count()"),
        ("a = $TargetDedicatedNodes.GetSample(1)", 1, 5, "sampled variables"),
        ("a = max(1).GetSample(1)", 1, 5, "sampled variables"),
        ("$ActiveTasks = 1", 1, 1, "$ActiveTasks is read-only"),
        ("a = 1; $cpupercent = 1", 1, 8, "$CPUPercent is read-only"),
        ("$PendingTaskSlots = 1", 1, 1, "read-only"),
        ("TimeInterval_Minute = 1", 1, 1, "TimeInterval_Minute is read-only"),
    ],
)
def test_what_is_refused_and_where(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(FormulaSyntaxError) as caught:
        parse(text)
    assert words in caught.value.detail
    assert (caught.value.line, caught.value.column) == (line, column)
    assert caught.value.code is FormulaErrorCode.SYNTAX_ERROR


def test_a_refusal_for_the_api() -> None:
    with pytest.raises(FormulaSyntaxError) as caught:
        parse("a = 1\nb = 2")
    answer = refusal(caught.value)
    assert (answer.status, answer.code.value) == (400, "AutoScalingFormulaSyntaxError")
    assert answer.values["Message"].startswith("Line 2, Col 1: Expected ';'")


def test_the_longest_formula() -> None:
    text = "a = 1;" + " " * (MAX_CHARACTERS - 6)
    assert len(parse(text).statements) == 1
    with pytest.raises(FormulaTooLong) as caught:
        parse(text + " ")
    assert refusal(caught.value).code.value == "AutoScaleFormulaTooLong"


def test_the_most_statements() -> None:
    assert len(parse("a=1;" * MAX_STATEMENTS).statements) == MAX_STATEMENTS
    with pytest.raises(FormulaSyntaxError) as caught:
        parse("a=1;" * (MAX_STATEMENTS + 1))
    assert (caught.value.line, caught.value.column) == (1, 4 * MAX_STATEMENTS + 1)


@pytest.mark.parametrize(
    ("opening", "closing"), [("(", ")"), ("max(", ")"), ("-", ""), ("!", ""), ("a?", ":1"), ("b*(1+", ")")]
)
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    def text(depth: int) -> str:
        return "x = " + opening * depth + "a" + closing * depth

    most = MAX_DEPTH if opening != "b*(1+" else MAX_HEIGHT // 2 - 1
    parse(text(most))
    with pytest.raises(FormulaSyntaxError, match="nested deeper"):
        parse(text(most + 1))


def test_members_of_members_are_bounded() -> None:
    with pytest.raises(FormulaSyntaxError, match="nested deeper"):
        parse("x = a" + ".hour" * (MAX_HEIGHT + 1))


def test_long_chains_are_not_deep() -> None:
    assert parse("x = 1" + "+1" * 4000)
    assert parse("x = " + "a?1:" * 2000 + "0")
