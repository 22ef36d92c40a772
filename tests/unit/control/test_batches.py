"""An engine's batch is decided piece by piece: others have their turn in between, and it stays one batch."""

import asyncio

from millpond.control import engine
from millpond.control.engine import BaseEngine
from millpond.control.settings import ControlSettings
from millpond.domain.effects import Reply
from millpond.domain.errors import BatchError, ErrorCode
from millpond.store.memory import MemoryStore


class Recorder(BaseEngine):
    """Its memory is the list of the events it was given, with the places where a batch ended."""

    def __init__(self):
        super().__init__("key", "a recorder", MemoryStore(), lambda: 0.0, ControlSettings(owner="me"))

    async def _load(self):
        return [], []

    def _apply(self, state, event):
        if event == "refused":
            raise BatchError(ErrorCode.JOB_NOT_FOUND)
        state.append(event)
        return [Reply(event)]

    def _place(self, state, at):
        state.append("placed")
        return []

    async def _carry_out(self, effects, changes):
        pass

    def _rebuilt(self):
        pass


async def test_others_have_their_turn_within_a_batch(monkeypatch):
    monkeypatch.setattr(engine, "_WEIGHT_AT_ONCE", 2)
    recorder = Recorder()
    await recorder._store.open()
    await recorder.start()
    try:
        await recorder.submit("first")
        del recorder.state[:]
        waiting = [recorder.submit_all(events) for events in (["a"], ["b"], ["c", "d", "e"], ["refused"], ["f"])]
        seen = []
        while not waiting[0].done():
            if recorder.state == ["a", "b"]:
                waiting.append(recorder.submit("late"))
            seen.append(len(recorder.state))
            await asyncio.sleep(0)
        assert {2, 5} <= set(seen)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [answer if isinstance(answer, str) else answer.code for answer in answers] == [
            "a",
            "b",
            "e",
            ErrorCode.JOB_NOT_FOUND,
            "f",
            "late",
        ]
        assert recorder.state == [*"abcdef", "placed", "late", "placed"]
    finally:
        await recorder.stop()
