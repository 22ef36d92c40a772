"""Work in a thread that whoever awaits it may not leave behind."""

import asyncio
import threading

import pytest

from millpond.staging.threads import finish_in_thread
from tests.waiting import until_true


async def test_however_often_it_is_cancelled_it_waits_for_the_work() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(60)
        ended.set()

    task = asyncio.create_task(finish_in_thread(work))
    await until_true(begun.is_set)
    for _ in range(3):
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_what_it_returns_and_raises() -> None:
    assert await finish_in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await finish_in_thread(divmod, 7, 0)
