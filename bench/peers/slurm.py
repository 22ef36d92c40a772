"""Slurm of Debian: one controller and one node on loopback, with a munge daemon of their own, set up for speed.

The scheduler is told to look each second and at once; jobs are one array. Everything is below one directory, on free
ports, and is stopped by its own process id.
"""

import asyncio
import contextlib
import getpass
import os
import secrets
import shlex
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from bench.machine import stop
from bench.peers.base import SLOTS, RunMany, first_line, why_not_installed

_START_S: Final = 60.0
_STOP_S: Final = 15.0
_LOOK_S: Final = 0.1
_PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")

_CONFIGURATION: Final = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0,default_queue_depth=10000,bf_continue
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs={slots} RealMemory=1000
PartitionName=main Nodes=n1 Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """See `base.Contender`."""

    name = "slurm"

    def why_not(self) -> str:
        return why_not_installed(_PROGRAMS, ["munge", "slurmctld", "slurmd", "slurm-client"])

    def version(self) -> str:
        return first_line(["/usr/sbin/slurmd", "-V"]).removeprefix("slurm-wlm ")

    @contextlib.asynccontextmanager
    async def started(self, directory: Path) -> AsyncIterator[RunMany]:
        directory = directory.resolve()
        for name in ("state", "spool"):
            (directory / name).mkdir()
        configuration = directory / "slurm.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                host=socket.gethostname(),
                user=getpass.getuser(),
                directory=directory,
                controller_port=_free_port(),
                node_port=_free_port(),
                slots=SLOTS,
            )
        )
        key = directory / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        environment = {
            **os.environ,
            "SLURM_CONF": str(configuration),
            "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin",
        }
        munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={directory}/munge.socket"]
        munged += [f"--pid-file={directory}/munged.pid", f"--log-file={directory}/munged.log"]
        munged += [f"--seed-file={directory}/munged.seed"]

        async def run(command: Sequence[str], count: int) -> float:
            begun = time.perf_counter()
            array = [f"--array=1-{count}", "--output=/dev/null", "--wrap", shlex.join(command)]
            await _output(["sbatch", "--parsable", *array], environment)
            while (await _output(["squeue", "--noheader", "--array"], environment)).strip():
                await asyncio.sleep(_LOOK_S)
            return time.perf_counter() - begun

        daemons: list[subprocess.Popen[bytes]] = []
        with (directory / "daemons.log").open("wb") as log:
            try:
                for daemon in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"]):
                    daemons.append(
                        subprocess.Popen(
                            daemon, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=directory
                        )
                    )
                    if daemon is munged:
                        await _until_there(directory / "munge.socket")
                await _until_idle(environment, directory)
                yield run
            finally:
                for process in reversed(daemons):
                    stop(process, _STOP_S)


async def _until_there(path: Path) -> None:
    async with asyncio.timeout(_START_S):
        while not path.exists():
            await asyncio.sleep(_LOOK_S)


async def _until_idle(environment: dict[str, str], directory: Path) -> None:
    """Raises RuntimeError when the node does not come up."""
    try:
        async with asyncio.timeout(_START_S):
            while True:
                with contextlib.suppress(RuntimeError):  # the controller does not answer yet
                    if (await _output(["sinfo", "--noheader", "-o", "%t"], environment)).strip() == "idle":
                        return
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise RuntimeError(f"slurm does not come up: see the logs in {directory}") from None


async def _output(command: Sequence[str], environment: dict[str, str]) -> str:
    """Raises RuntimeError when the command fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    out, error = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]}: {error.decode(errors='replace').strip()}")
    return out.decode()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
