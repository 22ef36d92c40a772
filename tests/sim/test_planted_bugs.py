"""The invariants bite: bugs planted into a copy of the sources are noticed within a few seeds.

`make planted-bugs` plants all of them, and prints how many seeds each one needs.
"""

import planted_bugs
import pytest

MUTATIONS = planted_bugs.mutations()


def test_every_text_to_replace_is_in_the_sources() -> None:
    for mutation in MUTATIONS:
        assert mutation.story
        assert planted_bugs.changed_files(mutation), mutation.name
    assert len(MUTATIONS) >= 12


def test_a_text_that_is_gone_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gone = MUTATIONS[0]._replace(edits=(planted_bugs.Edit("scheduler/core.py", "what nobody ever wrote", ""),))
    monkeypatch.setattr(planted_bugs, "mutations", lambda: [gone])
    assert planted_bugs.main([]) == 2
    assert "found 0 times in scheduler/core.py" in capsys.readouterr().err


def test_sources_without_a_bug_are_not_accused() -> None:
    harmless = MUTATIONS[0]._replace(edits=(planted_bugs.Edit("scheduler/core.py", '"""The scheduler:', '"""It:'),))
    verdict = planted_bugs.hunt(harmless, 1, 2, 3.0)
    assert (verdict.seeds, verdict.problem) == (0, "2 seeds, and nobody noticed")


@pytest.mark.parametrize("mutation", [one for one in MUTATIONS if one.quick], ids=lambda one: one.name)
def test_it_is_noticed(mutation: planted_bugs.Mutation) -> None:
    verdict = planted_bugs.hunt(mutation, 1, 60, 5.0)
    assert not verdict.problem, f"{verdict.problem}: {verdict.violation}"
    assert verdict.story
