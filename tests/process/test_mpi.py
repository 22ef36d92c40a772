"""MPI programs over local nodes, through the whole service, with Open MPI's own mpirun and no ssh."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential

from tests.machine import free_port, runs
from tests.waiting import until

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def open_mpi(require_component: Callable[[str, str], None]) -> None:
    for program in ("mpirun", "mpicc"):
        if shutil.which(program) is None:
            require_component("Open MPI", f"there is no {program} (Debian: openmpi-bin, libopenmpi-dev)")


def ring(service: Any, cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "examples/mpi_ring/mpi_ring.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY / "src"),
            "COLUMNS": "200",
            **service.client_environment(),
        },
    )


def test_the_example_goes_round_three_nodes(service: Any, tmp_path: Path) -> None:
    result = ring(service, tmp_path, "--nodes", "3", "--ranks-per-node", "2")
    assert result.returncode == 0, result.stdout + result.stderr + service.log()
    assert "6 ranks on 3 nodes: the primary and 2 subtask(s), no ssh" in result.stdout
    assert "rank 5 of 6" in result.stdout


# --- gangs of one's own ---------------------------------------------------------------------------------------------

LAUNCH = '"$OMPI_MCA_plm_rsh_agent"'


class Gang:
    """A pool of two nodes that may talk to each other, and tasks over both."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.client = BatchClient(
            endpoint=service.endpoint, credential=AzureNamedKeyCredential(service.account, service.key)
        )
        image = next(image for image in self.client.list_supported_images() if image.os_type == m.OSType.LINUX)
        self.id = f"gang-{os.getpid()}-{time.monotonic_ns()}"
        self.client.create_pool(
            m.BatchPoolCreateOptions(
                id=self.id,
                vm_size="standard_a1_v2",
                virtual_machine_configuration=m.VirtualMachineConfiguration(
                    image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
                ),
                target_dedicated_nodes=2,
                task_slots_per_node=1,
                enable_inter_node_communication=True,
            )
        )
        self.client.create_job(m.BatchJobCreateOptions(id=self.id, pool_info=m.BatchPoolInfo(pool_id=self.id)))

    def add(self, task_id: str, command: str, *, coordination: str = "true", retries: int = 0) -> None:
        self.client.create_task(
            self.id,
            m.BatchTaskCreateOptions(
                id=task_id,
                command_line=f"/bin/sh -c {shlex.quote(command)}",
                multi_instance_settings=m.MultiInstanceSettings(
                    number_of_instances=2, coordination_command_line=f"/bin/sh -c {shlex.quote(coordination)}"
                ),
                constraints=m.BatchTaskConstraints(max_task_retry_count=retries),
            ),
        )

    def end_of(self, task_id: str) -> tuple[int | None, str, str]:
        """Exit code, standard output and error of a task once it has completed."""
        until(lambda: self.client.get_task(self.id, task_id).state == m.BatchTaskState.COMPLETED)
        info = self.client.get_task(self.id, task_id).execution_info
        assert info is not None
        return info.exit_code, self.file(task_id, "stdout.txt"), self.file(task_id, "stderr.txt")

    def file(self, task_id: str, name: str) -> str:
        return b"".join(self.client.download_task_file(self.id, task_id, name)).decode(errors="replace")


@pytest.fixture(scope="module")
def gang(service: Any) -> Gang:
    return Gang(service)


def test_what_the_coordination_command_left_behind_is_there_until_the_end(gang: Gang, open_path: Path) -> None:
    pids = open_path / "pids"
    gang.add(
        "daemons",
        f"cat {pids}; for pid in $(cat {pids}); do kill -0 $pid || exit 9; done",
        coordination=f"echo coordinated; setsid sleep 600 & echo $! >> {pids}; chmod -R a+rwX {open_path}",
    )
    exit_code, out, err = gang.end_of("daemons")
    assert exit_code == 0, err
    found = [int(line) for line in pids.read_text().split()]
    assert out.split() == ["coordinated", *map(str, found)]
    assert len(found) == 2
    # The subtask's too, though it is told to end only after the primary has.
    until(lambda: not any(map(runs, found)))


