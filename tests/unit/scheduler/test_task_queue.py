"""The queue does what a deque does, whatever its length, and holds nothing that the garbage collector looks at."""

import gc
import random
from collections import deque

import pytest

from millpond.domain.states import TaskState
from millpond.domain.task import Task
from millpond.scheduler import task_queue
from millpond.scheduler.task_queue import TaskQueue


def a_task(number: int) -> Task:
    return Task(number, f"t{number}", TaskState.ACTIVE, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_a_deque(monkeypatch, seed):
    chance = random.Random(seed)
    monkeypatch.setattr(task_queue, "_BLOCK", chance.choice([1, 2, 3, 7]))
    queue, plain = TaskQueue(), deque()
    numbers = iter(range(10_000))
    growing = True
    for _ in range(600):
        what = chance.random()
        if what < 0.3:
            task = a_task(next(numbers))
            queue.append(task)
            plain.append(task)
        elif what < (0.4 if growing else 0.31):
            some = [a_task(next(numbers)) for _ in range(chance.randrange(12))]
            queue.extend(some)
            plain.extend(some)
        elif what < 0.5:
            task = a_task(next(numbers))
            queue.appendleft(task)
            plain.appendleft(task)
        elif what < 0.995:
            if plain:
                assert queue.head is plain[0]
                assert queue.popleft() is plain.popleft()
        else:
            growing = not growing
        assert len(queue) == len(plain)
        assert bool(queue) is bool(plain)
        assert list(queue) == list(plain)
    queue.clear()
    assert not queue
    assert len(queue) == 0
    assert list(queue) == []


@pytest.mark.parametrize("ask", [lambda queue: queue.head, TaskQueue.popleft])
def test_an_empty_queue_has_no_first(ask):
    with pytest.raises(IndexError):
        ask(TaskQueue())


def test_the_collector_looks_at_little_of_a_long_queue():
    queue = TaskQueue()
    queue.extend(a_task(number) for number in range(100_000))
    for number in range(100_000, 200_000):
        queue.append(a_task(number))
    # Tuples it lets go of when it first sees them.
    gc.collect()
    seen = [one for one in gc.get_objects() if type(one) in (tuple, list, deque) and one and type(one[0]) is Task]
    assert seen
    assert sum(map(len, seen)) < 5_000
