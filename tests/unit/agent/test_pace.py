"""How many attempts are handed ahead, by how long the last ones took."""

from millpond.agent.base import Outcome
from millpond.agent.pace import Pace


def after(*took_s: float) -> Pace:
    pace = Pace()
    for one in took_s:
        pace.ended(Outcome(start_time=100.0, end_time=100.0 + one, exit_code=0))
    return pace


def test_some_fifteen_short_ones_begin_it() -> None:
    assert after(*[0.001] * 8).ahead(1) == 0
    assert 0 < after(*[0.001] * 15).ahead(1) < after(*[0.001] * 30).ahead(1) <= 30
    assert after(*[0.0] * 100).ahead(4) == 48


def test_a_long_one_ends_it() -> None:
    assert after(*[0.001] * 30, 0.031).ahead(1) == 0
    assert after(*[0.001] * 30, 0.031, *[0.001] * 15).ahead(1) > 0


def test_a_failed_one_ends_it() -> None:
    pace = after(*[0.001] * 30)
    pace.ended(Outcome(start_time=100.0, end_time=100.001, exit_code=1))
    assert pace.ahead(1) == 0


def test_one_that_was_held_up_leaves_enough_for_the_next() -> None:
    assert after(*[0.001] * 30, 0.01).ahead(1) > 5
