"""The `$filter`, `$select` and `$expand` grammars."""

import pytest

from millpond.odata import properties
from millpond.odata.errors import FilterError, SelectError
from millpond.odata.filters import And, Comparison, Operator, Or, StartsWith
from millpond.odata.parse import MAX_DEPTH, MAX_LENGTH, MAX_TESTS, parse_date_time, parse_filter
from millpond.odata.select import parse_expand, parse_select

STATE = Comparison("state", Operator.EQ, "active")
EXIT = Comparison("executionInfo/exitCode", Operator.GT, 1)
PREFIX = StartsWith("id", "t")


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("state eq 'active'", STATE),
        ("  state\teq\n'active' ", STATE),
        ("((state eq 'active'))", STATE),
        ("startswith(id,'t')", PREFIX),
        ("startswith ( id , 't' )", PREFIX),
        ("state eq 'active' and startswith(id,'t')", And((STATE, PREFIX))),
        ("state eq 'active' or executionInfo/exitCode gt 1 and startswith(id,'t')", Or((STATE, And((EXIT, PREFIX))))),
        ("(state eq 'active' or executionInfo/exitCode gt 1) and startswith(id,'t')", And((Or((STATE, EXIT)), PREFIX))),
        ("id ne 'it''s'", Comparison("id", Operator.NE, "it's")),
        ("id eq ''", Comparison("id", Operator.EQ, "")),
        ("id eq ''''", Comparison("id", Operator.EQ, "'")),
        ("executionInfo/exitCode le -12", Comparison("executionInfo/exitCode", Operator.LE, -12)),
        ("lastModifiedTime ge DateTime'1970-01-01'", Comparison("lastModified", Operator.GE, 0.0)),
        ("creationTime lt dAtEtImE'1970-01-01T00:00:01Z'", Comparison("creationTime", Operator.LT, 1.0)),
        (
            "creationTime lt datetime'Sun, 08 May 2011 08:49:37 GMT'",
            Comparison("creationTime", Operator.LT, 1304844577.0),
        ),
        ("creationTime lt 2011-05-08T08:49:37.5Z", Comparison("creationTime", Operator.LT, 1304844577.5)),
        ("(creationTime lt 2011-05-08T10:49:37+02:00)", Comparison("creationTime", Operator.LT, 1304844577.0)),
        ("creationTime eq 1970-01-01", Comparison("creationTime", Operator.EQ, 0.0)),
        ("executionInfo/exitCode eq null", Comparison("executionInfo/exitCode", Operator.EQ, None)),
        ("executionInfo/result ne null", Comparison("executionInfo/result", Operator.NE, None)),
        ("state eq 'active' AND startswith(id,'t')", And((STATE, PREFIX))),
        ("state eq 'active' OR startswith(id,'t')", Or((STATE, PREFIX))),
    ],
)
def test_filters_of_tasks(text, condition):
    parsed = parse_filter(text, properties.TASKS)
    assert parsed.condition == condition
    assert parsed.text == text


def test_booleans():
    parsed = parse_filter("enableAutoScale eq true and enableInterNodeCommunication ne false", properties.POOLS)
    assert parsed.condition == And(
        (
            Comparison("enableAutoScale", Operator.EQ, True),
            Comparison("enableInterNodeCommunication", Operator.NE, False),
        )
    )


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 0, "empty"),
        ("   ", 3, "empty"),
        ("State eq 'active'", 0, "cannot be filtered"),
        ("url eq 'x'", 0, "these can: creationTime"),
        ("state", 5, "Expected one of eq"),
        ("state gt 'active'", 6, "only with: eq, ne"),
        ("state like 'active'", 6, "found 'like'"),
        ("state EQ 'active'", 6, "found 'EQ'"),
        ("state eq", 8, "compared with a string"),
        ("state eq active", 9, "found 'active'"),
        ("state eq 1", 9, "compared with a string"),
        ("id gt null", 6, "ordered against null"),
        ("startTaskInfo/state eq null", 0, "cannot be filtered"),
        ("id eq NULL", 6, "compared with a string"),
        ("null eq null", 0, "Expected a property name"),
        ("startswith(id,null)", 14, "Expected a string"),
        ("state eq 'active' And state eq 'active'", 18, "Expected 'and'"),
        ("AND", 0, "Expected a property name"),
        ("state eq 2020-01-01", 9, "compared with a string"),
        ("executionInfo/exitCode eq 2020-01-01", 26, "compared with an integer"),
        ("creationTime gt 2020-13-01", 16, "not a date-time"),
        ("creationTime gt 2020-01-01T", 16, "not a date-time"),
        ("creationTime gt 2020-01-01Tx", 16, "Cannot read"),
        ("creationTime gt 2020", 16, "compared with a date-time"),
        ("state eq DateTime'2020-01-01'", 9, "compared with a string"),
        ("state eq 'active", 9, "not closed"),
        ("state eq 'active''", 9, "not closed"),
        ("state eq '\0'", 9, "no text can hold"),
        ("state eq '\udc80'", 9, "no text can hold"),
        ("'active' eq state", 0, "Expected a property name"),
        ("not state eq 'active'", 0, "'not' is not supported"),
        ("(state eq 'active'", 18, "Expected ')'"),
        ("state eq 'active')", 17, "Expected 'and', 'or' or the end"),
        ("state eq 'active' state eq 'active'", 18, "Expected 'and'"),
        ("state eq 'active' and", 21, "Expected a property name"),
        ("and", 0, "Expected a property name"),
        ("startswith(state,'a')", 11, "cannot be used with 'startswith'"),
        ("startswith(id 'a')", 14, "Expected ','"),
        ("startswith(id,a)", 14, "Expected a string"),
        ("startswith(id,'a') eq true", 19, "Expected 'and'"),
        ("endswith(id,'a')", 0, "only one"),
        ("startswith(,'a')", 11, "first argument"),
        ("executionInfo/exitCode eq '1'", 26, "compared with an integer"),
        ("executionInfo/exitCode eq 1.5", 26, "Cannot read"),
        ("executionInfo/exitCode eq 9223372036854775808", 26, "out of range"),
        ("executionInfo/exitCode eq " + "9" * 5000, 26, "out of range"),
        ("executionInfo /exitCode eq 1", 14, "Cannot read"),
        ("creationTime gt '2020-01-01'", 16, "compared with a date-time"),
        ("creationTime gt DateTime'yesterday'", 16, "not a date-time"),
        ("creationTime gt DateTime'2020-13-01'", 16, "not a date-time"),
        ("creationTime gt DateTime'Sun, 08 Mai 2011 08:49:37 GMT'", 16, "not a date-time"),
        ("id eq 'a' & id eq 'b'", 10, "Cannot read"),
        ("id eq 'é' and \u2028", 14, "Cannot read"),
    ],
)
def test_what_is_not_a_filter_is_refused_with_the_place(text, position, words):
    with pytest.raises(FilterError) as caught:
        parse_filter(text, properties.TASKS)
    assert words in caught.value.message
    assert caught.value.position == position


