"""What control plane and node agent say to each other: MessagePack over HTTP, outbound from the node only.

The node calls `hello` once for a session. From then on its host listens for it, with one call for all of its nodes
(`Listen`): it is their heartbeat and says which directives they have seen; the answer carries new ones, and is held back
("parked") while there are none. What a node has to report goes in a `sync`, whose answer brings new directives, too. Any
message may be lost, doubled or late:

- A *directive* has a revision within its session. The control plane repeats directives until a sync says they were
  seen; the node ignores those it has seen, and every answer of another session.
- A *report* has a sequence number that grows for the life of the agent's state. The node repeats reports until an
  answer acknowledges them, which happens only once what they changed is on disk. Reports about an attempt that is not
  current are acknowledged and dropped.
- After any doubt (an unknown session, a restart of either side) the control plane answers `session_unknown`, the node
  says hello with its whole inventory, and both start from there.
"""

from typing import Final, TypeAlias

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.events import AttemptEnd, HeldAttempt
from millpond.domain.states import TaskKind
from millpond.domain.task import NameValue

PROTOCOL_VERSION: Final = 3
CONTENT_TYPE: Final = "application/msgpack"

HELLO_PATH: Final = "/agent/v1/hello"
LISTEN_PATH: Final = "/agent/v1/listen"
"""POST: `Listen`, for all nodes of a host; answered by `News` as soon as there are some for one of them."""
SYNCS_PATH: Final = "/agent/v1/syncs"
"""POST: `Syncs`, the reports of nodes of one host; answered by `SyncReplies` once all are on disk."""
MAX_SYNCS: Final = 256
"""Nodes in one such call."""
FILE_REPLY_PATH: Final = "/agent/v1/files/"
"""POST `/agent/v1/files/<request id>`: a `FileReply` as the body; or, where the content of a file follows, the content
as the body and the `FileReply` in the header below."""
LOGS_PATH: Final = "/agent/v1/logs"
"""POST: `Logs`, files of tasks to be kept by the service. Answered once they are safe; 503 while it can take no more."""
LAUNCH_PATH: Final = "/agent/v1/launch"
"""POST by the launch agent in an instance of a multi-instance task, in JSON, with the attempt's own bearer token: see
`LaunchCall` and `LaunchAnswer`."""
LAUNCH_REPLY_PATH: Final = "/agent/v1/launches/"
"""POST `/agent/v1/launches/<request id>`: a `LaunchReply` as the body."""
FILE_REPLY_HEADER: Final = "x-millpond-file-reply"
"""A `FileReply` as URL-safe base64 of MessagePack."""

NODE_HEADER: Final = "x-millpond-node"
"""Node id of the caller; the bearer token in `Authorization` must be that node's."""


