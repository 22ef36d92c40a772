"""The executor for real processes: the client of the spawner (`agent/spawner.py`)."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final, cast

from millpond.agent import spawner
from millpond.agent.base import FileFacts, GivenBack, ProcessExit, ProcessSpec, RunAs, Watcher
from millpond.agent.executors import compiled
from millpond.agent.executors.refusals import refusal
from millpond.agent.spawning import frames
from millpond.domain.durations import Timestamp
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.threads import finish_in_thread

_log = logging.getLogger(__name__)

DEFAULT_LINGER_S: Final = 24 * 3600.0
_PROGRAM: Final = os.path.abspath(spawner.__file__)
_CONNECT_PATIENCE_S: Final = 15.0
_CONNECT_PAUSE_S: Final = 0.02
_COMPILED_DIRECTORY: Final = "compiled"


class _Connection(asyncio.Protocol):
    """Bytes to frames, and frames written once per turn of the loop."""

    def __init__(self, owner: "ProcessExecutor", loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._receiving = False
        self._transport: asyncio.WriteTransport | None = None
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.known: dict[str, ProcessExit | None] | None = {}
        """What the spawner tells at the start; None once it is handed over."""
        self.began: dict[str, Timestamp] = {}
        """The same: when they began."""
        self.given_back: set[str] = set()
        """The same: what waited in its lane."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._receiving = True
        try:
            self._take(data)
        finally:
            self._receiving = False
            # What is launched because something has ended goes at once.
            self._flush()

    def _take(self, data: bytes) -> None:
        received = self._received
        received += data
        position = 0
        header = frames.HEADER
        while len(received) - position >= header.size:
            length, operation = header.unpack_from(received, position)
            end = position + header.size + length
            if end > len(received):
                break
            self._handle(operation, bytes(received[position + header.size : end]).split(b"\0"))
            position = end
        del received[:position]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionResetError("the spawner closed the connection"))
            self.ready.exception()
        self.closed.set_result(None)
        self._owner._on_lost(self)

    def write(self, data: bytes) -> None:
        if not self._unsent and not self._receiving:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        if self._unsent and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _handle(self, operation: int, fields: list[bytes]) -> None:
        if operation == frames.HELLO:
            if int(fields[0]) != frames.VERSION:
                # The spawner of another release: what it runs is lost, and a new one takes its place.
                self.write(frames.frame(frames.SHUTDOWN))
                self.close()
            return
        if operation == frames.READY:
            self.ready.set_result(None)
            return
        process_id = os.fsdecode(fields[0])
        if operation == frames.ENDED:
            self._owner._on_attempt_ended(process_id)
        elif operation == frames.RUNNING:
            if self.known is None:
                self._owner._on_running(process_id, float(fields[1]))
            else:
                self.known[process_id] = None
                self.began[process_id] = float(fields[1])
        elif operation == frames.EXITED:
            exit_ = _read_exit(fields[2].split())
            if self.known is None:
                self._owner._on_exited(process_id, float(fields[1]), exit_)
            else:
                self.known[process_id] = exit_
                self.began[process_id] = float(fields[1])
        elif operation == frames.GIVEN_BACK:
            self.given_back.add(process_id)
        elif operation == frames.REFUSED:
            if fields[2] == b"waiting":
                self._owner._on_given_back(process_id, os.fsdecode(fields[3]), int(fields[4]))
            else:
                self._owner._on_refused(process_id, int(fields[1]), fields[2].decode())


class _Launch:
    """A launch the spawner has not answered yet."""

    __slots__ = ("answers", "frame", "spec")

    def __init__(self, spec: ProcessSpec, frame: bytes) -> None:
        self.spec = spec
        self.frame = frame
        self.answers: list[asyncio.Future[None]] = []
        """One for each who waits, as any may be cancelled."""


