"""Application packages on the node, over storage in memory (semantics 4.1, 5.4)."""

import asyncio
import hashlib
import io
import json
import os
import stat
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millpond.agent.base import NodeFacts, Outcome, ProcessSpec
from millpond.agent.executors.fake import FakeExecutor, FakeRun
from millpond.agent.node_dirs import NodeDirectories
from millpond.agent.runner import task_runner
from millpond.agent.runner.task_runner import TaskRunner
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.domain.ids import NODE_SETUP_KEY
from millpond.domain.states import ErrorCategory, TaskKind
from millpond.protocol.messages import Start
from tests.unit.runner.staging import MemoryStaging
from tests.waiting import until_true

CREATED = 1_547_544_549.0
"""2019-01-15 09:29"""


def zipped(**files: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | 0o755) << 16
            archive.writestr(info, text)
    return content.getvalue()


def read(*path: str) -> str:
    return Path(*path).read_text()


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: dict[str, dict[str, str]] = {}
        """Environments, by task."""
        self.staging = MemoryStaging()
        self.fetched: list[str] = []
        self.executor = FakeExecutor(self._plan, time.time)
        self.runners: list[TaskRunner] = []
        self.keys = iter(range(100, 1000))
        self.runner = self.next_life()
        original = self.staging.fetch

        async def fetch(url: str, path: str, *, known_etag: str = "") -> Any:
            self.fetched.append(url)
            return await original(url, path, known_etag=known_etag)

        self.staging.fetch = fetch

    def _plan(self, process: ProcessSpec) -> FakeRun:
        self.seen[process.environment.get("AZ_BATCH_TASK_ID", "start")] = process.environment
        return FakeRun()

    def next_life(self) -> TaskRunner:
        facts = NodeFacts("node", "pool", "account", "https://account", is_dedicated=True, root=str(self.root))
        self.runner = TaskRunner(
            facts, self.executor, self.staging, directories=NodeDirectories(str(self.root), time.time)
        )
        self.runners.append(self.runner)
        return self.runner

    def package(self, app: str = "ffmpeg", version: str = "4.1", content: bytes | None = None, **more: Any) -> Any:
        content = zipped(tool=f"{app} {version}") if content is None else content
        url = f"mem://packages/{app}-{version}"
        self.staging.files[url] = content
        sha256 = hashlib.sha256(content).hexdigest()
        wire = {"id": app, "version": version, "createdAt": CREATED, "url": url, "sha256": sha256, "isDefault": False}
        return {**wire, **more}

    async def run(self, task: str, *packages: Any, kind: TaskKind = TaskKind.TASK, **more: Any) -> Outcome:
        spec = json.dumps({"commandLine": "run it", "applicationPackages": packages, **more}).encode()
        setup = kind is TaskKind.NODE_SETUP
        key = NODE_SETUP_KEY if setup else next(self.keys)
        start = Start(1, key, 1, "" if setup else "job", "" if setup else task, 0 if setup else 1, spec, kind=kind)
        return await self.runner.run(start, lambda at: None, resumed=False)

    async def set_up(self, *packages: Any) -> Outcome:
        return await self.run("", *packages, kind=TaskKind.NODE_SETUP)

    def variables(self, task: str) -> dict[str, str]:
        names = "AZ_BATCH_APP_PACKAGE_"
        return {key.removeprefix(names): value for key, value in self.seen[task].items() if key.startswith(names)}

    def unpacked(self) -> list[str]:
        return sorted(os.listdir(self.root / "applications"))

    def left_over(self) -> list[str]:
        work = self.root / "volatile/packages"
        return sorted(os.listdir(work)) if work.exists() else []


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(task_runner, "_RETRY_PAUSE_S", 0.0)
    bench = Bench(tmp_path / "root")
    yield bench
    for runner in bench.runners:
        await runner.close()


def failure_of(outcome: Outcome) -> tuple[str, str]:
    assert outcome.failure is not None
    return outcome.failure.code, outcome.failure.message


