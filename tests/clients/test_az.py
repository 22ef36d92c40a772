"""`az batch` by the account's key alone: no login, no subscription. Unmodified, in an environment of its own."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import EnvironmentMissing, client_environment, python_environment
from tests.clients.how_to import snippet
from tests.conftest import MillpondProcess

DEADLINE_S = 60.0
IMAGE = ("--image", "canonical:ubuntu-24_04-lts:server", "--node-agent-sku-id", "batch.node.ubuntu 24.04")

pytestmark = pytest.mark.timeout(1200)


class Az:
    """The command, pointed at a service by AZURE_BATCH_* only."""

    def __init__(self, program: Path, service: MillpondProcess, directory: Path) -> None:
        self.program = program
        self.directory = directory
        self.environment = client_environment(service, AZURE_CONFIG_DIR=str(directory / "config"))

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.program), "batch", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def __call__(self, *arguments: str) -> Any:
        """What a command says, from its JSON; None where it says nothing."""
        done = self.run(*arguments, "--output", "json")
        assert done.returncode == 0, f"az batch {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def until(self, wanted: Callable[[Any], bool], *arguments: str) -> Any:
        """Ask the same again until what is said is wanted."""
        deadline = time.monotonic() + DEADLINE_S
        while not wanted(seen := self(*arguments)):
            assert time.monotonic() < deadline, f"not in {DEADLINE_S:g} s: {seen}"
        return seen

    def file(self, name: str, content: object) -> str:
        (self.directory / name).write_text(json.dumps(content))
        return name


@pytest.fixture(scope="module")
def az(
    service: MillpondProcess,
    require_component: Callable[[str, str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Az:
    try:
        python = python_environment("azure-cli", "azure-cli==2.91.0", heavy=True)
    except EnvironmentMissing as error:
        require_component("azure-cli", str(error))
        raise
    return Az(python.with_name("az"), service, tmp_path_factory.mktemp("az"))


@pytest.fixture(scope="module")
def pool(az: Az) -> str:
    """A pool with one node, made by options."""
    options = ("--vm-size", "standard_d2s_v3", "--target-dedicated-nodes", "1", "--task-slots-per-node", "4")
    az("pool", "create", "--id", "az", *IMAGE, *options)
    az.until(lambda nodes: [node["state"] for node in nodes] == ["idle"], "node", "list", "--pool-id", "az")
    return "az"


def test_a_pool(az: Az, pool: str) -> None:
    shown = az("pool", "show", "--pool-id", pool)
    assert (shown["id"], shown["allocationState"], shown["currentDedicatedNodes"]) == (pool, "steady", 1)
    assert shown["taskSlotsPerNode"] == 4
    assert [each["id"] for each in az("pool", "list", "--filter", "startswith(id,'a')", "--select", "id")] == [pool]
    images = az("pool", "supported-images", "list")
    assert "batch.node.ubuntu 24.04" in {image["nodeAgentSkuId"] for image in images}
    az("pool", "set", "--pool-id", pool, "--metadata", "made=again")
    assert az("pool", "show", "--pool-id", pool)["metadata"] == [{"name": "made", "value": "again"}]
    twice = az.run("pool", "create", "--id", pool, *IMAGE, "--vm-size", "standard_d2s_v3")
    assert twice.returncode != 0
    assert "already exists" in twice.stderr


def test_resize_and_autoscale(az: Az) -> None:
    az("pool", "create", "--json-file", az.file("pool.json", _pool("sizes")))
    az("pool", "resize", "--pool-id", "sizes", "--target-dedicated-nodes", "2")
    az.until(
        lambda pool: (pool["allocationState"], pool["currentDedicatedNodes"]) == ("steady", 2),
        *("pool", "show", "--pool-id", "sizes"),
    )
    formula = "$TargetDedicatedNodes=1;$NodeDeallocationOption=requeue"
    interval = ("--auto-scale-evaluation-interval", "PT5M")
    az("pool", "autoscale", "enable", "--pool-id", "sizes", "--auto-scale-formula", formula, *interval)
    run = az("pool", "autoscale", "evaluate", "--pool-id", "sizes", "--auto-scale-formula", formula)
    assert "$TargetDedicatedNodes=1" in run["results"]
    az("pool", "autoscale", "disable", "--pool-id", "sizes")
    az("pool", "delete", "--pool-id", "sizes", "--yes")
    az.until(lambda pools: "sizes" not in [pool["id"] for pool in pools], "pool", "list")


def test_a_job_its_tasks_and_their_files(az: Az, pool: str) -> None:
    environment = ("--job-max-task-retry-count", "0", "--priority", "3", "--metadata", "made=az")
    az("job", "create", "--id", "work", "--pool-id", pool, *environment)
    # Numbers come as text.
    assert az("job", "show", "--job-id", "work")["priority"] == 3
    az("task", "create", "--job-id", "work", "--task-id", "one", "--command-line", "/bin/sh -c 'echo by az'")
    many = [{"id": f"t{number}", "commandLine": "/bin/sh -c 'echo of many'"} for number in range(120)]
    az("task", "create", "--job-id", "work", "--json-file", az.file("tasks.json", many))
    counts = az.until(
        lambda counts: counts["taskCounts"]["completed"] == 121, "job", "task-counts", "show", "--job-id", "work"
    )
    assert counts["taskCounts"]["succeeded"] == 121
    listed = az("task", "list", "--job-id", "work", "--filter", "state eq 'completed'", "--select", "id,state")
    assert len(listed) == 121
    shown = az("task", "show", "--job-id", "work", "--task-id", "one")
    assert (shown["state"], shown["executionInfo"]["exitCode"]) == ("completed", 0)
    there = ("--job-id", "work", "--task-id", "one")
    files = az("task", "file", "list", *there, "--recursive")
    assert {"stdout.txt", "stderr.txt", "wd"} <= {file["name"] for file in files}
    az("task", "file", "download", *there, "--file-path", "stdout.txt", "--destination", "./one.txt")
    assert (az.directory / "one.txt").read_text() == "by az\n"
    node_id = shown["nodeInfo"]["nodeId"]
    assert [node["id"] for node in az("node", "list", "--pool-id", pool)] == [node_id]
    there = ("--pool-id", pool, "--node-id", node_id)
    assert "shared" in {file["name"] for file in az("node", "file", "list", *there)}
    missing = az.run("task", "show", "--job-id", "work", "--task-id", "none")
    assert missing.returncode != 0
    assert "TaskNotFound" in missing.stderr

    az("job", "disable", "--job-id", "work", "--disable-tasks", "requeue")
    az.until(lambda job: job["state"] == "disabled", "job", "show", "--job-id", "work")
    az("job", "enable", "--job-id", "work")
    az("job", "stop", "--job-id", "work", "--terminate-reason", "enough")
    ended = az.until(lambda job: job["state"] == "completed", "job", "show", "--job-id", "work")
    assert ended["executionInfo"]["terminateReason"] == "enough"
    az("job", "delete", "--job-id", "work", "--yes")
    az.until(lambda jobs: jobs == [], "job", "list")


def test_a_schedule(az: Az, pool: str) -> None:
    az(
        *("job-schedule", "create", "--id", "often", "--pool-id", pool, "--recurrence-interval", "PT1H"),
        *("--job-manager-task-id", "manager", "--job-manager-task-command-line", "/bin/true"),
    )
    shown = az.until(
        lambda schedule: (schedule.get("executionInfo") or {}).get("recentJob") is not None,
        *("job-schedule", "show", "--job-schedule-id", "often"),
    )
    jobs = az("job", "list", "--job-schedule-id", "often")
    assert [job["id"] for job in jobs] == [shown["executionInfo"]["recentJob"]["id"]]
    for action in ("disable", "enable", "stop"):
        az("job-schedule", action, "--job-schedule-id", "often")
    az.until(lambda seen: seen["state"] == "completed", "job-schedule", "show", "--job-schedule-id", "often")
    az("job-schedule", "delete", "--job-schedule-id", "often", "--yes")
    az.until(lambda schedules: schedules == [], "job-schedule", "list")


def test_applications(az: Az) -> None:
    """What the data plane tells of applications; they are managed by `millpond app`, or with a login."""
    assert az("application", "summary", "list") == []


def test_the_how_to(az: Az) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", snippet("az batch", "bash")],
        cwd=az.directory,
        env={**az.environment, "PATH": f"{az.program.parent}{os.pathsep}{az.environment['PATH']}"},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "hello"


def _pool(pool_id: str) -> dict[str, Any]:
    publisher, offer, sku = IMAGE[1].split(":")
    return {
        "id": pool_id,
        "vmSize": "standard_d2s_v3",
        "virtualMachineConfiguration": {
            "imageReference": {"publisher": publisher, "offer": offer, "sku": sku},
            "nodeAgentSKUId": IMAGE[3],
        },
        "targetDedicatedNodes": 0,
    }