class ProcessExecutor:
    """Runs processes on this machine, as the agent's own user or as others (`ProcessSpec.run_as`).

    `directory` belongs to one agent host: the spawner's socket, lock and log are in it, and the spawner is started
    when none serves it. `grace_s` is the time between SIGTERM and SIGKILL of a kill; by default there is none, as
    on the service (semantics 2.10). `linger_s` is how long a spawner that runs nothing waits for a host to come back.
    `switch` is the program that makes a process another user's (`agent.switch`): without it there is no `run_as`.
    `open_files` is the limit of open files (soft) that tasks get; 0 gives them the agent's.
    With `compiles` the spawner gets its starter in C, where that can be built: in the background, once something is
    started.
    """

    def __init__(
        self,
        directory: str,
        *,
        grace_s: float = 0.0,
        linger_s: float = DEFAULT_LINGER_S,
        switch: str = "",
        open_files: int = 0,
        compiles: bool = True,
    ) -> None:
        self._directory = directory
        self._switch = switch
        self._grace_ms = max(0, round(grace_s * 1000))
        self._linger_s = linger_s
        self._open_files = open_files
        self._known: dict[str, ProcessExit | None] = {}
        """All the spawner knows: None while running."""
        self._launches: dict[str, _Launch] = {}
        self._waiters: dict[str, list[asyncio.Future[ProcessExit | None]]] = {}
        self._watchers: dict[str, Watcher] = {}
        self._ends: dict[str, asyncio.Future[None]] = {}
        """By attempt."""
        self._generations: dict[str, int] = {}
        """Of lanes, as the spawner has told: what is launched with another is given back."""
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._compiles = compiles
        self._compiling: asyncio.Task[bool] | None = None
        self._compiled = ""
        """Path of the starter in C."""
        self._closed = False

    async def open(self) -> None:
        """Connect, and start a spawner if none serves the directory: every call does it when it must, this one so that
        trouble shows early. Raises OSError."""
        if self._connection is None:
            await self._connect()

    async def compile(self) -> bool:
        """Have the starter in C from now on; whether it could be built."""
        self._compiles = False
        self._compiled = await finish_in_thread(compiled.build, os.path.join(self._directory, _COMPILED_DIRECTORY))
        if self._compiled and self._connection is not None:
            self._connection.write(frames.frame(frames.COMPILED, os.fsencode(self._compiled)))
        return bool(self._compiled)

    async def start(self, process: ProcessSpec) -> None:
        """See `Executor.start`."""
        connection = self._connection or await self._connect()
        self._compile_once()
        if process.id in self._known:
            return
        launch = self._launches.get(process.id)
        if launch is None:
            launch = self._launches[process.id] = _Launch(process, self._frame_of(process))
            connection.write(launch.frame)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        launch.answers.append(answer)
        await answer

    @property
    def is_ready(self) -> bool:
        """See `Executor.is_ready`."""
        return self._connection is not None

    def begin(self, process: ProcessSpec, watcher: Watcher) -> None:
        """See `Executor.begin`."""
        connection = self._connection
        if connection is None:
            raise ConnectionResetError("there is no spawner")
        self._compile_once()
        launch = self._launches[process.id] = _Launch(process, self._frame_of(process))
        self._watchers[process.id] = watcher
        connection.write(launch.frame)

    def _frame_of(self, process: ProcessSpec) -> bytes:
        return _launch_frame(process, self._switch, self._generations.get(process.lane, 0))

    def _compile_once(self) -> None:
        if self._compiles:
            self._compiles = False
            self._compiling = asyncio.get_running_loop().create_task(self.compile())

    async def wait(self, process_id: str) -> ProcessExit | None:
        """See `Executor.wait`."""
        if self._connection is None:
            await self._connect()
        if process_id not in self._known:
            return None
        exit_ = self._known[process_id]
        if exit_ is not None:
            return exit_
        waiter: asyncio.Future[ProcessExit | None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(process_id, []).append(waiter)
        return await waiter

    async def kill(self, process_id: str) -> None:
        """See `Executor.kill`."""
        connection = self._connection or await self._connect()
        connection.write(frames.frame(frames.KILL, os.fsencode(process_id), str(self._grace_ms).encode()))

    async def end(self, attempt_id: str) -> None:
        """See `Executor.end`."""
        connection = self._connection or await self._connect()
        end = self._ends.get(attempt_id)
        if end is None:
            end = self._ends[attempt_id] = asyncio.get_running_loop().create_future()
            connection.write(frames.frame(frames.END, os.fsencode(attempt_id)))
        await asyncio.shield(end)

    async def known(self) -> Sequence[str]:
        """See `Executor.known`."""
        if self._connection is None:
            await self._connect()
        return list(self._known)

    async def began(self, process_id: str) -> Timestamp:
        """See `Executor.began`."""
        connection = self._connection or await self._connect()
        if process_id in connection.given_back and process_id not in self._known:
            raise GivenBack(process_id)
        return connection.began.get(process_id, 0.0)

    async def forget(self, *process_ids: str) -> None:
        """See `Executor.forget`."""
        connection = self._connection or await self._connect()
        known = [process_id for process_id in process_ids if process_id in self._known]
        for process_id in known:
            del self._known[process_id]
            connection.began.pop(process_id, None)
            self._tell(process_id, None)
        if known:
            connection.write(frames.frame(frames.FORGET, *map(os.fsencode, known)))

    async def close(self) -> None:
        """Let go of the spawner; processes run on."""
        self._closed = True
        if self._compiling is not None:
            self._compiling.cancel()
            await asyncio.gather(self._compiling, return_exceptions=True)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        connection = self._connection
        if connection is not None:
            connection.close()
            await connection.closed
        self._give_up(ConnectionResetError("the executor was closed"))

    async def shutdown(self) -> None:
        """Kill all processes and end the spawner, for a node that leaves; then `close`."""
        connection = self._connection
        if connection is None:
            with contextlib.suppress(OSError):
                connection = await self._open()
        if connection is not None:
            connection.write(frames.frame(frames.SHUTDOWN))
            self._closed = True
            await connection.closed
        await self.close()

    # --- the connection -----------------------------------------------------------------------------------------

    async def _connect(self) -> _Connection:
        """The connection, made if there is none. Raises OSError when no spawner can be started."""
        if self._closed:
            raise ConnectionResetError("the executor was closed")
        if self._connection is not None:
            return self._connection
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._reconnect())
            self._connecting.add_done_callback(self._on_connected)
        return await asyncio.shield(self._connecting)

    async def _reconnect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CONNECT_PATIENCE_S
        while True:
            try:
                connection = await self._open()
                break
            except OSError:
                if loop.time() >= deadline:
                    raise
            await asyncio.to_thread(self._start_spawner)
            await asyncio.sleep(_CONNECT_PAUSE_S)
        assert connection.known is not None
        self._known, connection.known = connection.known, None
        self._connection = connection
        if self._compiled:
            connection.write(frames.frame(frames.COMPILED, os.fsencode(self._compiled)))
        for process_id, launch in list(self._launches.items()):
            if process_id in self._known:
                self._on_running(process_id, connection.began[process_id])
            else:
                connection.write(launch.frame)
        for attempt_id in self._ends:
            connection.write(frames.frame(frames.END, os.fsencode(attempt_id)))
        for process_id in [*self._waiters, *self._watchers]:
            exit_ = self._known.get(process_id)
            if exit_ is not None or (process_id not in self._known and process_id not in self._launches):
                self._tell(process_id, exit_)
        return connection

    async def _open(self) -> _Connection:
        """Connect to a spawner that serves the directory; OSError when there is none."""
        loop = asyncio.get_running_loop()
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
        socket_ = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Through the descriptor, as a socket's path may have no more than 107 bytes.
            socket_.connect(f"/proc/self/fd/{directory}/{frames.SOCKET_NAME}")
        except OSError:
            socket_.close()
            raise
        finally:
            os.close(directory)
        socket_.setblocking(False)
        connection = _Connection(self, loop)
        await loop.create_unix_connection(lambda: connection, sock=socket_)
        try:
            await connection.ready
        except BaseException:
            connection.close()
            raise
        return connection

    def _start_spawner(self) -> None:
        """Start one; it can be connected to when this returns. Raises OSError."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        # Not by the event loop: it must inherit no descriptor, and uvloop lets some through.
        try:
            started = subprocess.run(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-B",
                    _PROGRAM,
                    self._directory,
                    str(self._linger_s),
                    str(self._open_files),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                # What the agent was started with is not the tasks' to see.
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                timeout=_CONNECT_PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ChildProcessError("the spawner did not start in time") from error
        if started.returncode != 0:
            text = started.stderr.decode(errors="replace").strip()[-500:]
            raise ChildProcessError(f"the spawner did not start: {text}")

    def _on_connected(self, task: asyncio.Task[_Connection]) -> None:
        self._connecting = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """No spawner: nothing that was asked will be answered."""
        for launch in self._launches.values():
            for answer in launch.answers:
                _settle(answer, error)
        for waiters in self._waiters.values():
            for waiter in waiters:
                _settle(waiter, error)
        for process_id in list(self._watchers):
            self._fail(process_id, error)
        for end in self._ends.values():
            _settle(end, error)
        self._ends.clear()
        self._launches.clear()
        self._waiters.clear()

    # --- what the spawner says ----------------------------------------------------------------------------------

    def _on_lost(self, connection: _Connection) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        if not self._closed and (self._launches or self._waiters or self._watchers or self._ends):
            # Somebody waits for an answer. What the next spawner does not know was lost.
            self._connecting = asyncio.get_running_loop().create_task(self._reconnect())
            self._connecting.add_done_callback(self._on_connected)

    def _on_running(self, process_id: str, began: Timestamp, *, is_over: bool = False) -> None:
        self._known.setdefault(process_id, None)
        launch = self._launches.pop(process_id, None)
        if launch is not None:
            for answer in launch.answers:
                if not answer.done():
                    answer.set_result(None)
            if process_id in self._watchers:
                _call(self._watchers[process_id].running, began, is_over=is_over)

    def _fail(self, process_id: str, error: BaseException) -> None:
        watcher = self._watchers.pop(process_id, None)
        if watcher is not None:
            _call(watcher.failed, error if isinstance(error, Exception) else ConnectionResetError("no spawner"))

    def _tell(self, process_id: str, exit_: ProcessExit | None) -> None:
        """Those who wait for its end."""
        watcher = self._watchers.pop(process_id, None)
        if watcher is not None:
            _call(watcher.ended, exit_)
        for waiter in self._waiters.pop(process_id, ()):
            if not waiter.done():
                waiter.set_result(exit_)

    def _on_exited(self, process_id: str, began: Timestamp, exit_: ProcessExit) -> None:
        if process_id not in self._known and process_id not in self._launches:
            # Forgotten while it was on its way.
            return
        self._on_running(process_id, began, is_over=True)
        self._known[process_id] = exit_
        self._tell(process_id, exit_)

    def _on_attempt_ended(self, attempt_id: str) -> None:
        end = self._ends.pop(attempt_id, None)
        if end is not None and not end.done():
            end.set_result(None)

    def _on_given_back(self, process_id: str, lane: str, generation: int) -> None:
        self._generations[lane] = generation
        launch = self._launches.pop(process_id, None)
        if launch is not None:
            self._refuse(process_id, launch, GivenBack(process_id))

    def _on_refused(self, process_id: str, number: int, step: str) -> None:
        launch = self._launches.pop(process_id, None)
        if launch is not None:
            self._refuse(process_id, launch, refusal(launch.spec, number, step))

    def _refuse(self, process_id: str, launch: _Launch, why: Exception) -> None:
        for answer in launch.answers:
            _settle(answer, why)
        self._fail(process_id, why)


def _read_exit(words: list[bytes]) -> ProcessExit:
    code, ended, user, kernel, *facts = words
    exit_code, end_time, user_cpu_s, kernel_cpu_s = int(code), float(ended), float(user), float(kernel)
    if not facts:
        return ProcessExit(exit_code, end_time, user_cpu_s, kernel_cpu_s)
    directory, *files = facts
    outputs = tuple(
        FileFacts(int(files[at]), int(files[at + 1]), float(files[at + 2]), int(files[at + 3])) for at in (0, 4)
    )
    return ProcessExit(exit_code, end_time, user_cpu_s, kernel_cpu_s, int(directory), outputs)


def _call(callback: Callable[..., None], *arguments: object, **named: object) -> None:
    """What goes wrong with one process is not to touch the others."""
    try:
        callback(*arguments, **named)
    except Exception:
        _log.exception("a process's watcher")


def _settle(future: asyncio.Future[None] | asyncio.Future[ProcessExit | None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        # Whoever waited may have been cancelled; then nobody asks for it.
        future.exception()


def _launch_frame(process: ProcessSpec, switch: str, generation: int) -> bytes:
    """Raises TaskFailure CommandLaunchFailed for what no process can be given."""
    if not process.argv or not process.argv[0]:
        raise TaskFailure(TaskFailureCode.COMMAND_LAUNCH_FAILED, "The command line is empty")
    fields = [
        process.id,
        process.directory,
        process.stdout_path,
        process.stderr_path,
        (frames.KEEPS if process.keeps else b"").decode()
        + (frames.APPENDS if process.appends else b"").decode()
        + (frames.PRIVATE_LOGS if process.private_logs else b"").decode()
        + (frames.MAKES_DIRECTORY if process.makes_directory else b"").decode(),
        str(len(process.argv)),
        *process.argv,
        *map("=".join, process.environment.items()),
    ]
    operation = frames.LAUNCH
    if process.run_as is not None:
        operation = frames.LAUNCH_AS
        fields[:0] = _switch_fields(process.run_as, process.cgroups, switch)
    if process.lane:
        fields[:0] = (process.lane, str(process.width), str(generation), str(operation))
        operation = frames.IN_LANE
    text = "\0".join(fields)
    if text.count("\0") != len(fields) - 1:
        raise TaskFailure(
            TaskFailureCode.COMMAND_LAUNCH_FAILED, "The command line or an environment variable holds a NUL character"
        )
    try:
        frame = frames.frame(operation, os.fsencode(text))
    except UnicodeEncodeError:
        raise TaskFailure(
            TaskFailureCode.COMMAND_LAUNCH_FAILED, "The command line or an environment variable is not valid text"
        ) from None
    if len(frame) > frames.MAX_FRAME:
        raise refusal(process, errno.E2BIG, "exec")
    return frame


def _switch_fields(run_as: RunAs, cgroups: Sequence[str], switch: str) -> list[str]:
    if not switch:
        raise TaskFailure(
            TaskFailureCode.COMMAND_LAUNCH_FAILED, "The node cannot run a task as another user", user_error=False
        )
    numbers = (run_as.uid, run_as.gid, *run_as.groups)
    return [switch, ",".join(str(number) for number in numbers), "\n".join(cgroups)]