async def test_a_task_finds_its_packages_under_names_in_both_spellings(bench: Bench) -> None:
    package = bench.package("my-app", "4.1#rc.2".replace("#", "-"), isDefault=True)
    other = bench.package("Solo", "7")
    outcome = await bench.run("t", package, other)
    assert (outcome.exit_code, outcome.failure) == (0, None)
    path, solo = bench.variables("t")["my_app"], bench.variables("t")["Solo_7"]
    assert bench.variables("t") == {
        "my_app": path,
        "MY_APP": path,
        "my_app_4_1_rc_2": path,
        "MY_APP_4_1_RC_2": path,
        "Solo_7": solo,
        "SOLO_7": solo,
    }
    assert (Path(path) / "tool").read_text() == "my-app 4.1-rc.2"
    assert os.access(Path(path) / "tool", os.X_OK)
    # As in the layout of the service: id, version, time.
    assert Path(path).parent == bench.root / "applications"
    assert Path(path).name.startswith("my-app4.1-rc.22019-01-15-09-29-")
    assert bench.left_over() == []


async def test_a_setting_of_the_task_may_refer_to_them(bench: Bench) -> None:
    settings = [{"name": "TOOL", "value": "$AZ_BATCH_APP_PACKAGE_ffmpeg_4_1/tool"}]
    await bench.run("t", bench.package(), environmentSettings=settings)
    assert read(bench.seen["t"]["TOOL"]) == "ffmpeg 4.1"


async def test_packages_of_a_task_are_its_own_affair_and_those_of_the_pool_everybodys(bench: Bench) -> None:
    assert (await bench.set_up(bench.package("base", "1", isDefault=True))).exit_code == 0
    await bench.run("with", bench.package("mine", "2"))
    await bench.run("without")
    assert sorted(bench.variables("with")) == ["BASE", "BASE_1", "MINE_2", "base", "base_1", "mine_2"]
    assert sorted(bench.variables("without")) == ["BASE", "BASE_1", "base", "base_1"]
    # An agent that begins again knows.
    await bench.runner.close()
    bench.next_life()
    await bench.run("later")
    assert bench.variables("later") == bench.variables("without")
    # A task's own default wins over that of the pool.
    await bench.run("newer", bench.package("base", "2", isDefault=True))
    newer = bench.variables("newer")
    assert newer["base"] == newer["base_2"] != newer["base_1"]


async def test_setting_up_again_replaces_what_is_told_and_leaves_what_is_there(bench: Bench) -> None:
    await bench.set_up(bench.package("a", "1", isDefault=True))
    await bench.set_up(bench.package("a", "2", isDefault=True))
    await bench.run("t")
    assert sorted(bench.variables("t")) == ["A", "A_2", "a", "a_2"]
    assert len(bench.unpacked()) == 2
    await bench.set_up()
    await bench.run("u")
    assert bench.variables("u") == {}


async def test_what_is_there_is_not_fetched_again_unless_its_content_is_another(bench: Bench) -> None:
    package = bench.package()
    await bench.run("t1", package)
    await bench.run("t2", package)
    await bench.set_up(package)
    assert len(bench.fetched) == 1
    await bench.run("t3", bench.package(content=zipped(tool="made anew")))
    assert len(bench.fetched) == 2
    assert read(bench.variables("t3")["ffmpeg_4_1"], "tool") == "made anew"
    assert read(bench.variables("t1")["ffmpeg_4_1"], "tool") == "ffmpeg 4.1"


async def test_tasks_that_start_together_share_one_download(bench: Bench) -> None:
    package = bench.package()
    bench.staging.gate.clear()
    tasks = [asyncio.create_task(bench.run(f"t{number}", package)) for number in range(5)]
    await until_true(lambda: bench.staging.waiting == 1)
    bench.staging.gate.set()
    outcomes = await asyncio.gather(*tasks)
    assert [outcome.exit_code for outcome in outcomes] == [0] * 5
    assert len(bench.fetched) == 1


