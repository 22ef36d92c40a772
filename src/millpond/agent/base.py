"""The seams inside the agent: what runs an attempt, and what starts its process."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.task import FailureInfo
from millpond.protocol.messages import LaunchReply, LaunchRequest, Start


class NodeFacts(msgspec.Struct, frozen=True):
    """What an agent knows of its node."""

    node_id: str
    pool_id: str
    account_name: str
    account_url: str
    is_dedicated: bool
    root: str
    """The node's root directory (AZ_BATCH_NODE_ROOT_DIR): absolute; its layout is semantics 4.1."""
    pool_spec: bytes = b"{}"
    """See `protocol.messages.Welcome`."""
    storage_options: bytes = b"{}"
    """See `protocol.messages.Welcome`. Secrets are in it."""
    ca_bundle: str = ""
    """A file of the certificates that processes of the node are to trust; empty: those of the machine."""


class RunAs(msgspec.Struct, frozen=True):
    """Another user than the agent's own, for a process of a task."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Supplementary; the first is the group of all users of the node."""


class ProcessSpec(msgspec.Struct, frozen=True):
    """One process to start: exec'd directly, no shell, as leader of a new session."""

    id: str
    """`<node id>/<task key>/<attempt>`: unique over the life of the node, also across agent restarts. Further processes
    of the same attempt have a slash and a name behind that."""
    argv: tuple[str, ...]
    directory: str
    environment: dict[str, str]
    """The whole environment; the executor adds a marker of its own to find stragglers by."""
    stdout_path: str
    stderr_path: str
    run_as: RunAs | None = None
    """None is the agent's own user."""
    cgroups: tuple[str, ...] = ()
    """Directories of the control groups to join; only together with `run_as`."""
    keeps: bool = False
    """What it leaves behind at its end lives on, until its attempt is ended (`Executor.end`)."""
    appends: bool = False
    """Its output is added to what the files hold already."""
    makes_directory: bool = False
    """`directory` and the one it is in are made first, for that user alone (0770). Where that fails, because one is
    there already or what they are to be in is not, nothing is started: see `DirectoryNotMade`."""
    lane: str = ""
    """Those in the same lane may wait for each other."""
    width: int = 0
    """It waits until fewer than that run in its lane: one begins whenever one has ended well, in the order they came. It is
    given back (`GivenBack`) when one has not, when nothing of the lane has begun for long, when it is killed before it has
    begun, or when the agent is gone. 0: it is started at once."""
    private_logs: bool = False
    """The files for its output are where only the agent gets: it opens them itself, whoever the process is."""


class FileFacts(msgspec.Struct, frozen=True, gc=False):
    """A file, as the kernel has it. Nothing but zeros when there is none."""

    inode: int
    size: int
    last_modified: Timestamp
    mode: int


class ProcessExit(msgspec.Struct, frozen=True):
    """How a process ended. A process killed by signal n has exit code -n."""

    exit_code: int
    end_time: Timestamp
    user_cpu_s: float = 0.0
    kernel_cpu_s: float = 0.0
    directory_inode: int = 0
    """Of the directory that its own is in; 0 when nobody has looked."""
    outputs: tuple[FileFacts, ...] = ()
    """Its files for standard output and error; none when nobody has looked."""


class DirectoryNotMade(OSError):
    """What `ProcessSpec.makes_directory` asks for could not be done; nothing was started."""


class GivenBack(Exception):
    """What waited in its lane was taken out of it: it was not started, and is as if it had never been launched."""


class Watcher(Protocol):
    """Whom an executor tells how a process goes that it `begin`s: `running` and then `ended`, or `failed`."""

    def running(self, began: Timestamp, *, is_over: bool) -> None:
        """If it `is_over` by now, `ended` follows at once."""
        ...

    def ended(self, exit_: ProcessExit | None) -> None:
        """See `Executor.wait`."""
        ...

    def failed(self, error: Exception) -> None:
        """It was not started: TaskFailure, DirectoryNotMade and GivenBack, as `Executor.start` raises them; or nobody
        knows: OSError."""
        ...


