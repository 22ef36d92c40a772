"""Types, operators, functions, targets, results, records: one table for each."""

import pytest

from millpond.autoscale.errors import FormulaErrorCode
from millpond.autoscale.evaluate import LONG_VECTOR, MAX_TARGET, Inputs, evaluate
from millpond.autoscale.parser import parse
from millpond.autoscale.record import NamedValue, Warned
from millpond.autoscale.samples import History
from millpond.autoscale.variables import CONSTANTS, SERVICE_VARIABLES, Metric
from millpond.domain.states import NodeDeallocationOption
from tests.unit.autoscale.support import NOW, run, value

M = Metric
V = {M.ACTIVE_TASKS: [3, 1, 2], M.RUNNING_TASKS: [10, 20, 30], M.FAILED_TASKS: [1, 2]}
"""Vectors: `A` is [3,1,2], `R` [10,20,30], `F` [1,2]; `E` is empty."""
FAILED = "AutoScalingFormulaEvaluationError"


def spelled(expression: str) -> str:
    letters = {"A": "$ActiveTasks", "R": "$RunningTasks", "F": "$FailedTasks", "E": "$SucceededTasks"}
    for letter, name in letters.items():
        expression = expression.replace(f"<{letter}>", f"{name}.GetSample(9)")
    return expression


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # double and double
        ("1 + 2", "3"),
        ("1 - 2", "-1"),
        ("3 * 4", "12"),
        ("1 / 4", "0.25"),
        ("7 - 2 - 1", "4"),
        ("8 / 4 / 2", "1"),
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("-2 * -3", "6"),
        ("--2", "2"),
        ("!0", "1"),
        ("!0.5", "0"),
        ("!!7", "1"),
        ("1 < 2", "1"),
        ("2 < 1", "0"),
        ("2 <= 2", "1"),
        ("1 == 1", "1"),
        ("1 != 1", "0"),
        ("2 >= 3", "0"),
        ("3 > 2", "1"),
        ("3 > 2 == 1", "1"),
        ("2 && 3", "1"),
        ("2 && 0", "0"),
        ("0 || 0", "0"),
        ("0 || 5", "1"),
        ("1 || 0 && 0", "1"),
        ("0 && nothing", "0"),
        ("1 || nothing", "1"),
        ("1 ? 2 : nothing", "2"),
        ("0 ? nothing : 3", "3"),
        ("0 ? 1 : 0 ? 2 : 3", "3"),
        ("0.1 ? 1 : 2", "1"),
        # doubleVec
        ("<A> + 1", "[4,2,3]"),
        ("1 - <A>", "[-2,0,-1]"),
        ("<A> * 2", "[6,2,4]"),
        ("6 / <A>", "[2,6,3]"),
        ("<R> / <A>", "[3.3333333333333335,20,15]"),
        ("<A> - <A>", "[0,0,0]"),
        ("<E> * 2", "[]"),
        ("<E> + <E>", "[]"),
        # timeinterval
        ("TimeInterval_Minute * 2", "00:02:00"),
        ("2.5 * TimeInterval_Minute", "00:02:30"),
        ("-1 * TimeInterval_Hour", "-01:00:00"),
        ("-TimeInterval_Hour", "-01:00:00"),
        ("TimeInterval_Hour / 4", "00:15:00"),
        ("TimeInterval_Hour + TimeInterval_Minute", "01:01:00"),
        ("TimeInterval_Hour - TimeInterval_Minute", "00:59:00"),
        ("TimeInterval_Hour > 59 * TimeInterval_Minute", "1"),
        ("TimeInterval_Second == 1000 * TimeInterval_Millisecond", "1"),
        # timestamp
        ("time()", "2024-05-01T12:00:00.000Z"),
        ("time() + TimeInterval_Hour", "2024-05-01T13:00:00.000Z"),
        ("TimeInterval_Hour + time()", "2024-05-01T13:00:00.000Z"),
        ("time() + (-6 * TimeInterval_Hour)", "2024-05-01T06:00:00.000Z"),
        ("time() - TimeInterval_Day", "2024-04-30T12:00:00.000Z"),
        ('time() - time("2024-05-01T10:30:00Z")', "01:30:00"),
        ('time("2024-05-01") < time()', "1"),
        ("time() == time()", "1"),
        ("time().weekday", "3"),
        ("time().HOUR", "12"),
        ("(time() + 13 * TimeInterval_Hour).day", "2"),
        # string and option
        ('"a" < "b"', "1"),
        ("'a' == \"a\"", "1"),
        ("'a;b'", "a;b"),
        ("requeue", "requeue"),
        ("TaskCompletion", "taskcompletion"),
        ("terminate == terminate", "1"),
        ("terminate != $NodeDeallocationOption", "1"),
        # functions
        ("avg(1, 2, 6)", "3"),
        ("avg(<A>)", "2"),
        ("avg(<A>, 6)", "3"),
        ("avg(6, <A>, <F>)", "2.5"),
        ("len(<A>, 1, <R>)", "7"),
        ("len(<E>)", "0"),
        ("len(5)", "1"),
        ("lg(8)", "3"),
        ("ln(1)", "0"),
        ("log(1000)", "3"),
        ("lg(8, 2)", "[3,1]"),
        ("log(<R> * 0 + 10)", "[1,1,1]"),
        ("lg(<E>)", "[]"),
        ("max(<A>, 2.5)", "3"),
        ("min(25, <E>)", "25"),
        ("min(<R>)", "10"),
        ("sum(<A>, 4)", "10"),
        ("sum(<E>)", "0"),
        ("range(<R>, 5)", "25"),
        ("norm(3, 4)", "5"),
        ("percentile(<A>, 50)", "2"),
        ("percentile(<R>, 25)", "15"),
        ("percentile(<R>, 0)", "10"),
        ("percentile(<R>, 100)", "30"),
        ("std(2, 4, 4, 4, 5, 5, 7, 9)", "2.138089935299395"),
        ("std(3)", "0"),
        ("val(<R>, 0)", "10"),
        ("val(<R>, 2.9)", "30"),
        ("ceil(1.2)", "2"),
        ("ceil(-1.2)", "-1"),
        ("floor(1.8)", "1"),
        ("floor(-1.2)", "-2"),
        ("round(1.4)", "1"),
        ("round(2.5)", "2"),
        ("round(3.5)", "4"),
        ("rand() >= 0 && rand() < 1", "1"),
        ("rand() == rand()", "0"),
    ],
)
def test_values(expression: str, expected: str) -> None:
    assert value(spelled(expression), V) == expected