def test_the_launch_agent_runs_a_command_on_the_other_node(gang: Gang) -> None:
    command = (
        'for host in $(echo "$AZ_BATCH_HOST_LIST" | tr "," " "); do '
        f'{LAUNCH} -x $host "echo \\"\\$AZ_BATCH_NODE_ID \\$AZ_BATCH_IS_CURRENT_NODE_MASTER \\$PWD\\"; echo oh >&2; exit 7"'
        "; echo code $?; done"
    )
    gang.add("launch", command)
    exit_code, out, err = gang.end_of("launch")
    assert exit_code == 0
    lines = out.splitlines()
    first, second = lines[0].split(), lines[2].split()
    assert {first[0], second[0]} == {node.id for node in gang.client.list_nodes(gang.id)}
    assert (first[1], second[1]) == ("true", "false")
    assert all(line[2].endswith(f"workitems/{gang.id}/job-1/launch/wd") for line in (first, second))
    assert [lines[1], lines[3]] == ["code 7", "code 7"]
    assert err == "oh\noh\n"


def test_the_launch_agent_reaches_nobody_else(gang: Gang) -> None:
    gang.add("nobody", f"{LAUNCH} 127.0.0.1 id; echo $?; {LAUNCH} 10.9.9.9 id; echo $?; {LAUNCH} 1; echo $?")
    exit_code, out, err = gang.end_of("nobody")
    assert (exit_code, out) == (0, "255\n255\n255\n")
    assert "The host '10.9.9.9' is none of the task's nodes: they are 127." in err
    assert "usage: millpond-launch HOST COMMAND" in err


def test_much_output_comes_back_whole(gang: Gang) -> None:
    other = '$(echo "$AZ_BATCH_HOST_LIST" | cut -d, -f2)'
    gang.add("much", f"{LAUNCH} {other} 'seq 1 200000' | cksum; seq 1 200000 | cksum")
    exit_code, out, err = gang.end_of("much")
    assert exit_code == 0, err
    first, second = out.splitlines()
    assert first == second


def test_a_rank_that_fails_fails_the_task_and_the_gang_runs_again(gang: Gang, open_path: Path) -> None:
    command = (
        f"mkdir {open_path}/first && exec mpirun --host $AZ_BATCH_HOST_LIST -n 2 sh -c 'exit 3';"
        " exec mpirun --host $AZ_BATCH_HOST_LIST -n 2 sh -c 'echo $AZ_BATCH_NODE_ID'"
    )
    gang.add("again", command, retries=1)
    exit_code, out, err = gang.end_of("again")
    assert exit_code == 0, err
    assert set(out.split()) == {node.id for node in gang.client.list_nodes(gang.id)}
    info = gang.client.get_task(gang.id, "again").execution_info
    assert info is not None
    assert info.retry_count == 1


@pytest.mark.parametrize("who", ["service", "host"])
def test_mpirun_outlives_a_kill_of_the_service_and_of_the_agent(
    new_service: Callable[..., Any], tmp_path: Path, open_path: Path, who: str
) -> None:
    (open_path / "up").mkdir()
    (open_path / "up").chmod(0o777)
    port = free_port()
    service = new_service("data", "--port", str(port)).start()
    gang = Gang(service)
    rank = f"touch {open_path}/up/$AZ_BATCH_NODE_ID; while [ ! -e {open_path}/go ]; do sleep 0.05; done; echo done"
    gang.add("long", f"exec mpirun --host $AZ_BATCH_HOST_LIST -n 2 sh -c {shlex.quote(rank)}")
    until(lambda: len(list((open_path / "up").iterdir())) == 2)
    if who == "service":
        service.kill()
        service.start()
    else:
        (host,) = (tmp_path / "data").rglob("host.json")
        old = json.loads(host.read_text())["pid"]
        os.kill(old, signal.SIGKILL)
        until(lambda: not runs(old))
    (open_path / "go").touch()
    exit_code, out, err = gang.end_of("long")
    assert (exit_code, out) == (0, "done\ndone\n"), err
    info = gang.client.get_task(gang.id, "long").execution_info
    assert info is not None
    assert (info.retry_count, info.requeue_count) == (0, 0)