class _Message(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    pass


# --- node → control: reports ----------------------------------------------------------------------------------------


class Started(_Message, frozen=True, gc=False, omit_defaults=True, tag="started"):
    """The attempt is `running`: its files are being fetched or its command line runs."""

    seq: int
    key: int
    attempt: int
    start_time: Timestamp


class Ended(AttemptEnd, frozen=True, gc=False, omit_defaults=True, tag="ended"):
    """The attempt ended by itself, failed, or timed out. See `domain.events.TaskEnded`."""


class Coordinated(_Message, frozen=True, gc=False, omit_defaults=True, tag="coordinated"):
    """The instance's common files are there and its coordination command (if any) exited 0; what that left running in
    the background runs on. The primary waits for `Proceed`, a subtask for `Stop`."""

    seq: int
    key: int
    attempt: int


class Stopped(_Message, frozen=True, gc=False, omit_defaults=True, tag="stopped"):
    """The attempt the control plane told to stop is gone (also when the node never knew it)."""

    seq: int
    key: int
    attempt: int
    exit_code: int | None = None


class Returned(_Message, frozen=True, gc=False, omit_defaults=True, tag="returned"):
    """The attempt had not started and is given back."""

    seq: int
    key: int
    attempt: int


Report: TypeAlias = Started | Ended | Coordinated | Stopped | Returned


# --- control → node: directives -------------------------------------------------------------------------------------


class Instance(_Message, frozen=True, gc=False, omit_defaults=True):
    """Which instance of a multi-instance task an attempt on a node is."""

    index: int
    """0 is the primary."""
    addresses: tuple[str, ...]
    """IP addresses of the instances' nodes, in order of index; the first is the master's."""
    launch_token: str = ""
    """With it commands are launched on the nodes of the other instances (`LAUNCH_PATH`); good for this attempt only."""


class Start(_Message, frozen=True, gc=False, omit_defaults=True, tag="start"):
    """Run this attempt as soon as its slots are free; attempts start in the order they arrive, but what needs no slots
    waits for none.

    A special task comes as `kind` says, under its own key. `task_id` is the id its directory and environment go by:
    that of the preparation or release task; a start task has neither job nor task id, and runs in `startup`.
    """

    revision: int
    key: int
    attempt: int
    job_id: str
    task_id: str
    slots: int
    spec: bytes
    """The task's specification, wire form (JSON): commandLine, resourceFiles, outputFiles, environmentSettings,
    constraints, userIdentity … URLs of the account's own storage are signed already."""
    common_environment: tuple[tuple[str, str], ...] = ()
    """(name, value) of the job's commonEnvironmentSettings; the task's own win."""
    kind: TaskKind = TaskKind.TASK
    preparation_id: str = ""
    """Id of the job's preparation task, if it has one: its directory is AZ_BATCH_JOB_PREP_DIR."""
    token: str = ""
    """AZ_BATCH_AUTHENTICATION_TOKEN, where the task asked for one."""
    instance: Instance | None = None
    """For `kind` instance."""
    will_retry: bool = False
    """A run that ends with an exit code other than 0 is followed by another: output files are not uploaded then."""


class Stop(_Message, frozen=True, gc=False, omit_defaults=True, tag="stop"):
    """Kill the attempt and all its processes; answer `Stopped`."""

    revision: int
    key: int
    attempt: int


class Return(_Message, frozen=True, gc=False, omit_defaults=True, tag="return"):
    """If the attempt has not started, forget it and answer `Returned`; else carry on."""

    revision: int
    key: int
    attempt: int


class Proceed(_Message, frozen=True, gc=False, omit_defaults=True, tag="proceed"):
    """All instances of the multi-instance task have coordinated: run the primary's command line. Repeated, or for an
    attempt that is not held: nothing happens."""

    revision: int
    key: int
    attempt: int


class Restart(_Message, frozen=True, gc=False, omit_defaults=True, tag="restart"):
    """End all that runs, forget what is held, and come up again with a new boot time; with `wipe` also with a new, empty
    disk. Answered by a hello, with nothing in its inventory."""

    revision: int
    wipe: bool = False


class RemoveDirectory(_Message, frozen=True, gc=False, omit_defaults=True, tag="remove"):
    """Delete the directory of a task, or of all tasks of a job (`task_id` empty). No answer."""

    revision: int
    job_id: str
    task_id: str = ""


class Shutdown(_Message, frozen=True, gc=False, omit_defaults=True, tag="shutdown"):
    """The node leaves its pool: stop everything and do not come back. No answer."""

    revision: int


Directive: TypeAlias = Start | Stop | Return | Proceed | Restart | RemoveDirectory | Shutdown


class FileRequest(_Message, frozen=True, gc=False, omit_defaults=True):
    """A file operation below the node's root, answered by a POST to `FILE_REPLY_PATH`. Not a directive: no revision,
    not repeated; the asker gives up after a while."""

    id: str
    operation: str
    """`list`, `stat`, `read`, `delete` or `follow`"""
    path: str
    """Relative to the node's root, `/` separated, decoded; empty is the root itself."""
    recursive: bool = False
    offset: int = 0
    length: int | None = None
    """Bytes to read from `offset`; None reads to the end."""
    after: str = ""
    """For `list`: names after this one."""
    limit: int = 0
    """For `list`: no more than so many, the first in order of name; 0 is all there are."""
    key: int = 0
    """With `attempt`, for `follow`: the attempt whose file it is. The answer's content is then `frames` (see
    `protocol.frames`): what is in the file from `offset` on and what is added to it, until the attempt is over."""
    attempt: int = 0
    content: bytes = b""
    """Of a request that is not about files (`NodeOrder`): the order, JSON."""


class FileEntry(_Message, frozen=True, gc=False, omit_defaults=True):
    """One file or directory, for `list` and `stat`."""

    name: str
    """Relative to the directory asked for (`list`), or the path asked for (`stat`)."""
    is_directory: bool
    size: int = 0
    last_modified: Timestamp = 0.0
    mode: int = 0
    """st_mode"""
    original_size: int = 0
    """Of a kept file of which only the two ends are there; else 0."""


class FileReply(_Message, frozen=True, gc=False, omit_defaults=True):
    """`error` is empty, or an API error code (`FileNotFound`, `InvalidRange` …) with a message."""

    error: str = ""
    message: str = ""
    entries: tuple[FileEntry, ...] = ()
    """`list`: the entries, sorted by name; `stat` and `read`: the one file."""
    content: bytes = b""
    """What an order (`NodeOrder`) brought: JSON."""


class PutUser(_Message, frozen=True, gc=False, omit_defaults=True, tag="putUser"):
    """Make a user who may log in to the node, or give the one there is new credentials."""

    name: str
    exists: bool
    """Whether there must be one already, or must be none."""
    expires: Timestamp
    password: str = ""
    public_key: str = ""


class RemoveUser(_Message, frozen=True, gc=False, omit_defaults=True, tag="removeUser"):
    """Take such a user away, with all that runs as it."""

    name: str


class UploadLogs(_Message, frozen=True, gc=False, omit_defaults=True, tag="uploadLogs"):
    """Upload what the agent logged. Answered by `UploadedLogs`."""

    container_url: str
    directory: str
    """In the container."""
    start: Timestamp
    end: Timestamp | None = None


NodeOrder: TypeAlias = PutUser | RemoveUser | UploadLogs
"""What a node can be asked to do at once, besides file operations: the content of a file request of operation `order`."""


class UploadedLogs(_Message, frozen=True, gc=False, omit_defaults=True):
    files: int


# --- logs that outlive the node ---


class LogFile(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One file of a task, as the service keeps it."""

    name: str
    """Relative to the task's directory."""
    size: int
    """Bytes kept."""
    offset: int
    """Of the first of them in the task's contents."""
    last_modified: Timestamp
    mode: int
    """st_mode"""
    original_size: int = 0
    """Where only its two ends are kept, with a line between that says so; else 0."""


class TaskLogs(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The files of one attempt that has ended."""

    key: int
    attempt: int
    offset: int
    """Of its contents in the message's."""
    files: bytes
    """`list[LogFile]` in MessagePack: the service stores it as it is."""


class Logs(_Message, frozen=True, gc=False, omit_defaults=True):
    """Files of tasks that have ended on a node. The same may come again; a later attempt's takes an earlier one's
    place."""

    tasks: tuple[TaskLogs, ...]
    data: bytes = b""
    """The contents of all files, one after the other."""


# --- launching commands in other instances --------------------------------------------------------------------------


class LaunchCall(_Message, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """What the launch agent asks for, again and again with the same id until the command has ended."""

    id: str
    """1 to 32 letters and digits; a command is run once, however often it is asked for."""
    host: str
    """IP address of another instance's node, or its own."""
    command: str
    """For a shell."""
    stdout_from: int = 0
    """Bytes of output that are there already."""
    stderr_from: int = 0


class LaunchAnswer(_Message, frozen=True, gc=False, rename="camel"):
    """`exit_code` is None while it runs, or while there is more output to fetch. Output is in base64."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes


class LaunchRequest(_Message, frozen=True, gc=False, omit_defaults=True):
    """Run a command in an instance of a multi-instance task, or tell of it. Answered by a POST to `LAUNCH_REPLY_PATH`.
    Like a file request it has no revision and is not repeated: what is lost is asked for again."""

    id: str
    """Of the request, for the answer."""
    key: int
    attempt: int
    command_id: str
    command: str
    stdout_from: int
    stderr_from: int
    wait_s: float
    """How long the node may wait for something to tell."""


class LaunchReply(_Message, frozen=True, gc=False, omit_defaults=True):
    """`error` is empty, or an API error code with a message."""

    error: str = ""
    message: str = ""
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""


# --- the calls ------------------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, gc=False, omit_defaults=True):
    """A new session: who the node is and all it holds."""

    node_id: str
    protocol_version: int
    agent_version: str
    boot_time: Timestamp
    ip_address: str
    inventory: tuple[HeldAttempt, ...] = ()
    disk_time: Timestamp = 0.0
    """When the node's disk was made; 0 is as if at `boot_time`."""
    capabilities: tuple[NameValue, ...] = ()
    """What the node can and cannot do, in words of ours: whose users tasks run as and why, what is limited."""


class Welcome(_Message, frozen=True, gc=False, omit_defaults=True):
    """The session, and what the node must know of its pool and of the service."""

    session: str
    pool_id: str
    account_name: str
    account_url: str
    is_dedicated: bool
    task_slots: int
    park_s: float
    """How long a call that listens may be held back; the host waits a little longer before it calls the answer lost."""
    pool_spec: bytes = b"{}"
    """What the node must know of its pool's definition, wire form (JSON object): userAccounts,
    enableInterNodeCommunication, networkConfiguration … Secrets of the pool's users are in it."""
    storage_options: bytes = b"{}"
    """The credentials of the pool's identities that do not go into URLs (S3, Google Cloud Storage): options of obstore by
    prefix of URL, as `{"s3://bucket": {"access_key_id": …}}` (JSON). Secrets: not to be logged, nor to lie where tasks
    can read."""
    kept_log_bytes: int = 0
    """How much the service keeps of each file of a task's logs; 0: send it none."""


class NodeMetrics(_Message, frozen=True, gc=False, omit_defaults=True):
    """How busy the node's machine is; what it cannot tell is None. Rates are means since the last measurement."""

    cpu: float | None = None
    """Of all processors, 0 to 1."""
    memory_bytes: float | None = None
    """In use."""
    disk_bytes: float | None = None
    """In use on the disk that holds the node's files."""
    disk_read_bytes_s: float | None = None
    disk_write_bytes_s: float | None = None
    disk_reads_s: float | None = None
    disk_writes_s: float | None = None
    network_in_bytes_s: float | None = None
    network_out_bytes_s: float | None = None


class Sync(_Message, frozen=True, gc=False, omit_defaults=True):
    """What a node reports. It is answered once that is on disk."""

    node_id: str
    session: str
    seen: int
    """The highest directive revision the node has taken in (0: none)."""
    reports: tuple[Report, ...] = ()
    busy: bool = False
    """The node has work queued, and reports again soon: directives may wait for the answer to that."""


class SyncReply(_Message, frozen=True, gc=False, omit_defaults=True):
    session: str
    session_unknown: bool = False
    """Say hello again."""
    directives: tuple[Directive, ...] = ()
    acknowledged: int = 0
    """The highest report sequence number of the sync that is safe on disk (0: none)."""
    file_requests: tuple[FileRequest, ...] = ()
    launch_requests: tuple[LaunchRequest, ...] = ()
    retry_after_s: float = 0.0
    """The control plane could not take the reports just now (busy, disk full): send them again after that."""


class NodeSync(_Message, frozen=True, gc=False, omit_defaults=True):
    """One node's part of a call."""

    token: str
    """The node's own."""
    sync: Sync


class Syncs(_Message, frozen=True, gc=False, omit_defaults=True):
    syncs: tuple[NodeSync, ...]
    """No more than `MAX_SYNCS`."""


class NodeReply(_Message, frozen=True, gc=False, omit_defaults=True):
    """`error` is empty, or an API error code: what the node's own call would have been answered with."""

    reply: SyncReply | None = None
    status: int = 200
    error: str = ""


class SyncReplies(_Message, frozen=True, gc=False, omit_defaults=True):
    replies: tuple[NodeReply, ...]
    """In the order of the syncs."""


class Listening(_Message, frozen=True, gc=False, omit_defaults=True):
    """A node that its host begins to listen for, in the session it has."""

    place: int
    """What the host and the service call it from here on. Never given twice: another session is another place."""
    node_id: str
    token: str
    """The node's own."""
    session: str
    seen: int
    """As in `Sync`."""


class Listen(_Message, frozen=True, gc=False, omit_defaults=True):
    """A host waits for news of its nodes.

    The service remembers for whom, by the host's `id`; a call says what has changed since the last one that was answered,
    or all there is if none was (`begins`). While one call is parked the next may come: then the first has no more to wait
    for. A call that is overtaken by one with a higher number changes nothing.
    """

    id: str
    """Made up by the host, at random: whoever knows it hears what the nodes are told."""
    number: int
    """It grows with each call of that id."""
    begins: bool = False
    """The nodes named are all there are."""
    nodes: tuple[Listening, ...] = ()
    left: tuple[int, ...] = ()
    """Places of nodes that are not listened for any more."""
    seen: tuple[tuple[int, int], ...] = ()
    """(place, the highest directive revision the node there has taken in), of those that have heard something."""
    metrics: NodeMetrics | None = None
    """Of the machine, which is that of all the nodes; new since the last call, if anything is."""


class NodeNews(_Message, frozen=True, gc=False, omit_defaults=True):
    """What there is for one node. `error` is empty, or an API error code: the node is not listened for."""

    place: int
    reply: SyncReply | None = None
    status: int = 200
    error: str = ""


class News(_Message, frozen=True, gc=False, omit_defaults=True):
    nodes: tuple[NodeNews, ...] = ()
    unknown: bool = False
    """The service does not know the host's `id`, so the host is to begin."""
    overtaken: bool = False
    """The call has changed nothing, and is no answer to what it told."""
