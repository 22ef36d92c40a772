"""The SQL of a filter selects the rows that `evaluate.matches` holds for."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.odata.evaluate import matches
from millpond.odata.filters import And, Comparison, Filter, Operator, Or, StartsWith
from millpond.odata.parse import parse_filter
from millpond.odata.properties import TASKS
from millpond.odata.sql import Column, to_sql

COLUMNS = {
    "text": Column("text"),
    "key": Column("key", folded=True),
    "number": Column("number"),
    "time": Column("time"),
    "flag": Column("flag"),
}
# Few characters, chosen to collide: both cases, what lies between them, ends of ranges, what only Unicode folds.
TEXTS = st.text(st.sampled_from("aAbBzZ_[`1%'\u00e9\u00c9\u0131\ud7ff\ue000\U0010ffff"), max_size=4)
NUMBERS = st.sampled_from([-(2**63) + 1, -1, 0, 1, 2, 2**63 - 1])
TIMES = st.sampled_from([0.0, 1.5, 1304844577.123456, 1304844577.123457, -1.0])
ROWS = st.fixed_dictionaries(
    {
        "text": st.none() | TEXTS,
        "key": st.none() | TEXTS.map(lambda text: text.encode().lower().decode()),
        "number": st.none() | NUMBERS,
        "time": st.none() | TIMES,
        "flag": st.none() | st.booleans(),
    }
)
OPERATORS = st.sampled_from(Operator)
TESTS = st.one_of(
    st.builds(Comparison, st.sampled_from(["text", "key"]), OPERATORS, TEXTS),
    st.builds(StartsWith, st.sampled_from(["text", "key"]), TEXTS),
    st.builds(Comparison, st.just("number"), OPERATORS, NUMBERS),
    st.builds(Comparison, st.just("time"), OPERATORS, TIMES),
    st.builds(Comparison, st.just("flag"), OPERATORS, st.booleans()),
    st.builds(Comparison, st.sampled_from(list(COLUMNS)), st.sampled_from([Operator.EQ, Operator.NE]), st.none()),
)


def _groups(inner):
    parts = st.lists(inner, min_size=2, max_size=4).map(tuple)
    return st.builds(And, parts) | st.builds(Or, parts)


CONDITIONS = st.recursive(TESTS, _groups, max_leaves=12)


def _selected(rows, where):
    database = sqlite3.connect(":memory:")
    try:
        database.execute("CREATE TABLE row (no INTEGER PRIMARY KEY, text, key, number, time, flag)")
        database.executemany(
            "INSERT INTO row VALUES (:no, :text, :key, :number, :time, :flag)",
            [{"no": number, **row} for number, row in enumerate(rows)],
        )
        condition, parameters = to_sql(where, COLUMNS)
        return [no for (no,) in database.execute(f"SELECT no FROM row WHERE {condition} ORDER BY no", parameters)]
    finally:
        database.close()


@given(rows=st.lists(ROWS, max_size=8), condition=CONDITIONS)
def test_sql_agrees_with_evaluate(rows, condition):
    where = Filter("", condition)
    assert _selected(rows, where) == [number for number, row in enumerate(rows) if matches(where, row)]


@given(rows=st.lists(ROWS, max_size=4), condition=TESTS)
def test_a_missing_value_passes_eq_null_and_ne_of_all_else(rows, condition):
    empty = dict.fromkeys(COLUMNS)
    passing = Operator.NE if getattr(condition, "value", None) is not None else Operator.EQ
    expected = isinstance(condition, Comparison) and condition.operator is passing
    assert matches(Filter("", condition), empty) is expected
    assert matches(Filter("", condition), {}) is expected
    assert (0 in _selected([empty, *rows], Filter("", condition))) is expected


def test_strings_are_compared_without_case():
    where = parse_filter("id eq 'TASK-1' and state ne 'Active'", TASKS)
    assert matches(where, {"id": "task-1", "state": "running"})
    assert not matches(where, {"id": "task-1", "state": "active"})
    assert matches(where, {"id": "Task-1"}.get)


def test_the_widest_filter_runs_as_sql():
    where = parse_filter(" or ".join(["startswith(id,'a')"] * 199 + ["id eq 'zz'"]), TASKS)
    database = sqlite3.connect(":memory:")
    try:
        condition, parameters = to_sql(where, {"id": Column("id")})
        found = database.execute(f"SELECT count(*) FROM (SELECT 'ZZ' AS id) WHERE {condition}", parameters).fetchone()
    finally:
        database.close()
    assert found == (1,)


def test_text_of_a_filter_never_becomes_sql():
    where = parse_filter("id eq '''; DROP TABLE task; --'", TASKS)
    condition, parameters = to_sql(where, {"id": Column("id")})
    assert "DROP" not in condition
    assert parameters == ["'; drop table task; --"]


def test_a_property_without_a_column_is_an_error():
    with pytest.raises(KeyError):
        to_sql(Filter("", StartsWith("name", "a")), {})
