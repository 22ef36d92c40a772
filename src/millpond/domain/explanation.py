"""Why something waits: a chain of causes, each in words and as data. Beyond Azure Batch; asked for, never stored."""

import msgspec

from millpond.domain.durations import Timestamp


class Reference(msgspec.Struct, frozen=True):
    """What a cause is about. A task is named by job and id."""

    kind: str
    """`job`, `task`, `node` or `pool`"""
    id: str
    job_id: str = ""


class Cause(msgspec.Struct, frozen=True):
    """One reason, and the reasons behind it."""

    code: str
    """Stable, for programs: `dependencyFailed`, `tooManySlots` …"""
    message: str
    """A sentence for people."""
    unblock: str = ""
    """What would end it; empty where it passes by itself."""
    since: Timestamp | None = None
    never: bool = False
    """Nothing that is under way will end it: someone has to act."""
    references: tuple[Reference, ...] = ()
    causes: tuple["Cause", ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """The answer for one task, job, node or pool."""

    subject: Reference
    state: str
    since: Timestamp
    """Since when it is in that state."""
    summary: str
    """One sentence."""
    causes: tuple[Cause, ...] = ()
    """Empty where nothing holds it up."""

    @property
    def never(self) -> bool:
        return any(cause.never for cause in self.causes)
