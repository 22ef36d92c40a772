"""Real tasks by the thousand while the service and the host of its nodes are killed at random moments.

    python -m tests.process.soak --minutes 10 [--seed N] [--tasks N]

Each round is a job of tasks that last a moment, some of which wait for others and some of which fail at first. Every
task appends to a file of its own, outside the nodes' directories. When all is done, the rows, the counts and the files
must tell the same: nothing lost, nothing completed twice, nothing run again but what was lost with the spawner of its
node.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import AzureError, HttpResponseError

from tests.conftest import MillpondProcess
from tests.machine import command_lines, free_port

NODES = 4
SLOTS_PER_NODE = 4
PATIENCE_S = 120.0
"""How long nothing may come to its end before the run counts as stuck."""
_BATCH = 100


class Killer(threading.Thread):
    """Kills the service, the host of the nodes, or its spawner, at random moments, until told to stop."""

    def __init__(self, service: MillpondProcess, random: Random, *, pause_s: float) -> None:
        super().__init__(name="killer", daemon=True)
        self._service = service
        self._random = random
        self._pause_s = pause_s
        self._over = threading.Event()
        self.kills: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._over.wait(self._random.uniform(0.1, 2.0) * self._pause_s):
                victim = self._random.choices(("service", "host", "both", "spawner"), (5, 4, 2, 1))[0]
                self._kill(victim)
        except BaseException as error:
            self.failure = error

    def _kill(self, victim: str) -> None:
        if victim == "spawner":
            self.kills["spawner"] += self._send(_spawner_pid(self._service.data_dir))
            return
        if victim in ("host", "both"):
            self.kills["host"] += self._send(_host_pid(self._service.data_dir))
        if victim in ("service", "both"):
            self._service.kill()
            self.kills["service"] += 1
            # A dead service is noticed by its clients, and by its nodes.
            self._over.wait(self._random.choice((0.0, 0.0, 1.0)) * self._random.random())
            self._service.start()

    @staticmethod
    def _send(pid: int) -> int:
        """How many were killed."""
        if not pid:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return 1
        return 0

    def stop(self) -> None:
        """Raises what it died of."""
        self._over.set()
        self.join()
        if self.failure is not None:
            raise self.failure


def _host_pid(data_dir: Path) -> int:
    """The host's process; 0 while there is none."""
    try:
        return int(json.loads((data_dir / "nodes" / "host.json").read_text())["pid"])
    except (OSError, ValueError):
        return 0


def _spawner_pid(data_dir: Path) -> int:
    wanted = f"spawner.py\0{data_dir / 'nodes'}\0"
    return next((pid for pid, arguments in command_lines() if wanted in arguments), 0)


class Round:
    """One job with its tasks, and what has been seen of them."""

    def __init__(self, client: BatchClient, number: int, tasks: int, directory: Path, random: Random) -> None:
        self.job_id = f"soak{number}"
        self._client = client
        self._tasks = tasks
        self._directory = directory / self.job_id
        self._random = random
        self.flaky: set[str] = set()
        self._seen: dict[str, tuple[Any, ...]] = {}
        """Task id → how it was seen completed."""

    def add(self) -> None:
        """Add the job and its tasks, however often the service dies meanwhile."""
        self._directory.mkdir()
        job = m.BatchJobCreateOptions(
            id=self.job_id, pool_info=m.BatchPoolInfo(pool_id="soak"), uses_task_dependencies=True
        )
        patiently(lambda: self._client.create_job(job), "JobExists")
        for first in range(0, self._tasks, _BATCH):
            batch = [self._task(number) for number in range(first, min(first + _BATCH, self._tasks))]
            self._add_batch(batch)

    def _add_batch(self, batch: list[m.BatchTaskCreateOptions]) -> None:
        def add() -> None:
            answer = self._client.create_task_collection(self.job_id, m.BatchTaskGroup(task_values=batch))
            for one in answer.result_values or []:
                code = one.error.code if one.error is not None else None
                # One that is there already was added by a call whose answer was lost.
                assert code in (None, "TaskExists"), f"{one.task_id}: {code}"

        patiently(add)

    def _task(self, number: int) -> m.BatchTaskCreateOptions:
        random = self._random
        file = self._directory / str(number)
        script = [f"echo begin >> {file}"]
        parents: list[str] = []
        if number and random.random() < 0.3:
            parents = [str(random.randrange(max(0, number - 60), number)) for _ in range(random.randint(1, 2))]
            script += [f"grep -q end {self._directory / parent} || echo early >> {file}" for parent in parents]
        if random.random() < 0.2:
            script.append(f"sleep 0.{random.randint(0, 4)}")
        flaky = random.random() < 0.1
        if flaky:
            self.flaky.add(str(number))
            script.append(f"grep -q end {file}; code=$?")
        script.append(f"echo end >> {file}")
        if flaky:
            script.append("exit $code")
        return m.BatchTaskCreateOptions(
            id=str(number),
            command_line=f"/bin/sh -c '{'; '.join(script)}'",
            depends_on=m.BatchTaskDependencies(task_ids=parents) if parents else None,
            constraints=m.BatchTaskConstraints(max_task_retry_count=2) if flaky else None,
        )

    def look(self) -> None:
        """What was completed once stays as it was."""
        completed = patiently(
            lambda: list(
                self._client.list_tasks(self.job_id, filter="state eq 'completed'", select=["id", "executionInfo"])
            )
        )
        for task in completed:
            info = _info(task)
            how = (info.start_time, info.end_time, info.exit_code, info.retry_count)
            before = self._seen.setdefault(task.id, how)
            assert before == how, f"task {task.id} was completed as {before}, and is now as {how}"
        found = {task.id for task in completed}
        assert found >= self._seen.keys(), f"completed, and no longer: {sorted(self._seen.keys() - found)[:10]}"

    def wait(self, alarm: Callable[[], None]) -> None:
        """Until all tasks are completed. Raises AssertionError when nothing moves any more."""
        best, since = -1, time.monotonic()
        while best < self._tasks:
            alarm()
            counts = patiently(lambda: self._client.get_job_task_counts(self.job_id)).task_counts
            if counts.completed > best:
                best, since = counts.completed, time.monotonic()
                self.look()
            stuck_s = time.monotonic() - since
            assert stuck_s < PATIENCE_S, f"{best} of {self._tasks} tasks are completed, and nothing moves: {counts}"
            time.sleep(0.1)

    def check(self, lost: int) -> dict[str, int]:
        """All that must hold at the end. `lost` is how many runs may have been lost at most."""
        self.look()
        tasks = list(self._client.list_tasks(self.job_id))
        assert sorted(task.id for task in tasks) == sorted(str(number) for number in range(self._tasks))
        counts = self._client.get_job_task_counts(self.job_id).task_counts
        told = (counts.active, counts.running, counts.completed, counts.succeeded, counts.failed)
        assert told == (0, 0, self._tasks, self._tasks, 0), told
        again = retries = 0
        for task in tasks:
            info = _info(task)
            lines = Counter((self._directory / task.id).read_text().split())
            story = f"task {task.id}: exit {info.exit_code}, {info.retry_count} retries, {dict(lines)}"
            assert (task.state, info.exit_code, info.requeue_count or 0) == (m.BatchTaskState.COMPLETED, 0, 0), story
            assert info.retry_count <= (task.id in self.flaky), story
            assert lines["end"] >= 1, story
            assert lines["end"] <= lines["begin"], story
            assert not lines["early"], f"{story}: it began before its parents had ended"
            again += lines["begin"] - 1 - info.retry_count
            retries += info.retry_count
        assert again <= lost, f"{again} runs more than were asked for, and {lost} can have been lost at most"
        return {"tasks": len(tasks), "retries": retries, "run again": again}

    def delete(self) -> None:
        self._client.begin_delete_job(self.job_id, polling_interval=0.1).result()
        shutil.rmtree(self._directory)