@pytest.mark.parametrize(
    ("expression", "column", "words"),
    [
        ("1 / 0", 7, "Division by zero"),
        ("<A> / 0", 31, "Division by zero"),
        ("1 / (<A> - 1)", 7, "Division by zero"),
        ("TimeInterval_Hour / 0", 23, "Division by zero"),
        ("1e308 * 10", 11, "The result is too large"),
        ("<A> * 1e308", 31, "The result is too large"),
        ("sum(1e308, 1e308)", 5, "sum: the result is too large"),
        ("avg(1e308, 1e308)", 5, "avg: the result is too large"),
        ("range(1e308, -1e308)", 5, "range: the result is too large"),
        ("TimeInterval_Year * 1e300", 23, "too l"),
        ("TimeInterval_Year * 1e9", 23, "The timeinterval is too long"),
        ("time() + TimeInterval_Year * 9000", 12, "outside of the years 1 to 9999"),
        ("time() + TimeInterval_Year * -3000", 12, "outside of the years 1 to 9999"),
        ("<A> + <F>", 31, "The doubleVecs have 3 and 2 elements"),
        ("<A> < 3", 31, "'<' does not go with a doubleVec and a double; make one number"),
        ("1 + 'a'", 7, "'+' does not go with a double and a string"),
        ("'a' + 'b'", 9, "'+' does not go with a string and a string"),
        ("'a' < 1", 9, "a string and a double"),
        ("time() + time()", 12, "a timestamp and a timestamp"),
        ("time() + 1", 12, "a timestamp and a double"),
        ("time() * 2", 12, "a timestamp and a double"),
        ("1 - TimeInterval_Hour", 7, "a double and a timeinterval"),
        ("1 / TimeInterval_Hour", 7, "a double and a timeinterval"),
        ("TimeInterval_Hour / TimeInterval_Minute", 23, "a timeinterval and a timeinterval"),
        ("TimeInterval_Hour * TimeInterval_Minute", 23, "a timeinterval and a timeinterval"),
        ("time() < TimeInterval_Hour", 12, "a timestamp and a timeinterval"),
        ("requeue < terminate", 13, "deallocation option"),
        ("-'a'", 5, "'-' does not go with the string a"),
        ("-time()", 5, "'-' does not go with the timestamp"),
        ("-<A>", 5, "multiply it by -1"),
        ("!TimeInterval_Hour", 5, "'!' does not go with the timeinterval 01:00:00"),
        ("1 && 'a'", 10, "An operand of '&&' is a double, not the string a"),
        ("<A> || 1", 5, "An operand of '||' is a double, not the doubleVec [3,1,2]"),
        ("time() ? 1 : 2", 5, "The condition before '?' is a double, not the timestamp"),
        ("<A> ? 1 : 2", 5, "make one number of it with avg, max or val"),
        ("(5).hour", 6, "Only a timestamp has the member hour, not the double 5"),
        ("time().hour.hour", 5, "Only a timestamp has the member hour"),
        ("avg(<E>)", 5, "avg: there are no values"),
        ("max(<E>)", 5, "max: there are no values"),
        ("min(<E>, <E>)", 5, "min: there are no values"),
        ("std(<E>)", 5, "std: there are no values"),
        ("range(<E>)", 5, "range: there are no values"),
        ("norm(<E>)", 5, "norm: there are no values"),
        ("percentile(<E>, 50)", 5, "percentile: the doubleVec is empty"),
        ("percentile(<A>, 101)", 5, "percentile: the second argument is from 0 to 100"),
        ("percentile(3, 50)", 16, "The first argument of percentile is a doubleVec, not the double 3"),
        ("percentile(<A>, 'a')", 43, "The second argument of percentile is a double"),
        ("val(<A>, 3)", 5, "val: there is no element 3 in a doubleVec of 3"),
        ("val(<A>, -1)", 5, "val: there is no element -1"),
        ("val(<E>, 0)", 5, "val: there is no element 0 in a doubleVec of 0"),
        ("val(1, 0)", 9, "The first argument of val is a doubleVec"),
        ("max(1, 'a')", 12, "The arguments of max are doubles and doubleVecs, not the string a"),
        ("max(time())", 9, "not the timestamp"),
        ("ln(0)", 5, "ln: only of positive numbers"),
        ("lg(-1)", 5, "lg: only of positive numbers"),
        ("log(<A> - 1)", 5, "log: only of positive numbers"),
        ("ceil(<A>)", 10, "The argument of ceil is a double"),
        ("time(5)", 10, "The argument of time is a string, not the double 5"),
        ("time('soon')", 10, "'soon' is not a time such as"),
        ("nothing", 5, "The variable nothing has no value"),
        ("$nothing", 5, "The variable $nothing has no value"),
        ("x", 5, "The variable x has no value"),
        ("TimeInterval_Fortnight", 5, "The variable TimeInterval_Fortnight has no value"),
        ("$Nothing.GetSample(1)", 5, "There is no sampled variable $Nothing"),
    ],
)
def test_evaluation_errors_and_where(expression: str, column: int, words: str) -> None:
    said = value(spelled(expression), V)
    assert said.startswith(f"{FAILED} Line 1, Col {column}: ")
    assert words in said


