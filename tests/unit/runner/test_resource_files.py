"""Resource files through the runner's seam: all of them or none, from storage in memory."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from millpond.agent.base import Outcome
from millpond.agent.content_cache import CacheSettings, ContentCache
from millpond.agent.node_dirs import NodeDirectories
from millpond.agent.runner import input_plan
from millpond.agent.runner.hooks.resource_files import ResourceFiles
from millpond.agent.runner.spec import decode_spec
from millpond.agent.runner.task_runner import TaskRunner
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.domain.states import TaskKind
from millpond.protocol.messages import Instance
from tests.unit.runner.test_task_runner import Bench, code_of, time_is_up
from tests.waiting import until_true

CONTAINER = {"storageContainerUrl": "mem://c"}


def with_cache(bench: Bench) -> ContentCache:
    cache = ContentCache(f"{bench.root.parent}/cache", CacheSettings(input_cache_mib=64))
    cache.open(os.unlink)
    bench.runner = TaskRunner(
        bench.facts, bench.executor, bench.staging, directories=NodeDirectories(str(bench.root)), cache=cache
    )
    bench.runners.append(bench.runner)
    return cache


def tree(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def details(outcome: Outcome) -> dict[str, str]:
    assert outcome.failure is not None
    return {detail.name: detail.value for detail in outcome.failure.details}


def nothing_is_left(bench: Bench) -> bool:
    return not any(bench.wd.iterdir()) and not any((bench.root / "volatile/inputs").iterdir())


# --- what there is and where it goes --------------------------------------------------------------------------------


async def test_the_structure_of_a_container_is_kept(bench: Bench) -> None:
    bench.staging.files = {
        "mem://c/a": b"1",
        "mem://c/d/a": b"2",
        "mem://c/d/e/f/a": b"3",
        "mem://c/empty": b"",
        "mem://c/marked/": b"",
        "mem://c/also": b"",
        "mem://c/also/there": b"4",
        "mem://c/x y/ü%2F": b"5",
    }
    outcome = await bench.run(resourceFiles=[{**CONTAINER, "filePath": "in/"}, {**CONTAINER, "blobPrefix": "d/e"}])
    assert outcome.failure is None
    assert tree(bench.wd) == {
        "d/e/f/a": b"3",
        "in/a": b"1",
        "in/also/there": b"4",
        "in/d/a": b"2",
        "in/d/e/f/a": b"3",
        "in/empty": b"",
        "in/x y/ü%2F": b"5",
    }
    assert (bench.wd / "in/marked").is_dir()


@pytest.mark.parametrize("path", [".", "./", ""])
async def test_a_container_may_go_into_the_working_directory_itself(bench: Bench, path: str) -> None:
    bench.staging.files = {"mem://c/a": b"1"}
    assert (await bench.run(resourceFiles=[{**CONTAINER, "filePath": path}])).failure is None
    assert tree(bench.wd) == {"a": b"1"}


async def test_the_later_one_counts(bench: Bench) -> None:
    bench.staging.files = {"mem://c/a": b"1", "mem://x/2": b"2", "mem://x/3": b"3"}
    files = [
        {"httpUrl": "mem://x/2", "filePath": "a"},
        CONTAINER,
        {"httpUrl": "mem://x/3", "filePath": "./a", "fileMode": "0600"},
    ]
    assert (await bench.run(resourceFiles=files)).failure is None
    assert tree(bench.wd) == {"a": b"3"}
    assert (bench.wd / "a").stat().st_mode & 0o777 == 0o600


async def test_no_blobs_for_a_prefix(bench: Bench) -> None:
    outcome = await bench.run(resourceFiles=[{**CONTAINER, "blobPrefix": "none"}])
    assert (outcome.exit_code, outcome.failure) == (0, None)
    assert nothing_is_left(bench)


@pytest.mark.parametrize(
    ("blobs", "code", "name"),
    [
        ({"a": b"1", "a/b": b"2"}, "ResourceDirectoryCreateFailed", "a"),
        ({"a": b"1", "a/b/c/d": b"2"}, "ResourceDirectoryCreateFailed", "a"),
        ({"a": b"1", "a/": b""}, "ResourceDirectoryCreateFailed", "a"),
        ({"a/": b"1"}, "ResourceFileCreateFailed", "a/"),
        ({"a/b": b"1", "a//b": b"2"}, "ResourceFileCreateFailed", "a//b"),
        ({"ok": b"", "../a": b"1"}, "ResourceFileCreateFailed", "../a"),
        ({"ok": b"", "/etc/passwd": b"1"}, "ResourceFileCreateFailed", "/etc/passwd"),
        ({"ok": b"", "a/../../b": b"1"}, "ResourceFileCreateFailed", "a/../../b"),
        ({"ok": b"", "a\0": b"1"}, "ResourceFileCreateFailed", "a\0"),
        ({"ok": b"", "a\udcff": b"1"}, "ResourceFileCreateFailed", "a?"),
        ({"ok": b"", "./": b""}, "ResourceFileCreateFailed", "./"),
        ({"d" * 300 + "/a": b"1"}, "ResourceDirectoryCreateFailed", "d" * 300),
    ],
)
async def test_blobs_that_cannot_be_files(bench: Bench, blobs: dict[str, bytes], code: str, name: str) -> None:
    bench.staging.files = {f"mem://c/{blob}": data for blob, data in blobs.items()}
    fetched: list[str] = []
    fetch = bench.staging.fetch

    async def counted(url: str, path: str, *, known_etag: str = "") -> Any:
        fetched.append(url)
        return await fetch(url, path, known_etag=known_etag)

    bench.staging.fetch = counted
    outcome = await bench.run(resourceFiles=[CONTAINER])
    assert code_of(outcome) == code
    assert details(outcome)["FilePath"] == name
    # Before anything was fetched.
    assert fetched == []
    assert nothing_is_left(bench)


async def test_too_many_files(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_plan, "MAX_FILES", 10)
    bench.staging.files = {f"mem://c/p/{number}": b"" for number in range(6)}
    assert (await bench.run(resourceFiles=[CONTAINER])).failure is None
    outcome = await bench.run(2, resourceFiles=[CONTAINER, {**CONTAINER, "blobPrefix": "p", "filePath": "d"}])
    assert code_of(outcome) == "ResourceContainerListMiscError"
    assert details(outcome) == {"BlobPrefix": "p"}
    assert nothing_is_left(bench)


async def test_a_name_too_long_for_the_disk(bench: Bench) -> None:
    bench.staging.files = {"mem://c/" + "n" * 300: b"1"}
    outcome = await bench.run(resourceFiles=[CONTAINER])
    assert code_of(outcome) == "ResourceFileWriteFailed"
    assert details(outcome)["FilePath"] == "n" * 300


async def test_files_that_exclude_each_other_across_resource_files(bench: Bench) -> None:
    bench.staging.files = {"mem://x/1": b"1"}
    files = [{"httpUrl": "mem://x/1", "filePath": path} for path in ("a/b", "a")]
    outcome = await bench.run(resourceFiles=files)
    assert code_of(outcome) == "ResourceDirectoryCreateFailed"
    assert details(outcome)["FilePath"] == "a"


# --- failures -------------------------------------------------------------------------------------------------------


async def test_a_failure_names_the_file_and_leaves_nothing(bench: Bench) -> None:
    bench.staging.files = {f"mem://c/d/{number}": b"1" for number in range(100)}
    outcome = await bench.run(
        resourceFiles=[{**CONTAINER, "filePath": "in"}, {"httpUrl": "mem://x/gone?sig=secret", "filePath": "b/c"}]
    )
    assert code_of(outcome) == "BlobNotFound"
    assert details(outcome) == {"FilePath": "b/c", "BlobSource": "mem://x/gone"}
    assert nothing_is_left(bench)
    assert not outcome.retryable


@pytest.mark.parametrize(
    "code",
    [
        TaskFailureCode.RESOURCE_CONTAINER_NOT_FOUND,
        TaskFailureCode.RESOURCE_CONTAINER_ACCESS_DENIED,
        TaskFailureCode.RESOURCE_CONTAINER_LIST_MISC_ERROR,
    ],
)
async def test_a_listing_that_fails(bench: Bench, code: TaskFailureCode) -> None:
    async def fail(container_url: str, prefix: str) -> list[Any]:
        raise TaskFailure(code, "no", FilePath="mem://c", HttpStatus="4")

    bench.staging.list = fail
    outcome = await bench.run(resourceFiles=[{"storageContainerUrl": "mem://c?sig=secret", "blobPrefix": "p/"}])
    assert code_of(outcome) == code
    assert details(outcome) == {"HttpStatus": "4", "StorageContainerUrl": "mem://c", "BlobPrefix": "p/"}


async def test_a_retried_attempt_replaces(bench: Bench) -> None:
    bench.staging.files = {"mem://c/a": b"1", "mem://c/b": b"1"}
    await bench.run(resourceFiles=[CONTAINER])
    (bench.wd / "left").write_text("by the first attempt")
    bench.staging.files = {"mem://c/a": b"2"}
    assert (await bench.run(2, resourceFiles=[CONTAINER])).failure is None
    assert tree(bench.wd) == {"a": b"2"}


@pytest.mark.parametrize("how", ["stop", "wall clock", "the agent ends"])
async def test_interrupted_while_downloading(bench: Bench, how: str) -> None:
    bench.staging.files = {f"mem://c/{number}": b"1" for number in range(40)}
    fetch = bench.staging.fetch

    async def some(url: str, path: str, *, known_etag: str = "") -> Any:
        if url.endswith("3"):
            bench.staging.gate.clear()
        return await fetch(url, path, known_etag=known_etag)

    bench.staging.fetch = some
    run = bench.begin(resourceFiles=[CONTAINER], constraints={"maxWallClockTime": "PT1H"})
    await until_true(lambda: bench.staging.waiting == 16)
    assert any((bench.root / "volatile/inputs").rglob("*"))
    if how == "stop":
        await bench.runner.stop(7, 1)
    elif how == "wall clock":
        time_is_up(bench.runner)
    else:
        run.cancel()
    await asyncio.wait([run])
    if how != "the agent ends":
        assert code_of(run.result()) == "TaskEnded"
    assert bench.staging.waiting == 0
    assert nothing_is_left(bench)
    assert bench.executor.started == []


async def test_what_an_earlier_life_left_is_swept(bench: Bench) -> None:
    await bench.run()
    left = bench.root / "volatile/inputs/1-1"
    left.mkdir()
    (left / "half").write_text("half")
    bench.next_life()
    await bench.run(2)
    assert nothing_is_left(bench)


# --- the kinds of tasks ---------------------------------------------------------------------------------------------


async def test_a_start_tasks_files(bench: Bench) -> None:
    bench.staging.files = {"mem://c/a": b"1"}
    for attempt in (1, 2):
        start = structs.replace(bench.start(attempt, resourceFiles=[CONTAINER]), kind=TaskKind.START_TASK)
        outcome = await bench.runner.run(start, bench.started.append, resumed=False)
        assert outcome.failure is None
        assert tree(bench.root / "startup/wd") == {"a": b"1"}


async def test_common_files_and_own_ones(bench: Bench) -> None:
    bench.staging.files = {"mem://c/a": b"1", "mem://c/d/b": b"2", "mem://x/own": b"3", "mem://x/deep": b"4"}
    start = bench.start(
        resourceFiles=[{"httpUrl": "mem://x/own", "filePath": "own"}],
        multiInstanceSettings={
            "coordinationCommandLine": "c",
            "numberOfInstances": 1,
            "commonResourceFiles": [CONTAINER, {"httpUrl": "mem://x/deep", "filePath": "wd/deep"}],
        },
    )
    start = structs.replace(start, kind=TaskKind.INSTANCE, instance=Instance(0, ("127.0.0.1",)))
    run = asyncio.create_task(
        bench.runner.run(start, bench.started.append, resumed=False, coordinated=lambda: bench.runner.proceed(7, 1))
    )
    assert (await run).failure is None
    found = tree(bench.task)
    assert {name: data for name, data in found.items() if not name.startswith("std")} == {
        "a": b"1",
        "d/b": b"2",
        "wd/own": b"3",
        "wd/deep": b"4",
    }


# --- the cache ------------------------------------------------------------------------------------------------------


async def test_the_same_container_is_fetched_once(bench: Bench) -> None:
    cache = with_cache(bench)
    bench.staging.files = {f"mem://c/d/{number}": b"%d" % number for number in range(200)}
    fetched: list[tuple[str, str]] = []
    fetch = bench.staging.fetch

    async def counted(url: str, path: str, *, known_etag: str = "") -> Any:
        fetched.append((url, known_etag))
        return await fetch(url, path, known_etag=known_etag)

    bench.staging.fetch = counted
    wanted = {name.removeprefix("mem://c/"): data for name, data in bench.staging.files.items()}
    for attempt in (1, 2):
        outcome = await bench.run(attempt, resourceFiles=[{**CONTAINER, "fileMode": "0750"}])
        assert outcome.failure is None
        assert tree(bench.wd) == wanted
        assert {path.stat().st_mode & 0o777 for path in (bench.wd / "d").iterdir()} == {0o750}
        for path in (bench.wd / "d").iterdir():
            path.write_bytes(b"spoiled")
        assert len(fetched) == (200 if attempt == 1 else 1)
        assert bool(fetched[0][1]) == (attempt == 2)
        fetched.clear()
    # One has changed, one is new, one is gone.
    bench.staging.files["mem://c/d/7"] = b"changed"
    bench.staging.files["mem://c/d/new"] = b"new"
    del bench.staging.files["mem://c/d/8"]
    wanted = {name.removeprefix("mem://c/"): data for name, data in bench.staging.files.items()}
    assert (await bench.run(3, resourceFiles=[CONTAINER])).failure is None
    assert tree(bench.wd) == wanted
    assert {url[-3:] for url, _ in fetched} >= {"d/7", "new"}
    assert len(fetched) == 3
    assert cache.used > 0


async def test_who_may_list_but_not_read_gets_nothing_from_the_cache(bench: Bench) -> None:
    with_cache(bench)
    bench.staging.files = {f"mem://c/{number}": b"1" for number in range(3)}
    await bench.run(resourceFiles=[CONTAINER])

    async def refuse(url: str, path: str, *, known_etag: str = "") -> Any:
        raise TaskFailure(TaskFailureCode.BLOB_ACCESS_DENIED, "no")

    bench.staging.fetch = refuse
    outcome = await bench.run(2, resourceFiles=[CONTAINER])
    assert code_of(outcome) == "BlobAccessDenied"
    assert nothing_is_left(bench)


async def test_a_full_disk_has_the_cache_give_way_once(bench: Bench) -> None:
    cache = with_cache(bench)
    bench.staging.files = {"mem://x/old": os.urandom(100_000), "mem://x/new": b"n" * 100_000}
    await bench.run(resourceFiles=[{"httpUrl": "mem://x/old", "filePath": "a"}])
    assert cache.used > 0
    fetch = bench.staging.fetch
    full = 1

    async def on_a_full_disk(url: str, path: str, *, known_etag: str = "") -> Any:
        nonlocal full
        if full:
            full -= 1
            raise TaskFailure(TaskFailureCode.DISK_FULL, "full")
        return await fetch(url, path, known_etag=known_etag)

    bench.staging.fetch = on_a_full_disk
    outcome = await bench.run(2, resourceFiles=[{"httpUrl": "mem://x/new", "filePath": "a"}])
    assert outcome.failure is None
    assert tree(bench.wd) == {"a": b"n" * 100_000}
    full = 99
    outcome = await bench.run(3, resourceFiles=[{"httpUrl": "mem://x/new", "filePath": "a"}])
    assert code_of(outcome) == "DiskFull"
    assert details(outcome) == {"FilePath": "a", "BlobSource": "mem://x/new"}
    # Once, as there was something to give up; not again.
    assert full == 97
    assert nothing_is_left(bench)
    assert cache.used == 0


# --- what it costs --------------------------------------------------------------------------------------------------


async def test_a_task_without_resource_files_pays_nothing(bench: Bench) -> None:
    cache = with_cache(bench)
    hook = ResourceFiles(bench.staging, cache, "pool")
    start = bench.start()
    attempt = bench.runner._attempt(start, decode_spec(start.spec), 0.0, resumed=False)
    calls: list[str] = []

    def seen(frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            calls.append(frame.f_code.co_name if event == "call" else argument.__name__)

    sys.setprofile(seen)
    try:
        work = hook.prestart(attempt)
    finally:
        sys.setprofile(None)
    assert work is None
    assert calls == ["prestart", "setprofile"]


async def test_no_descriptor_and_no_task_is_left(bench: Bench) -> None:
    with_cache(bench)
    bench.staging.files = {f"mem://c/{number}": os.urandom(100_000) for number in range(30)}
    await bench.run(resourceFiles=[CONTAINER])
    await bench.run(2, resourceFiles=[CONTAINER, {"httpUrl": "mem://x/none", "filePath": "a"}])
    before, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    for attempt in range(3, 8):
        outcome = await bench.run(attempt, resourceFiles=[CONTAINER, {"httpUrl": "mem://x/none", "filePath": "a"}])
        assert code_of(outcome) == "BlobNotFound"
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(asyncio.all_tasks()) == tasks
