"""The local provider and a host that does not do what it should."""

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from millpond.domain.errors import ProviderError
from millpond.providers.base import NodeCreated, NodeRefused, NodeRequest, NodeStatus, VmSize
from millpond.providers.local import LocalProvider
from tests.waiting import PATIENCE_S

SIZE = VmSize("local", 2, 1024, 0.0)
REQUEST = NodeRequest("n1", "p", SIZE, 1, True, "t")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def short_lived(tmp_path: Path) -> AsyncIterator[tuple[LocalProvider, Clock, Path]]:
    """A provider whose host says `begun` and is gone."""
    clock = Clock()
    directory = tmp_path / "nodes"
    provider = LocalProvider(str(directory), command=("/bin/sh", "-c", "echo begun", "host"), monotonic=clock)
    yield provider, clock, directory
    await provider.stop_host()


async def begun(provider: LocalProvider, directory: Path, expected: int) -> None:
    """Wait until that many hosts have begun, and see that no more do."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await provider.observe([])
            if (directory / "host.log").read_text().count("begun") >= expected and provider._child is None:
                break
            await asyncio.sleep(0.005)
    for _ in range(5):
        await provider.observe([])
    assert (directory / "host.log").read_text().count("begun") == expected


async def test_a_host_that_dies_again_and_again_is_started_with_growing_pauses(
    short_lived: tuple[LocalProvider, Clock, Path],
) -> None:
    provider, clock, directory = short_lived
    await provider.create([REQUEST])
    await begun(provider, directory, 2)
    clock.now += 0.9
    await begun(provider, directory, 2)
    clock.now += 0.2
    await begun(provider, directory, 3)
    clock.now += 1.9
    await begun(provider, directory, 3)
    clock.now += 0.2
    await begun(provider, directory, 4)
    clock.now += 3600
    await begun(provider, directory, 6)


async def test_the_host_begins_with_the_limit_of_open_files_it_is_given(tmp_path: Path) -> None:
    command = ("/bin/sh", "-c", "sleep 1000 & wait", "host")
    provider = LocalProvider(str(tmp_path / "nodes"), command=command, open_files=333)
    await provider.create([REQUEST])
    child = provider._child
    assert child is not None
    assert resource.prlimit(child, resource.RLIMIT_NOFILE)[0] == 333
    await provider.stop_host()


async def test_a_machine_that_is_full_refuses_more_nodes(tmp_path: Path) -> None:
    provider = LocalProvider(str(tmp_path / "nodes"), command=("/bin/sh", "-c", "sleep 1000 & wait"), max_nodes=2)
    requests = [msgspec.structs.replace(REQUEST, node_id=f"n{number}") for number in range(4)]
    *made, third, fourth = await provider.create(requests)
    assert all(isinstance(answer, NodeCreated) for answer in made)
    assert isinstance(third, NodeRefused)
    assert isinstance(fourth, NodeRefused)
    assert (third.code, third.retryable) == ("AllocationFailed", False)
    assert "all the nodes it may have, 2" in third.message
    assert third.message == fourth.message
    # Those that are there are asked for again after a restart of the service.
    assert await provider.create(requests[:2]) == made
    await provider.stop_host()


async def test_while_there_is_no_host_nodes_are_pending(short_lived: tuple[LocalProvider, Clock, Path]) -> None:
    provider, _, directory = short_lived
    (created,) = await provider.create([REQUEST])
    await begun(provider, directory, 2)
    assert await provider.observe([getattr(created, "handle", "")]) == [NodeStatus.PENDING]


async def test_a_host_that_is_no_program_is_an_error(tmp_path: Path) -> None:
    provider = LocalProvider(str(tmp_path / "nodes"), command=("/no/such/program",))
    with pytest.raises(ProviderError, match="No such file") as error:
        await provider.create([REQUEST])
    assert error.value.retryable
    assert await provider.observe(["{}"]) == [NodeStatus.UNKNOWN]


async def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    provider = LocalProvider(str(tmp_path / "file" / "nodes"))
    with pytest.raises(ProviderError, match="cannot be used"):
        await provider.create([REQUEST])


async def test_the_endpoint_is_written_at_every_start(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1", "http://127.0.0.1:2"):
        provider = LocalProvider(str(tmp_path), endpoint=url, command=("/bin/true",))
        await provider.prepare()
        assert (tmp_path / "endpoint").read_text() == url
        await provider.stop_host()


async def test_what_the_service_was_configured_with_is_not_handed_to_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLPOND_ACCOUNT_KEY", "secret")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    provider = LocalProvider(str(tmp_path), command=("/bin/sh", "-c", "env; echo end", "host"))
    await provider.prepare()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            text = (tmp_path / "host.log").read_text()
            if "end\n" in text:
                break
            await asyncio.sleep(0.005)
    assert "kept" in text
    assert "secret" not in text
    await provider.stop_host()
