"""Short tasks, which a node hands to its spawner before the ones before them have ended: seen from outside as ever.

How many are depends on how quick the machine is; `tests/process/test_node_ahead.py` sees to it that some are.
"""

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m

from tests.process.test_crashes import host_pid, spawner_pid
from tests.process.test_up import client_of, make_pool
from tests.waiting import until

SHORT = 60
"""So many that a node knows them to be short long before the last."""


@pytest.fixture
def service(new_service: Any) -> Any:
    return new_service().start()


def add(client: BatchClient, *commands: tuple[str, str]) -> None:
    """In that order."""
    tasks = [m.BatchTaskCreateOptions(id=task_id, command_line=command) for task_id, command in commands]
    for first in range(0, len(tasks), 100):
        client.create_task_collection("j", m.BatchTaskGroup(task_values=tasks[first : first + 100]))


def short_ones(directory: Path, count: int = SHORT, name: str = "s") -> list[tuple[str, str]]:
    """Each leaves a line in a file of its own."""
    directory.mkdir(exist_ok=True)
    return [(f"{name}{n:03}", f'/bin/sh -c "echo ran >> {directory}/{name}{n:03}"') for n in range(count)]


def completed(client: BatchClient, count: int) -> list[m.BatchTask]:
    until(lambda: client.get_job_task_counts("j").task_counts.completed, lambda done: done >= count)
    return list(client.list_tasks("j"))


def runs(directory: Path) -> dict[str, int]:
    return {file.name: len(file.read_text().split()) for file in directory.iterdir()}


def test_on_a_node_of_one_slot_no_two_tasks_overlap(service: Any, tmp_path: Path) -> None:
    with client_of(service) as client:
        make_pool(client, 1, slots=1)
        add(client, *short_ones(tmp_path / "ran"), ("failing", "/bin/false"), ("missing", "no-such-program"))
        add(client, *short_ones(tmp_path / "ran", 20, "t"))
        tasks = completed(client, SHORT + 22)
    infos = {task.id: task.execution_info for task in tasks}
    assert infos["failing"].exit_code == 1
    assert infos["missing"].failure_info.code == "CommandProgramNotFound"
    in_order = sorted(infos.values(), key=lambda info: info.start_time)
    for before, after in pairwise(in_order):
        assert before.start_time <= before.end_time <= after.start_time
    assert set(runs(tmp_path / "ran").values()) == {1}


def test_what_was_handed_ahead_behind_a_long_task(service: Any, tmp_path: Path) -> None:
    """It can be terminated and deleted as if it stood in the queue, and what is left runs when there is room."""
    with client_of(service) as client:
        make_pool(client, 1, slots=1)
        behind = short_ones(tmp_path / "ran", 5, "behind")
        add(client, *short_ones(tmp_path / "ran"), ("long", "/bin/sleep 600"), *behind)
        until(lambda: client.get_task("j", "long").state, lambda state: state == m.BatchTaskState.RUNNING)
        client.terminate_task("j", "behind000")
        client.delete_task("j", "behind001")
        until(lambda: client.get_task("j", "behind000").state, lambda state: state == m.BatchTaskState.COMPLETED)
        assert {client.get_task("j", f"behind00{n}").state for n in (2, 3, 4)} == {m.BatchTaskState.ACTIVE}
        client.terminate_task("j", "long")
        tasks = {task.id: task.execution_info for task in completed(client, SHORT + 5)}
        assert tasks.keys() & {name for name, _ in behind} == {"behind000", "behind002", "behind003", "behind004"}
        assert tasks["behind000"].exit_code is None
        assert tasks["behind003"].exit_code == 0
    ran = runs(tmp_path / "ran")
    assert {name for name in ran if name.startswith("behind")} == {"behind002", "behind003", "behind004"}
    assert set(ran.values()) == {1}


def test_what_waits_behind_a_long_task_goes_to_a_node_that_is_idle(service: Any, tmp_path: Path) -> None:
    with client_of(service) as client:
        make_pool(client, 2, slots=1)
        add(client, *short_ones(tmp_path / "ran"), ("long", "/bin/sleep 600"), *short_ones(tmp_path / "ran", 20, "b"))
        completed(client, SHORT + 20)
        long = client.get_task("j", "long")
        assert long.state == m.BatchTaskState.RUNNING
        last = client.get_task("j", "b019").node_info
        assert last.node_id != long.node_info.node_id
    assert set(runs(tmp_path / "ran").values()) == {1}


def test_a_host_killed_among_short_tasks_runs_each_once(service: Any, tmp_path: Path) -> None:
    count = 5 * SHORT
    with client_of(service) as client:
        make_pool(client, 1, slots=1)
        add(client, *short_ones(tmp_path / "ran", count))
        for share in (0.2, 0.5, 0.8):
            until(lambda: len(runs(tmp_path / "ran")), lambda ran, wanted=share * count: ran > wanted)
            victim = host_pid(service)
            os.kill(victim, signal.SIGKILL)
            host_pid(service, other_than=victim)
        tasks = completed(client, count)
    assert {(task.execution_info.exit_code, task.execution_info.retry_count) for task in tasks} == {(0, 0)}
    assert runs(tmp_path / "ran") == {name: 1 for name, _ in short_ones(tmp_path / "ran", count)}


def test_a_spawner_killed_among_short_tasks(service: Any, tmp_path: Path) -> None:
    """What it had begun may run again; what only waited there runs once."""
    count = 5 * SHORT
    with client_of(service) as client:
        make_pool(client, 1, slots=1)
        add(client, *short_ones(tmp_path / "ran", count))
        until(lambda: len(runs(tmp_path / "ran")), lambda ran: ran > 2 * SHORT)
        os.kill(spawner_pid(service), signal.SIGKILL)
        tasks = completed(client, count)
    assert {(task.execution_info.exit_code, task.execution_info.retry_count) for task in tasks} == {(0, 0)}
    ran = runs(tmp_path / "ran")
    assert len(ran) == count
    assert sum(ran.values()) <= count + SHORT, "more than those of the last few milliseconds"