class Executor(Protocol):
    """Starts processes, and finds them again after the agent itself was restarted."""

    async def start(self, process: ProcessSpec) -> None:
        """Start it. Raises TaskFailure CommandProgramNotFound or CommandLaunchFailed. Starting an id that runs (or ran
        and was not forgotten) is a no-op. Raises DirectoryNotMade; and GivenBack, for what waited in a lane."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether `begin` can be called now."""
        ...

    def begin(self, process: ProcessSpec, watcher: Watcher) -> None:
        """`start` and `wait` with callbacks from the event loop, never from within this call. An id may be begun once.
        Raises TaskFailure as `start` does, OSError when it is not ready."""
        ...

    async def wait(self, process_id: str) -> ProcessExit | None:
        """Wait for its end and, unless it `keeps` that, for the end of whatever it left behind (killed: it must not
        outlive the task). None when nothing is known of it: it was lost."""
        ...

    async def kill(self, process_id: str) -> None:
        """Kill its whole process tree, also children that left its group or session; `wait` then returns. A process
        that is not known is no error."""
        ...

    async def end(self, attempt_id: str) -> None:
        """Kill all processes of an attempt and all they left behind, and wait until they are gone. How each ended is
        still there to `wait` for. One that is not known is no error."""
        ...

    async def known(self) -> Sequence[str]:
        """Ids of processes that run, or have ended and were not forgotten: what a restarted agent finds."""
        ...

    async def began(self, process_id: str) -> Timestamp:
        """When a process began that was launched by an earlier life of the agent; 0 when nothing is known of it. Raises
        GivenBack when it waited in its lane when that life ended."""
        ...

    async def forget(self, *process_ids: str) -> None:
        """Their exits have been taken in; nothing more will be asked. What they kept is killed."""
        ...


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended (see `protocol.messages.Ended`)."""

    start_time: Timestamp | None
    end_time: Timestamp
    exit_code: int | None
    failure: FailureInfo | None = None
    retryable: bool = False
    user_cpu_s: float = 0.0
    kernel_cpu_s: float = 0.0


class Runner(Protocol):
    """Runs attempts from directories to output files: what `agent.state` decides, a runner does."""

    async def run(
        self,
        start: Start,
        started: Callable[[Timestamp], None],
        *,
        resumed: bool,
        began: Timestamp | None = None,
        coordinated: Callable[[], None] = lambda: None,
        width: int = 0,
        ahead: bool = False,
    ) -> Outcome | None:
        """Run the attempt to its end. `began` is the time of entry to `running`, None now; `started` is called once, with
        that, before anything slow. With `resumed` the attempt was begun by an earlier life of the agent: it is picked
        up where it is, or ends as a retryable failure when it was lost; if that handed it `ahead` (see `begin`) it may
        never have begun: then None. Never raises but for cancellation. For `width` see `begin`.

        Of an instance of a multi-instance task `coordinated` is called once its coordination command has succeeded;
        the primary then waits for `proceed`, a subtask for `stop`."""
        ...

    def begin(
        self,
        start: Start,
        began: Timestamp,
        started: Callable[[Timestamp], None],
        ended: Callable[[Outcome | None], None],
        *,
        width: int = 0,
        ahead: bool = False,
    ) -> bool:
        """The same without a coroutine, for an attempt that has nothing to wait for but its process: `ended` is called
        from the event loop, never from within this call, and not any more once the runner was closed. False when the
        attempt, the moment, or the runner, is not fit for that; then nothing was done.

        `width` is that of the node's lane (`ProcessSpec.lane`) for an attempt that runs in it. One that comes `ahead` waits
        for another to end: `began` does not count, `started` is called when it has begun, unless its end says that too; and
        `ended` with None if it was given back before."""
        return False

    def settle(self, over: Sequence[Start] = ()) -> None:
        """Write down now what is still to be written of attempts that are over: it may wait a moment, until there is more
        of it. Of those given nothing may have been written, as the agent was killed meanwhile."""
        return

    def proceed(self, key: int, attempt: int) -> None:
        """Let the primary of that attempt run its command line, now or as soon as it has coordinated. Repeated, or for
        an attempt that is not run: nothing happens."""
        ...

    async def launch(self, request: LaunchRequest) -> LaunchReply:
        """Run a command in an instance of a multi-instance task, unless its id is known already, and tell how far it
        is: as soon as there is more output than was asked from, or it has ended, or the time asked for has passed.
        Never raises but for cancellation."""
        ...

    async def stop(self, key: int, attempt: int) -> None:
        """Make a running `run` of that attempt end soon, killing what it started."""
        ...

    async def remove_directory(self, job_id: str, task_id: str) -> None:
        """Delete a task's directory, or all of a job's (`task_id` empty): slowly, in the background."""
        ...

    async def close(self) -> None:
        """Let go of everything of the runner's own. Nothing is `run` any more, or it was cancelled; processes that still
        run are left to the executor."""
        ...