def test_constants() -> None:
    assert {name: value(name) for name, _ in CONSTANTS.values()} == {
        "TimeInterval_Zero": "00:00:00",
        "TimeInterval_100ns": "00:00:00.0000001",
        "TimeInterval_Microsecond": "00:00:00.0000010",
        "TimeInterval_Millisecond": "00:00:00.0010000",
        "TimeInterval_Second": "00:00:01",
        "TimeInterval_Minute": "00:01:00",
        "TimeInterval_Hour": "01:00:00",
        "TimeInterval_Day": "1.00:00:00",
        "TimeInterval_Week": "7.00:00:00",
        "TimeInterval_Year": "365.00:00:00",
    }


# Variables


@pytest.mark.parametrize("variable", [one for one in SERVICE_VARIABLES if one.metric], ids=lambda one: str(one.name))
def test_every_sampled_variable_is_a_number_by_all_its_names(variable) -> None:
    for name in (variable.name, *variable.aliases, variable.name.upper(), variable.name.lower()):
        assert value(f"{name} + 1", {variable.metric: [4]}) == "5"
        assert value(f"len({name}.GetSample(3))", {variable.metric: [4, 5]}) == "2"


def test_a_value_known_now_comes_before_the_newest_sample() -> None:
    assert value("$ActiveTasks", {M.ACTIVE_TASKS: [4]}, current={M.ACTIVE_TASKS: 9}) == "9"


