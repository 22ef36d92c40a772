"""What tasks may use up, with real control groups. Needs root, and groups that may be written to."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from millpond.agent.isolation.cgroups import find_tree
from millpond.domain.errors import TaskFailureCode
from tests.process.isolated import OWN, SETTINGS, Machine, Node, open_directory, why_not_here
from tests.waiting import PATIENCE_S

WHY_NOT = why_not_here()
TREE, NO_TREE = find_tree()

pytestmark = pytest.mark.skipif(bool(WHY_NOT) or TREE is None, reason=f"does not apply here: {WHY_NOT or NO_TREE}")

MakeMachine = Callable[[str], Machine]


@pytest.fixture
async def machine_with() -> AsyncIterator[MakeMachine]:
    """A machine with limits of that kind."""
    made: list[tuple[Machine, Path]] = []

    def make(limits: str) -> Machine:
        path = open_directory()
        made.append((Machine(path, msgspec.structs.replace(SETTINGS, limits=limits)), path))
        return made[-1][0]

    yield make
    for machine, path in made:
        await machine.close()
        shutil.rmtree(path)


def groups_of(node: Node) -> set[str]:
    """The directories of the node's control groups that are there."""
    assert TREE is not None
    name = f"millpond.{node.users.block.first}"
    return {f"{parent}/{name}" for parent in TREE.controllers.values() if Path(parent, name).exists()}


def in_use(group: Path, name: str) -> list[Path]:
    """That file of the groups below in which something runs."""
    found = []
    for path in group.glob(f"*/{name}"):
        # A group may go between the two.
        with contextlib.suppress(OSError):
            if (path.parent / "cgroup.procs").read_text():
                found.append(path)
    return found


def eat(mib: int) -> str:
    return f"python3 -I -c 'x = bytearray({mib} << 20)'"


@pytest.mark.parametrize("limits", ["node", "task"])
async def test_a_task_killed_for_want_of_memory_says_so(machine_with: MakeMachine, limits: str) -> None:
    assert TREE is not None
    if "memory" not in TREE.controllers:
        pytest.skip("does not apply here: no memory controller")
    node = machine_with(limits).node(memory_mib=96, slots=2)
    limit = "96" if limits == "node" else "48"
    outcome = await node.run(node.start("t", eat(200)))
    assert outcome.exit_code == -9
    assert outcome.failure is not None
    assert outcome.failure.code == TaskFailureCode.FAILURE_EXIT_CODE
    assert outcome.failure.category == "usererror"
    assert {(detail.name, detail.value) for detail in outcome.failure.details} == {
        ("Reason", "OutOfMemory"),
        ("MemoryLimitMiB", limit),
    }
    assert not outcome.retryable
    # The shell survives its child; the task fails all the same, and why is known.
    outcome = await node.run(node.start("u", f'/bin/sh -c "{eat(200)}; exit 3"', userIdentity=OWN))
    assert outcome.exit_code == 3
    assert outcome.failure is not None
    assert "MiB" in outcome.failure.message
    # What fails by itself is not laid to it.
    outcome = await node.run(node.start("v", "/bin/sh -c 'exit 5'"))
    assert (outcome.exit_code, outcome.failure) == (5, None)
    outcome = await node.run(node.start("w", "/bin/sh -c 'kill -9 $$'"))
    assert (outcome.exit_code, outcome.failure) == (-9, None)
    # There was room for this one.
    assert (await node.run(node.start("x", eat(16)))).exit_code == 0


async def test_a_task_of_more_slots_has_more_memory_where_each_has_its_share(machine_with: MakeMachine) -> None:
    assert TREE is not None
    if "memory" not in TREE.controllers:
        pytest.skip("does not apply here: no memory controller")
    node = machine_with("task").node(memory_mib=200, slots=4)
    assert (await node.run(node.start("one", eat(80), slots=1))).exit_code == -9
    assert (await node.run(node.start("two", eat(80), slots=3))).exit_code == 0


async def test_processes_without_end_stay_within_the_node(machine_with: MakeMachine) -> None:
    assert TREE is not None
    if "pids" not in TREE.controllers:
        pytest.skip("does not apply here: no pids controller")
    node = machine_with("node").node()
    assert node.capabilities["processLimit"] == "8192"
    group = Path(TREE.controllers["pids"], f"millpond.{node.users.block.first}")
    (group / "pids.max").write_text("20")
    script = "i=0; while [ $i -lt 40 ]; do sleep 600 & i=$((i+1)); done; echo all"
    outcome = await node.shell("bomb", script)
    assert outcome.exit_code == 2
    assert "all" not in (node.task("bomb") / "stdout.txt").read_text()
    # What it left is gone, and the next has room.
    assert (await node.shell("t", "true | true")).exit_code == 0


async def test_a_task_of_several_slots_gets_so_many_shares(machine_with: MakeMachine) -> None:
    assert TREE is not None
    if "cpu" not in TREE.controllers or TREE.version != 1:
        pytest.skip("does not apply here: no cpu controller of version 1")
    node = machine_with("node").node()
    assert "cpu" in node.capabilities["cgroupControllers"]
    assert f"millpond.{node.users.block.first}" not in await node.output("one", "grep :cpu: /proc/self/cgroup")
    running = asyncio.create_task(node.shell("three", "while [ ! -e go ]; do sleep 0.01; done", slots=3))
    group = Path(TREE.controllers["cpu"], f"millpond.{node.users.block.first}")
    async with asyncio.timeout(PATIENCE_S):
        while not (found := in_use(group, "cpu.shares")):
            await asyncio.sleep(0.01)
    assert found[0].read_text().strip() == str(3 * 1024)
    (node.task("three") / "wd/go").touch()
    assert (await running).exit_code == 0
    assert not found[0].exists()


async def test_groups_go_with_the_node(machine_with: MakeMachine) -> None:
    machine = machine_with("node")
    node = machine.node(memory_mib=512)
    assert (await node.shell("t", "true")).exit_code == 0
    there = groups_of(node)
    assert there
    machine.isolation.remove_node(str(node.directory), str(node.root))
    assert groups_of(node) == set()
    # Those of a node whose directory was taken away go when the next comes.
    lost = machine.node("lost", memory_mib=512)
    assert groups_of(lost)
    shutil.rmtree(lost.directory)
    machine.isolation.close_node(str(lost.root))
    machine.nodes.remove(lost)
    await lost.runner.close()
    machine.node("next")
    assert groups_of(lost) == set()
    assert lost.users.pool_user not in (machine.etc / "passwd").read_text()


async def test_without_limits_nothing_is_made(machine_with: MakeMachine) -> None:
    node = machine_with("none").node(memory_mib=64)
    assert node.capabilities["limits"] == "none"
    assert (await node.run(node.start("t", eat(100)))).exit_code == 0
    assert groups_of(node) == set()
