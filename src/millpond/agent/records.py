"""What an agent writes down before it does it: the entries of a node's journal (`local_state`)."""

from typing import TypeAlias

import msgspec

from millpond.domain.durations import Timestamp
from millpond.protocol.messages import Report, Start


class _Record(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    pass


class Begun(_Record, frozen=True, gc=False, omit_defaults=True, tag="begun"):
    """The first entry of a journal; and the end of a restart: but for `Joined`, all before it is forgotten."""

    boot_time: Timestamp
    next_seq: int = 1
    """Report numbers below it have been used."""
    disk_time: Timestamp = 0.0
    """When the node's disk was made; 0 is at the first boot, whose time `boot_time` is."""


class Joined(_Record, frozen=True, gc=False, omit_defaults=True, tag="joined"):
    """What the control plane said of the node's pool and of itself: a restarted agent needs it before its first hello."""

    pool_id: str
    account_name: str
    account_url: str
    is_dedicated: bool
    task_slots: int
    pool_spec: bytes = b"{}"
    """See `protocol.messages.Welcome`. Secrets of the pool's users are in it."""
    storage_options: bytes = b"{}"
    """See `protocol.messages.Welcome`. Secrets are in it."""


class Accepted(_Record, frozen=True, gc=False, omit_defaults=True, tag="accepted"):
    """The attempt is queued."""

    start: Start


class Launched(_Record, frozen=True, gc=False, omit_defaults=True, tag="launched"):
    """The attempt is about to be handed to the runner."""

    key: int
    attempt: int
    started: bool = False
    """Its `Started` report was acknowledged (set when the journal is rewritten)."""
    coordinated: bool = False
    """The same for `Coordinated`."""
    began: Timestamp = 0.0
    """When it enters `running`."""
    ahead: bool = False
    """It was handed over before its slots were free: when it begins, the runner says."""


class PutBack(_Record, frozen=True, gc=False, omit_defaults=True, tag="putBack"):
    """The attempt was handed over ahead and given back; it has not begun, and is queued where it was."""

    key: int
    attempt: int


class StopAsked(_Record, frozen=True, gc=False, omit_defaults=True, tag="stop"):
    """The attempt is about to be killed; its end will be reported as `Stopped`."""

    key: int
    attempt: int


class Proceeded(_Record, frozen=True, gc=False, omit_defaults=True, tag="proceed"):
    """All instances have coordinated: the primary, which this is, is about to go on."""

    key: int
    attempt: int


class Reported(_Record, frozen=True, gc=False, omit_defaults=True, tag="reported"):
    """The report is due until it is acknowledged. All but `Started` and `Coordinated` also end the attempt here."""

    report: Report
    slots: int | None = None
    """Of the attempt that it ends, for the inventory; None when it ends none that was held."""


class Acknowledged(_Record, frozen=True, gc=False, omit_defaults=True, tag="acknowledged"):
    """All reports up to `seq` are safe with the control plane."""

    seq: int


class RemovalAsked(_Record, frozen=True, gc=False, omit_defaults=True, tag="remove"):
    """The directory of a task, or of all tasks of a job (`task_id` empty), is to go."""

    job_id: str
    task_id: str


class RemovalDone(_Record, frozen=True, gc=False, omit_defaults=True, tag="removed"):
    job_id: str
    task_id: str


class RestartAsked(_Record, frozen=True, gc=False, omit_defaults=True, tag="restart"):
    """The node is about to end all it runs, forget it, and (with `wipe`) empty its disk. Until the `Begun` that follows
    this is what it does first, whatever happens to the agent."""

    wipe: bool = False


class Left(_Record, frozen=True, gc=False, omit_defaults=True, tag="left"):
    """The node leaves its pool and does not come back."""


Record: TypeAlias = (
    Begun
    | Joined
    | Accepted
    | Launched
    | PutBack
    | StopAsked
    | Proceeded
    | Reported
    | Acknowledged
    | RemovalAsked
    | RemovalDone
    | RestartAsked
    | Left
)
