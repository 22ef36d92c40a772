"""An engine's batches: decided piece by piece, the next one while the one before is on its way to the disk."""

import asyncio

import pytest

from millpond.control import engine
from millpond.control.engine import BaseEngine
from millpond.control.settings import ControlSettings
from millpond.domain.effects import DeletePool, Reply
from millpond.domain.errors import BatchError, Bug, ErrorCode, LeaseLost, StoreUnavailable
from millpond.domain.pool import Pool
from millpond.domain.states import AllocationState, PoolState
from millpond.store.memory import MemoryStore


class Said(str):
    """An event that may go ahead, and has a row (the deletion of a pool that never was)."""

    at = 0.0
    cause = "a test"


class Asked(Said):
    """An event that may not go ahead."""


class Recorder(BaseEngine):
    """Its memory is the list of the events it was given, with the places where a batch ended."""

    _ahead = frozenset({Said})

    def __init__(self):
        self.store = MemoryStore()
        super().__init__("key", "a recorder", self.store, lambda: 0.0, ControlSettings(owner="me", store_retry_s=0.01))
        self.carried_out = []
        self.dropped = 0

    async def _load(self):
        return [], []

    def _apply(self, state, event):
        if event == "refused":
            raise BatchError(ErrorCode.JOB_NOT_FOUND)
        state.append(event)
        if event == "a bug":
            raise ZeroDivisionError
        return [Reply(event), DeletePool(_POOL), event]

    def _place(self, state, at):
        state.append("placed")
        return []

    async def _carry_out(self, effects, changes):
        self.carried_out.append([effect for effect in effects if isinstance(effect, str)])

    def _rebuilt(self):
        self.dropped += self.state is None

    def say(self, *events):
        return self.submit_all([Said(event) for event in events])

    def ask(self, event):
        return self.submit(Asked(event))


_POOL = Pool(
    no=1,
    id="none",
    state=PoolState.ACTIVE,
    state_time=0.0,
    allocation_state=AllocationState.STEADY,
    allocation_state_time=0.0,
    creation_time=0.0,
    last_modified=0.0,
    spec={},
    vm_size="small",
)


class Gate:
    """Commits wait here, each until it is told how it ends."""

    def __init__(self, recorder):
        self.waiting = asyncio.Queue()
        recorder.store.before_commit = self._hold

    async def _hold(self, changes):
        end = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait(end)
        error = await end
        if error is not None:
            raise error


@pytest.fixture
async def recorder():
    recorder = Recorder()
    await recorder.store.open()
    await recorder.start()
    recorder.state.clear()
    yield recorder
    recorder.store.before_commit = None
    await recorder.stop()


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def outcomes(*waiting):
    async with asyncio.timeout(60):
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    return [end.code if isinstance(end, BatchError) else end for end in ended]


async def test_others_have_their_turn_within_a_batch(recorder, monkeypatch):
    monkeypatch.setattr(engine, "_WEIGHT_AT_ONCE", 2)
    waiting = [recorder.say(*events) for events in ("a", "b", "cde", ["refused"], "f")]
    seen = []
    while not waiting[0].done():
        if recorder.state == ["a", "b"]:
            waiting.append(recorder.say("late"))
        seen.append(len(recorder.state))
        await asyncio.sleep(0)
    assert {2, 5} <= set(seen)
    assert await outcomes(*waiting) == ["a", "b", "e", ErrorCode.JOB_NOT_FOUND, "f", "late"]
    assert recorder.state == [*"abcdef", "placed", "late", "placed"]


async def test_the_next_batch_is_decided_while_one_is_written(recorder, monkeypatch):
    monkeypatch.setattr(engine, "_WEIGHT_AT_ONCE", 2)
    gate = Gate(recorder)
    first = recorder.say("first")
    end = await gate.waiting.get()
    ahead = [recorder.say(event) for event in ("a", "b", "c", "refused")]
    await until(lambda: recorder.state[-1] == "c")
    for _ in range(5):
        await asyncio.sleep(0)
    # Decided, and no more than that: not placed, not with the store, not answered.
    assert recorder.state == ["first", "placed", "a", "b", "c"]
    assert gate.waiting.empty()
    assert not first.done()
    assert not any(one.done() for one in ahead)
    end.set_result(None)
    assert await outcomes(first) == ["first"]
    assert not any(one.done() for one in ahead)
    (await gate.waiting.get()).set_result(None)
    assert await outcomes(*ahead) == ["a", "b", "c", ErrorCode.JOB_NOT_FOUND]
    await until(lambda: len(recorder.carried_out) == 3)
    assert recorder.carried_out == [[], ["first"], ["a", "b", "c"]]
    assert recorder.state == ["first", "placed", "a", "b", "c", "placed"]


