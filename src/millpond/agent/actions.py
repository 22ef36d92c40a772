"""What `agent.state` has an agent do: to write something down (a `Record`), or a deed that follows that."""

from typing import TypeAlias

import msgspec

from millpond.agent.records import Record
from millpond.domain.durations import Timestamp
from millpond.protocol.messages import Start


class Deed(msgspec.Struct, frozen=True, gc=False):
    """Something to be done, once all that was to be written down before is."""


class Launch(Deed, frozen=True, gc=False):
    """Hand the attempt to the runner; answered by `ended`, and by `started` before that unless it never got there."""

    start: Start
    resumed: bool = False
    began: Timestamp = 0.0
    """When it entered, or enters, `running`."""
    width: int = 0
    """Of the lane it runs in (see `ProcessSpec.lane`); 0: in none."""
    ahead: bool = False
    """It waits in its lane for one before it to end: `began` does not count."""


class Kill(Deed, frozen=True, gc=False):
    """Make the runner end the attempt soon; `ended` follows as ever."""

    key: int
    attempt: int


class GoOn(Deed, frozen=True, gc=False):
    """Let the primary of a multi-instance task run its command line. Said again after a restart of the agent."""

    key: int
    attempt: int


class Renew(Deed, frozen=True, gc=False):
    """Nothing runs any more: make ready for a new beginning, with `wipe` on an empty disk; answered by `renewed`."""

    wipe: bool


class Remove(Deed, frozen=True, gc=False):
    """Remove the directory of a task, or of all tasks of a job (`task_id` empty); answered by `removed`."""

    job_id: str
    task_id: str


Action: TypeAlias = Record | Deed