def test_equality_only_properties():
    assert parse_filter("poolId eq 'p'", properties.NODE_COUNTS).condition == Comparison("poolId", Operator.EQ, "p")
    with pytest.raises(FilterError, match="only with: eq"):
        parse_filter("poolId ne 'p'", properties.NODE_COUNTS)
    with pytest.raises(FilterError, match="only with: startswith"):
        parse_filter("name eq 'stdout.txt'", properties.FILES)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2011-05-08", 1304812800.0),
        ("2011-05-08T08:49Z", 1304844540.0),
        ("2011-05-08T08:49:37Z", 1304844577.0),
        ("2011-05-08T08:49:37", 1304844577.0),
        ("2011-05-08T10:49:37+02:00", 1304844577.0),
        ("2011-05-08T03:19:37-05:30", 1304844577.0),
        ("2011-05-08T08:49:37.1234567Z", 1304844577.123456),
        ("2011-05-08T08:49:37.5Z", 1304844577.5),
        ("Sun, 08 May 2011 08:49:37 GMT", 1304844577.0),
    ],
)
def test_date_times(text, seconds):
    assert parse_date_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "2011-05-08T25:00:00Z",
        "2011-02-30",
        "2011-W18-7",
        "20110508",
        "2011-05-08T08:49:37+99:00",
        "0000-01-01",
        "Sun, 8 May 11 08:49:37 GMT",
        "Sun, 31 Feb 2011 08:49:37 GMT",
        "",
    ],
)
def test_what_is_not_a_date_time(text):
    with pytest.raises(ValueError, match=r"."):
        parse_date_time(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000,
        "(" * (MAX_DEPTH + 1) + "state eq 'a'" + ")" * (MAX_DEPTH + 1),
        " or ".join(["id eq 'a'"] * (MAX_TESTS + 1)),
        "id eq '" + "''" * 4000,
        "id eq '" + "a" * MAX_LENGTH + "'",
        "a/" * 4000,
        "x" * (MAX_LENGTH * 100),
    ],
)
def test_hostile_filters_are_refused_at_once(text):
    with pytest.raises(FilterError):
        parse_filter(text, properties.TASKS)


def test_the_largest_allowed_filters_are_read():
    deep = "(" * MAX_DEPTH + "state eq 'active'" + ")" * MAX_DEPTH
    assert parse_filter(deep, properties.TASKS).condition == STATE
    wide = parse_filter(" or ".join(["id eq 'a'"] * MAX_TESTS), properties.TASKS)
    assert isinstance(wide.condition, Or)
    assert len(wide.condition.parts) == MAX_TESTS


def test_select():
    names = {"id", "state", "executionInfo"}
    assert parse_select("id,state", names) == {"id", "state"}
    assert parse_select("id, executionInfo ,id", names) == {"id", "executionInfo"}


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("id,", 3),
        (",id", 0),
        ("id, State", 4),
        ("executionInfo/exitCode", 0),
        ("*", 0),
        ("id," * 5000, 4096),
    ],
)
def test_select_of_unknown_names(text, position):
    with pytest.raises(SelectError) as caught:
        parse_select(text, {"id", "state", "executionInfo"})
    assert caught.value.position == position


def test_expand():
    assert parse_expand("stats") == {"stats"}
    with pytest.raises(SelectError, match="one of: stats"):
        parse_expand("tasks")