def _info(task: m.BatchTask) -> m.BatchTaskExecutionInfo:
    assert task.execution_info is not None, task.id
    return task.execution_info


def patiently(call: Callable[[], Any], *fine: str) -> Any:
    """The answer, asked for again while the service is away. Error codes that are `fine` give None."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except HttpResponseError as error:
            code = error.error.code if error.error is not None else ""
            if code in fine:
                return None
            if (error.status_code or 0) < 500 or time.monotonic() > deadline:
                raise
        except AzureError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def make_pool(client: BatchClient) -> None:
    image = next(image for image in client.list_supported_images() if image.os_type == m.OSType.LINUX)
    client.create_pool(
        m.BatchPoolCreateOptions(
            id="soak",
            vm_size="standard_d2s_v3",
            virtual_machine_configuration=m.VirtualMachineConfiguration(
                image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
            ),
            target_dedicated_nodes=NODES,
            task_slots_per_node=SLOTS_PER_NODE,
        )
    )


def soak(
    service: MillpondProcess,
    directory: Path,
    *,
    seed: int,
    tasks: int,
    seconds: float,
    pause_s: float,
    say: Callable[[str], None],
) -> Counter[str]:
    """Rounds of `tasks` tasks until the time is over, at least one; what was done. The service is running, and is
    running at the end. Raises AssertionError when anything is lost, done twice, or stuck."""
    random = Random(seed)
    totals: Counter[str] = Counter()
    begun = time.monotonic()
    credential = AzureNamedKeyCredential(service.account, service.key)
    with BatchClient(service.endpoint, credential, retry_total=0) as client:
        make_pool(client)
        number = 0
        while number == 0 or time.monotonic() - begun < seconds:
            number += 1
            killer = Killer(service, Random(f"{seed}/{number}"), pause_s=pause_s)

            def alarm(killer: Killer = killer) -> None:
                if killer.failure is not None:
                    raise killer.failure

            one = Round(client, number, tasks, directory, random)
            killer.start()
            try:
                one.add()
                one.wait(alarm)
            finally:
                killer.stop()
            slots = NODES * SLOTS_PER_NODE
            done = one.check(lost=slots * killer.kills["spawner"])
            say(f"round {number} after {time.monotonic() - begun:.0f} s: {done}, killed {dict(killer.kills)}")
            totals.update(done)
            totals.update({f"{victim}s killed": count for victim, count in killer.kills.items()})
            one.delete()
    return totals


def main() -> int:
    parser = argparse.ArgumentParser(description="Real tasks by the thousand while service and nodes are killed.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, in whole rounds (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=3000, help="tasks of a round (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of tasks and kills (default: another one each time)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else Random().randrange(1_000_000)
    print(f"seed {seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="millpond-soak-"))
    service = MillpondProcess(directory / "data", "--port", str(free_port())).start()
    try:
        totals = soak(
            service,
            directory,
            seed=seed,
            tasks=options.tasks,
            seconds=options.minutes * 60.0,
            pause_s=2.0,
            say=lambda text: print(text, flush=True),
        )
    except BaseException:
        print(f"FAILED with seed {seed}; what is left is in {directory}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            if service.process is not None and service.process.poll() is not None:
                service.start()
        service.stop()
        raise
    service.stop()
    shutil.rmtree(directory)
    print(f"nothing lost, nothing done twice: {dict(totals)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
