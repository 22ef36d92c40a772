"""An instance of a multi-instance task on its way (semantics 3.5), and what other instances launch beside it.

All its processes are one attempt's: the coordination command's, the command line's (of the primary), and those that
mpirun and its like ask for through the launch agent. What any of them leaves in the background lives on until the
attempt ends. As the spawner knows them, each phase is found again by an agent that was restarted.
"""

import asyncio
import hashlib
import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Collection
from typing import Final

import msgspec

from millpond.agent.base import Executor
from millpond.agent.runner.attempt import Attempt, node_failure
from millpond.agent.runner.command_line import split_command_line
from millpond.agent.runner.launch_agent import LAUNCHER, install
from millpond.domain.errors import ErrorCode, TaskFailure, TaskFailureCode
from millpond.protocol.messages import Instance, LaunchReply, LaunchRequest

MASTER_PORT: Final = 6000
"""AZ_BATCH_MASTER_NODE names it; Azure Batch keeps it for itself."""
_MAX_DAEMONS: Final = "512"
"""More daemons than Open MPI is to launch at a time. (Azure Batch has up to 150 instances.)"""
_COORDINATION: Final = "coordination"
_NOTHING: Final = ("/bin/true",)
"""Stands for a coordination command that is not given: how far the attempt is shows in its processes."""
_MAKE_TMPDIR: Final = 'mkdir -m 700 "$TMPDIR" 2>/dev/null || [ -O "$TMPDIR" ] || unset TMPDIR'
"""Daemons of Open MPI that have host name and user in common get into each other's way below /tmp."""
_LAUNCHES: Final = "volatile/launches"
_CHUNK: Final = 256 * 1024
_LOOK_S: Final = 0.2
_COMMAND_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}\Z")