def test_a_bare_variable_without_a_sample() -> None:
    said = value("1 + $ActiveTasks")
    assert (
        said
        == "InsufficientSampleData Line 1, Col 9: Insufficient data from data set: $ActiveTasks wanted 1 sample, received 0"
    )


def test_names_with_and_without_a_dollar_are_two_and_case_matters() -> None:
    assert run("x = 1; $x = 2; X = 3").results.endswith("requeue;$x=2;X=3;x=1")
    done = run("$x = 1; y = x")
    assert done.error is not None
    assert "two variables" in done.error.detail


def test_a_variable_hides_a_word() -> None:
    assert run("terminate = 5; y = terminate").results.endswith(";terminate=5;y=5")


def test_a_variable_may_be_assigned_again_and_to_another_type() -> None:
    assert run("x = 1; x = x + 1; y = x; x = 'a'").results.endswith(";x=a;y=2")


def test_methods_are_for_service_variables() -> None:
    done = run("x = 1; y = x.Count()")
    assert done.error is not None
    assert (done.error.column, "x has no samples" in done.error.detail) == (12, True)


# Targets


@pytest.mark.parametrize(
    ("assigned", "target"),
    [("2.9", 2), ("2.9999999996", 3), ("2.99999999", 2), ("0.7", 0), ("-0.7", 0), ("3", 3), ("5 > 4", 1)],
)
def test_fractions_are_cut(assigned: str, target: int) -> None:
    done = run(f"$TargetLowPriorityNodes = {assigned}", dedicated=7, low_priority=8)
    assert (done.target_dedicated_nodes, done.target_low_priority_nodes) == (7, target)
    assert done.warnings == ()


@pytest.mark.parametrize(("assigned", "target"), [("-1", 0), ("-1e300", 0), ("1e300", MAX_TARGET)])
def test_targets_out_of_range_are_clamped_with_a_warning(assigned: str, target: int) -> None:
    done = run(f"x = 1;\n$TargetDedicatedNodes = {assigned}")
    assert done.target_dedicated_nodes == target
    assert done.results.startswith(f"$TargetDedicatedNodes={target};")
    assert [(one.line, one.column) for one in done.warnings] == [(2, 25)]
    assert f"it is {target}." in done.warnings[0].message


def test_a_target_reads_as_last_assigned_or_else_as_the_pools() -> None:
    text = "a = $TargetDedicatedNodes; $TargetDedicatedNodes = a + 1; b = $targetdedicated; c = $TargetLowPriority"
    done = run(text, dedicated=4, low_priority=9)
    assert done.results.endswith(";a=4;b=5;c=9")
    assert (done.target_dedicated_nodes, done.target_low_priority_nodes) == (5, 9)


@pytest.mark.parametrize(
    "text",
    [
        "$TargetDedicated = 1; $TargetDedicatedNodes = 2",
        "$TargetDedicatedNodes = 2; $TargetDedicated = 1",
        "$targetdedicatednodes = 2",
    ],
)
def test_the_full_name_counts_more_than_the_alias(text: str) -> None:
    assert run(text).target_dedicated_nodes == 2


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("$TargetDedicatedNodes = 'five'", 25, "$TargetDedicatedNodes is a number, not the string five"),
        ("$TargetDedicatedNodes = $FailedTasks.GetSample(2)", 25, "make one number of it with avg, max or val"),
        ("$TargetLowPriority = time()", 22, "$TargetLowPriority is a number, not the timestamp"),
        ("$NodeDeallocationOption = 1", 27, "is one of requeue, terminate, taskcompletion, retaineddata"),
        ("$NodeDeallocationOption = 'requeue'", 27, "without quotes"),
        ("x = time(requeue)", 10, "not the deallocation option requeue"),
        ("$NodeDeallocationOption = never", 27, "The variable never has no value"),
    ],
)
def test_what_a_service_variable_does_not_take(text: str, column: int, words: str) -> None:
    done = run(text, V, dedicated=3)
    assert done.error is not None
    assert (done.error.code, done.error.column) == (FormulaErrorCode.EVALUATION_ERROR, column)
    assert words in done.error.detail
    assert done.target_dedicated_nodes == 3


