"""Draw the state diagrams of docs/reference/states.md from the tables in `millpond.domain.states`.

python tools/draw_states.py            write the page
python tools/draw_states.py --check    exit 1 when the page is not what the tables say
"""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from millpond.domain import states  # noqa: E402

PAGE: Final = ROOT / "docs" / "reference" / "states.md"

_HEAD: Final = """\
# States

Generated from the tables in `src/millpond/domain/states.py` by `tools/draw_states.py`; a test compares the two. A move
that is not here does not happen: the scheduler refuses it as a mistake of its own. Names are those of the wire.
"""


class Diagram(NamedTuple):
    title: str
    text: str
    first: StrEnum
    moves: Mapping[Any, frozenset[Any]]
    anywhere: tuple[StrEnum, ...] = ()
    """States that most others lead to: told in the table of moves, not drawn, or nobody could read the drawing."""


DIAGRAMS: Final = (
    Diagram(
        "Pool", "A pool that is `deleting` is gone once its last node is.", states.PoolState.ACTIVE, states.POOL_MOVES
    ),
    Diagram(
        "Allocation of a pool",
        "`stopping` leads to `resizing` when the pool is deleted: a stop becomes a resize to zero.",
        states.AllocationState.STEADY,
        states.ALLOCATION_MOVES,
    ),
    Diagram(
        "Compute node",
        "The machine may fail, fall silent, be taken back or be asked to leave in nearly every state. Those moves, to "
        "the states named below the drawing, are in the table. From `creating` a node is made again under its own id "
        "after its machine has vanished.",
        states.NodeState.CREATING,
        states.NODE_MOVES,
        (
            states.NodeState.CREATING,
            states.NodeState.UNKNOWN,
            states.NodeState.UNUSABLE,
            states.NodeState.PREEMPTED,
            states.NodeState.LEAVING_POOL,
        ),
    ),
    Diagram("Job", "A job that is `deleting` is gone once its last row is.", states.JobState.ACTIVE, states.JOB_MOVES),
    Diagram("Job schedule", "", states.JobScheduleState.ACTIVE, states.JOB_SCHEDULE_MOVES),
    Diagram(
        "Task",
        "`preparing` waits on its node for the job preparation task. A task that runs again (a retry, a requeue, a "
        "reactivation) is `active` first.",
        states.TaskState.ACTIVE,
        states.TASK_MOVES,
    ),
    Diagram(
        "Subtask",
        "One instance of a multi-instance task; `running` begins when its coordination command has succeeded.",
        states.SubtaskState.PREPARING,
        states.SUBTASK_MOVES,
    ),
)


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(part for diagram in DIAGRAMS for part in _section(diagram))])


def _section(diagram: Diagram) -> Iterator[str]:
    yield f"## {diagram.title}\n"
    if diagram.text:
        yield textwrap.fill(diagram.text, 120) + "\n"
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {diagram.first}"
    for state, moves in diagram.moves.items():
        for to in sorted(moves):
            if to not in diagram.anywhere:
                yield f"    {state} --> {to}"
        if not moves:
            yield f"    {state} --> [*]"
    yield "```\n"
    if diagram.anywhere:
        names = ", ".join(f"`{state}`" for state in diagram.anywhere)
        yield f"Not drawn are the moves to {names}:\n"
        yield "| from | may go to |"
        yield "| --- | --- |"
        for state, moves in diagram.moves.items():
            yield f"| `{state}` | {', '.join(f'`{to}`' for to in sorted(moves)) or 'nowhere: it is gone'} |"
        yield ""


def main(arguments: list[str]) -> int:
    text = page()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text() == text:
            return 0
        print(f"{PAGE} is not what the tables say: run python tools/draw_states.py", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