class Instances:
    """The instances of one node."""

    def __init__(self, executor: Executor, root: str) -> None:
        self._executor = executor
        self._root = root

    def is_known(self, attempt: Attempt, known: Collection[str]) -> bool:
        """Whether an instance, in an earlier life of the agent, came as far as its coordination command."""
        return attempt.start.instance is not None and _coordination_id(attempt) in known

    async def coordinate(self, attempt: Attempt) -> bool:
        """Run the coordination command to its end; False when it failed, with `attempt.exit` set. Raises TaskFailure."""
        if attempt.command_line_runs:
            attempt.takes_commands = True
            return True
        self._install_launcher()
        settings = attempt.spec.multi_instance_settings
        line = settings.coordination_command_line if settings is not None else None
        argv = split_command_line(line) if line else _NOTHING
        await self._executor.start(attempt.process(argv, name=_COORDINATION, keeps=True))
        if attempt.interruption is not None:
            # It came while the process was being started: the kill may have been too early.
            await self._executor.end(attempt.process_id)
        ended = await self._executor.wait(_coordination_id(attempt))
        if ended is None:
            raise lost_process()
        if ended.exit_code != 0 or attempt.interruption is not None:
            attempt.exit = ended
            return False
        attempt.takes_commands = True
        attempt.coordinated()
        return True

    async def wait_for_turn(self, attempt: Attempt) -> None:
        """Until the primary may run the command line; of a subtask, until it is told to end. Raises Interrupted."""
        if not attempt.command_line_runs:
            with attempt.interruptible():
                await (attempt.proceeds if attempt.is_primary else asyncio.Event()).wait()

    async def end(self, attempt: Attempt) -> list[str]:
        """Kill all of it that still runs. The ids of its processes."""
        attempt.takes_commands = False
        await self._executor.end(attempt.process_id)
        attempt.directories.discard(_launches(attempt))
        await asyncio.to_thread(shutil.rmtree, _temporary(attempt), ignore_errors=True)
        return [known for known in await self._executor.known() if _is_of(known, attempt)]

    # --- what other instances launch here -------------------------------------------------------------------------

    async def launch(self, attempt: Attempt | None, request: LaunchRequest) -> LaunchReply:
        """Run the command, unless it is known, and tell how far it is. Never raises but for cancellation."""
        if attempt is None or attempt.start.instance is None:
            return LaunchReply(error=ErrorCode.TASK_NOT_FOUND, message="This instance of the task does not run.")
        if not attempt.takes_commands:
            return LaunchReply(error=ErrorCode.NODE_NOT_READY, message="This instance of the task has not coordinated.")
        if not _COMMAND_ID.match(request.command_id):
            return LaunchReply(error=ErrorCode.INVALID_REQUEST_BODY, message="The id of the command is not valid.")
        name = f"command-{request.command_id}"
        path = f"{self._root}/{_launches(attempt)}/{request.command_id}"
        command, environment = request.command, attempt.environment
        if _is_on_one_machine(attempt.start.instance) and "TMPDIR" not in environment:
            command = f"{_MAKE_TMPDIR}\n{command}"
            environment = {**environment, "TMPDIR": _temporary(attempt)}
        process = msgspec.structs.replace(
            attempt.process(("/bin/sh", "-c", command), name=name, keeps=True),
            environment=environment,
            stdout_path=f"{path}.out",
            stderr_path=f"{path}.err",
            private_logs=True,
        )
        try:
            # Not for the tasks to see: the agent reads what is there.
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            await self._executor.start(process)
            return await self._progress(process.id, path, request)
        except TaskFailure as failure:
            return LaunchReply(error=ErrorCode.INTERNAL_ERROR, message=failure.message)
        except OSError as error:
            return LaunchReply(error=ErrorCode.INTERNAL_ERROR, message=f"The node could not run the command: {error}")

    async def _progress(self, process_id: str, path: str, request: LaunchRequest) -> LaunchReply:
        """Wait for more output, for the end, or for as long as was asked."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.wait_s
        waiting = asyncio.ensure_future(self._executor.wait(process_id))
        try:
            # Should it have ended, that is told with its last words.
            await asyncio.wait({waiting}, timeout=0)
            while not waiting.done():
                if _size(f"{path}.out") > request.stdout_from or _size(f"{path}.err") > request.stderr_from:
                    break
                if loop.time() >= deadline:
                    break
                await asyncio.wait({waiting}, timeout=min(_LOOK_S, deadline - loop.time()))
            # Before the files are read: what was written before its end is then in them.
            ended = waiting.result() if waiting.done() else None
            if waiting.done() and ended is None:
                return LaunchReply(error=ErrorCode.INTERNAL_ERROR, message="The command's process was lost.")
            out = _chunk(f"{path}.out", request.stdout_from)
            err = _chunk(f"{path}.err", request.stderr_from)
            whole = len(out) < _CHUNK and len(err) < _CHUNK
            return LaunchReply(exit_code=ended.exit_code if ended and whole else None, stdout=out, stderr=err)
        finally:
            waiting.cancel()

    def _install_launcher(self) -> None:
        try:
            install(self._root)
        except OSError as error:
            raise node_failure(
                TaskFailureCode.COMMAND_LAUNCH_FAILED, "The launch agent could not be installed", error
            ) from error


def lost_process() -> TaskFailure:
    return TaskFailure(
        TaskFailureCode.UNKNOWN, "The task's process was lost: the node or its agent was restarted", user_error=False
    )


def instance_environment(instance: Instance, attempt: Attempt) -> dict[str, str]:
    """What an instance's processes are told of the others (semantics 4.4), and what lets the usual MPI libraries start
    their daemons on the other nodes without ssh."""
    addresses = instance.addresses
    cores = len(os.sched_getaffinity(0))
    launcher = f"{attempt.directories.root}/{LAUNCHER}"
    variables = {
        "AZ_BATCH_HOST_LIST": ",".join(addresses),
        "AZ_BATCH_NODE_LIST": ";".join(addresses),
        "AZ_BATCH_MASTER_NODE": f"{addresses[0]}:{MASTER_PORT}",
        "AZ_BATCH_IS_CURRENT_NODE_MASTER": "true" if instance.index == 0 else "false",
        "AZ_BATCH_TASK_SHARED_DIR": attempt.task_directory,
        "CCP_NODES": " ".join([str(len(addresses)), *(f"{address} {cores}" for address in addresses)]),
        "MILLPOND_LAUNCH_TOKEN": instance.launch_token,
        # Open MPI up to 4, and from 5 on (PRRTE). Daemons launch no others, as each node's launch agent is below its own
        # root; and they stay attached where they can, so that one that cannot start is noticed, with what it says.
        "OMPI_MCA_plm_rsh_agent": launcher,
        "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
        "OMPI_MCA_plm_rsh_num_concurrent": _MAX_DAEMONS,
        "OMPI_MCA_orte_leave_session_attached": "1",
        "PRTE_MCA_plm_ssh_agent": launcher,
        "PRTE_MCA_plm_ssh_no_tree_spawn": "1",
        "PRTE_MCA_plm_ssh_num_concurrent": _MAX_DAEMONS,
        # MPICH and what descends from it; Intel MPI.
        "HYDRA_LAUNCHER": "ssh",
        "HYDRA_LAUNCHER_EXEC": launcher,
        "I_MPI_HYDRA_BOOTSTRAP": "ssh",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC": launcher,
        # Whether a task may be root is for its userIdentity to say.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    if _is_on_one_machine(instance):
        # The nodes are all on one machine, under one host name: what takes two of them for one, and shares memory or
        # files between them, is left out.
        variables |= {
            "OMPI_MCA_pml": "ob1",
            "OMPI_MCA_btl": "tcp,self",
            "OMPI_MCA_btl_tcp_if_include": "lo",
            "OMPI_MCA_oob_tcp_if_include": "lo",
            "PMIX_MCA_gds": "hash",
        }
    return variables


def _is_on_one_machine(instance: Instance) -> bool:
    try:
        return all(ipaddress.ip_address(address).is_loopback for address in instance.addresses)
    except ValueError:
        return False


def _temporary(attempt: Attempt) -> str:
    """A directory for temporary files of its own. Short: the path of a socket may have no more than 107 bytes."""
    digest = hashlib.sha256(attempt.process_id.encode()).hexdigest()
    return f"{tempfile.gettempdir()}/millpond-{digest[:16]}"


def _coordination_id(attempt: Attempt) -> str:
    return f"{attempt.process_id}/{_COORDINATION}"


def _is_of(process_id: str, attempt: Attempt) -> bool:
    return process_id == attempt.process_id or process_id.startswith(f"{attempt.process_id}/")


def _launches(attempt: Attempt) -> str:
    """Where the output of commands launched here is, below the node's root."""
    return f"{_LAUNCHES}/{attempt.start.key}-{attempt.start.attempt}"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _chunk(path: str, offset: int) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return os.pread(file.fileno(), _CHUNK, offset)
    except FileNotFoundError:
        return b""