async def test_what_may_not_go_ahead_holds_up_what_came_after_it(recorder):
    gate = Gate(recorder)
    first = recorder.say("first")
    end = await gate.waiting.get()
    rest = [recorder.say("a"), recorder.ask("b"), recorder.say("c")]
    await until(lambda: recorder.state[-1] == "a")
    for _ in range(5):
        await asyncio.sleep(0)
    assert recorder.state == ["first", "placed", "a"]
    end.set_result(None)
    (await gate.waiting.get()).set_result(None)
    assert await outcomes(first, *rest) == ["first", "a", "b", "c"]
    assert recorder.state == ["first", "placed", "a", "b", "c", "placed"]


async def test_no_more_goes_ahead_than_one_batch(recorder, monkeypatch):
    monkeypatch.setattr(engine, "_BATCH_WEIGHT", 2)
    gate = Gate(recorder)
    first = recorder.say("first")
    end = await gate.waiting.get()
    rest = [recorder.say(event) for event in ("a", "b", "c")]
    await until(lambda: recorder.state[-1] == "b")
    for _ in range(5):
        await asyncio.sleep(0)
    assert recorder.state == ["first", "placed", "a", "b"]
    recorder.store.before_commit = None
    end.set_result(None)
    assert await outcomes(first, *rest) == ["first", "a", "b", "c"]
    assert recorder.state == ["first", "placed", "a", "b", "placed", "c", "placed"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreUnavailable("full"), ErrorCode.SERVER_BUSY),
        (LeaseLost("another's"), ErrorCode.SERVER_BUSY),
        (Bug("one row too many"), ErrorCode.INTERNAL_ERROR),
    ],
)
async def test_a_commit_that_fails_takes_what_went_ahead_with_it(recorder, error, code):
    gate = Gate(recorder)
    first = recorder.say("first")
    end = await gate.waiting.get()
    ahead = recorder.say("a")
    await until(lambda: recorder.state[-1] == "a")
    recorder.store.before_commit = None
    end.set_result(error)
    assert await outcomes(first, ahead) == [code] * 2
    assert recorder.dropped == 1
    assert recorder.carried_out == [[]]
    await until(lambda: recorder.available)
    assert await outcomes(recorder.say("b")) == ["b"]
    assert recorder.state == ["placed", "b", "placed"]


async def test_it_is_rebuilt_once_that_can_be_done(recorder, monkeypatch, caplog):
    tries = []

    async def load():
        tries.append(len(tries))
        if len(tries) < 3:
            raise KeyError("a row nobody can read")
        return [], []

    monkeypatch.setattr(recorder, "_load", load)
    recorder.store.fail_next_commit = Bug("one row too many")
    assert await outcomes(recorder.say("lost")) == [ErrorCode.INTERNAL_ERROR]
    # Nobody has to ask for it.
    await until(lambda: recorder.available)
    assert tries == [0, 1, 2]
    assert caplog.text.count("cannot be rebuilt; that is tried again") == 2
    assert await outcomes(recorder.say("a")) == ["a"]


async def test_a_bug_in_what_went_ahead_leaves_the_batch_before_it_alone(recorder):
    gate = Gate(recorder)
    first = recorder.say("first")
    end = await gate.waiting.get()
    ahead = [recorder.say(event) for event in ("a", "a bug", "b")]
    # Nobody waits for the disk to hear of it, nor sees the memory that is half changed.
    assert await outcomes(*ahead[:2]) == [ErrorCode.INTERNAL_ERROR] * 2
    assert not recorder.available
    assert not first.done()
    recorder.store.before_commit = None
    end.set_result(None)
    assert await outcomes(first, ahead[2]) == ["first", "b"]
    assert recorder.carried_out == [[], ["first"], [], ["b"]]
    assert recorder.state == ["placed", "b", "placed"]


@pytest.mark.parametrize("what", ["_committed", "_carry_out"])
async def test_what_follows_from_a_batch_may_fail(recorder, monkeypatch, what):
    def fail(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as planted:
        planted.setattr(recorder, what, fail)
        # It is on disk, and whoever asked hears so.
        assert await outcomes(recorder.say("a")) == ["a"]
        await until(lambda: recorder.dropped == 1)
    await until(lambda: recorder.available)
    assert await outcomes(recorder.say("b")) == ["b"]
    assert recorder.state == ["placed", "b", "placed"]


async def test_all_who_wait_hear_that_the_service_stops(recorder):
    gate = Gate(recorder)
    waiting = [recorder.say("first")]
    await gate.waiting.get()
    waiting += [recorder.say("a"), recorder.ask("b")]
    await until(lambda: recorder.state[-1] == "a")
    await recorder.stop()
    assert await outcomes(*waiting) == [ErrorCode.SERVER_BUSY] * 3
