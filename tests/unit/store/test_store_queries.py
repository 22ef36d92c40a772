"""The SQL files: every query is known to SQLite, and none reads a big table from end to end."""

import re
import sqlite3

import pytest

from millpond.store.sql_files import load_migrations, load_queries

QUERIES = load_queries()
# Over all there is of what is few; the first three once, at start, the last in the sweep.
WHOLE = {"pool_facts", "job_facts", "load_job_schedules", "node_counts", "names_without_node"}
FRAGMENTS = {"task_columns", "only_added", "often_alike"}


@pytest.fixture(scope="module")
def database():
    connection = sqlite3.connect(":memory:")
    for _, script in load_migrations():
        connection.executescript(script)
    yield connection
    connection.close()


def _runnable(sql):
    width = max([int(number) for number in re.findall(r"column(\d+)", sql)], default=0)
    columns = re.search(r"INSERT INTO \w+ \(([^)]*)\)", sql)
    if columns:
        width = max(width, columns[1].count(",") + 1)
    return sql.replace("/*where*/", "TRUE").replace("/*values*/", f"({', '.join('?' * width)})")


def _parameters(sql):
    """None for each: those with a number, and those without, which stand behind them."""
    numbered = [int(number) for number in re.findall(r"\?(\d+)", sql)]
    return [None] * (max(numbered, default=0) + len(re.findall(r"\?(?!\d)", sql)))


@pytest.mark.parametrize("name", sorted(QUERIES.keys() - FRAGMENTS))
def test_the_plan_of_every_query(database, name):
    sql = _runnable(QUERIES[name])
    assert "/*" not in sql
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", _parameters(sql))]
    scans = [
        step
        for step in plan
        if re.match(r"SCAN (task|task_spec|subtask|node|node_name|job|job_node|job_schedule|satisfied)\b", step)
    ]
    if name not in WHOLE:
        assert not [step for step in scans if " USING " not in step], plan


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("get_task", "task_by_id"),
        ("tasks_of_keys", "INTEGER PRIMARY KEY"),
        ("handed_over", "INTEGER PRIMARY KEY"),
        ("load_jobs", "job_of_pool"),
        ("list_jobs_of_schedule", "job_of_schedule"),
        ("list_nodes", "node_of_pool"),
        ("list_job_nodes", "PRIMARY KEY"),
        ("load_subtasks", "PRIMARY KEY"),
        ("load_added_tasks", "INTEGER PRIMARY KEY"),
        ("extent_of_page", "INTEGER PRIMARY KEY"),
        ("list_added_tasks", "INTEGER PRIMARY KEY"),
        ("list_other_tasks", "INTEGER PRIMARY KEY"),
        ("update_tasks", "INTEGER PRIMARY KEY"),
        ("update_tasks_alike", "INTEGER PRIMARY KEY"),
    ],
)
def test_the_index_that_serves(database, name, index):
    sql = _runnable(QUERIES[name])
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", _parameters(sql))]
    assert any(index in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan


def test_no_comment_is_left_in_a_query():
    for name, sql in QUERIES.items():
        assert "--" not in sql, name
        assert ";" not in sql, name