@pytest.mark.parametrize("option", NodeDeallocationOption)
def test_deallocation_options(option: NodeDeallocationOption) -> None:
    done = run(f"$nodedeallocationoption = 1 > 2 ? requeue : {option.value.upper()}")
    assert done.node_deallocation_option is option
    assert done.results == (f"$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption={option.value}")


def test_stop_keeps_what_was_set_before_it() -> None:
    done = run("$TargetDedicatedNodes = 3; x = 1 ? stop() : 2; $TargetDedicatedNodes = 9")
    assert done.stopped
    assert done.error is None
    assert done.results == "$TargetDedicatedNodes=3;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"


# Records


def test_the_record_of_a_run_that_fails() -> None:
    done = run("a = 1;\n$TargetDedicatedNodes = 50;\n$NodeDeallocationOption = terminate;\nb = a / 0;", dedicated=6)
    assert done.error is not None
    assert done.error.message == "An error occurred while evaluating the autoscale formula."
    assert done.error.values == (("Message", "Line 4, Col 7: Division by zero."),)
    assert (done.target_dedicated_nodes, done.node_deallocation_option.value) == (6, "requeue")
    assert done.results == "$TargetDedicatedNodes=6;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
    assert done.variables == (NamedValue("a", "double", "1", 1.0),)


def test_variables_in_the_record_have_types() -> None:
    done = run("a = 1; b = 'x'; c = time(); d = TimeInterval_Hour; e = $FailedTasks.GetSample(5); f = terminate", V)
    assert [(one.name, one.type, one.number) for one in done.variables] == [
        ("a", "double", 1.0),
        ("b", "string", None),
        ("c", "timestamp", None),
        ("d", "timeinterval", None),
        ("e", "doubleVec", None),
        ("f", "deallocation option", None),
    ]


def test_results_that_grow_too_long_are_cut_short() -> None:
    many = {M.ACTIVE_TASKS: [1.5] * 20_000}
    assert run("x = $ActiveTasks.GetSample(10000)", many).results.count("1.5") == 10_000
    done = run("x = $ActiveTasks.GetSample(20000)", many)
    assert done.results.count("1.5") == LONG_VECTOR
    assert done.results.endswith("1.5,… 20000 in all]")
    assert done.warnings == (Warned("The results are too long to print; doubleVecs in them are cut short.", 0, 0),)


def test_a_trace_has_every_statement_and_the_values_inside() -> None:
    text = "a = 1 + 2 * 3;\nb = a > 5 ? max(a, $ActiveTasks) : nothing;\nc = b / 0;\nd = 1"
    done = run(text, V, trace=True)
    assert [(one.target, one.type, one.text, one.line, one.column) for one in done.trace] == [
        ("a", "double", "7", 1, 1),
        ("b", "double", "7", 2, 1),
        ("c", None, None, 3, 1),
    ]
    steps = [(text[one.start : one.end], one.text, one.depth) for one in done.trace[1].steps]
    assert steps == [
        ("a", "7", 2),
        ("a > 5", "1", 1),
        ("a", "7", 2),
        ("$ActiveTasks", "3", 2),
        ("max(a, $ActiveTasks)", "7", 1),
        ("a > 5 ? max(a, $ActiveTasks) : nothing", "7", 0),
    ]
    assert [text[one.start : one.end] for one in done.trace[2].steps] == ["b"]
    plain = run(text, V)
    assert plain.trace == ()
    assert (plain.results, plain.error, plain.windows) == (done.results, done.error, done.windows)


def test_an_evaluation_can_be_repeated() -> None:
    formula = parse("x = rand(); y = rand()")
    first, again, other = (evaluate(formula, Inputs(NOW, History(), seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first.results != other.results
    assert evaluate(formula, Inputs(NOW + 1, History(), seed=1)).results != first.results


def test_work_is_bounded() -> None:
    many = {M.ACTIVE_TASKS: [1.5] * 20_000}
    done = run("x = $ActiveTasks.GetSample(20000);" + "x = lg(x, x, x, x, x, x) + 1;" * 50, many)
    assert done.error is not None
    assert "too much work" in done.error.detail