async def test_one_that_is_stopped_leaves_the_download_to_the_others_and_the_last_ends_it(bench: Bench) -> None:
    package = bench.package()
    bench.staging.gate.clear()
    first, second = (asyncio.create_task(bench.run(f"t{number}", package)) for number in range(2))
    await until_true(lambda: bench.staging.waiting == 1)
    await bench.runner.stop(100, 1)
    assert failure_of(await first)[0] == "TaskEnded"
    assert bench.staging.waiting == 1
    await bench.runner.stop(101, 1)
    assert failure_of(await second)[0] == "TaskEnded"
    await until_true(lambda: bench.staging.waiting == 0)
    bench.staging.gate.set()
    assert (await bench.run("t", package)).exit_code == 0
    assert len(bench.fetched) == 2


async def test_a_setup_is_ended_when_the_agent_is(bench: Bench) -> None:
    bench.staging.gate.clear()
    setup = asyncio.create_task(bench.set_up(bench.package()))
    await until_true(lambda: bench.staging.waiting == 1)
    await bench.runner.stop(NODE_SETUP_KEY, 1)
    assert failure_of(await setup)[0] == "TaskEnded"
    assert bench.unpacked() == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a zip", "is not a zip file"),
        (zipped(**{"../out": "x"}), "leads out"),
        (b"", "is not a zip file"),
    ],
)
async def test_a_zip_that_cannot_be_used_fails_task_and_setup(bench: Bench, content: bytes, words: str) -> None:
    package = bench.package(content=content)
    for outcome in (await bench.run("t", package), await bench.set_up(package)):
        code, message = failure_of(outcome)
        assert (code, outcome.exit_code, outcome.retryable) == ("ApplicationPackageError", None, False)
        assert "'ffmpeg' version '4.1' could not be deployed" in message
        assert words in message
    assert (bench.unpacked(), bench.left_over()) == ([], [])
    assert bench.seen == {}


async def test_a_zip_that_is_not_the_one_that_was_activated(bench: Bench) -> None:
    package = bench.package()
    bench.staging.files[package["url"]] = zipped(tool="other")
    code, message = failure_of(await bench.run("t", package))
    assert code == "ApplicationPackageError"
    assert "is not the one that was activated" in message
    assert (bench.unpacked(), bench.left_over()) == ([], [])


async def test_a_reference_that_names_nothing_says_why(bench: Bench) -> None:
    outcome = await bench.run("t", {"id": "a", "version": "", "problem": "It has no default version."})
    code, message = failure_of(outcome)
    assert code == "ApplicationPackageError"
    assert message == "The application package 'a' could not be deployed: It has no default version."
    assert outcome.failure is not None
    assert outcome.failure.category is ErrorCategory.USER_ERROR


async def test_a_download_that_fails_keeps_its_cause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    package = bench.package()
    del bench.staging.files[package["url"]]
    outcome = await bench.run("t", package)
    assert failure_of(outcome)[0] == "ApplicationPackageError"
    assert outcome.failure is not None
    assert ("Cause", "BlobNotFound") in [(one.name, one.value) for one in outcome.failure.details]

    async def fetch(url: str, path: str, **more: Any) -> None:
        raise TaskFailure(TaskFailureCode.BLOB_DOWNLOAD_TIMED_OUT, "nobody answers", user_error=False)

    monkeypatch.setattr(bench.staging, "fetch", fetch)
    outcome = await bench.set_up(package)
    assert (failure_of(outcome)[0], outcome.retryable) == ("ApplicationPackageError", True)


async def test_what_a_crash_left_is_cleared_and_whole_packages_stay(bench: Bench) -> None:
    await bench.run("t", bench.package())
    await bench.runner.close()
    (bench.root / "volatile/packages/0").mkdir(parents=True)
    (bench.root / "volatile/packages/0.zip").write_bytes(b"half")
    bench.next_life()
    assert (await bench.run("u", bench.package(), bench.package("new", "1"))).exit_code == 0
    assert len(bench.fetched) == 2
    assert bench.left_over() == []
