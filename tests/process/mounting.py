"""What tests of mounts need of the machine, and a file server by SMB."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from millpond.agent.mount_table import mounted_below, unmount_below
from tests.machine import free_port
from tests.waiting import until


def needs(programs: tuple[str, ...], require: Callable[[str, str], None], leave_out: Callable[[str], None]) -> None:
    """Leave the test out where nothing can be mounted, or a program is missing."""
    if os.geteuid() != 0:
        leave_out("mounting needs root")
    if "rclone" in programs and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        leave_out("there is no /dev/fuse")
    for program in programs:
        if shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin") is None:
            require(program, "install it (tools/test_packages.sh)")


def bind_works(directory: Path) -> bool:
    """Whether this root may mount at all (in many containers it may not)."""
    source, target = directory / "bind-source", directory / "bind-target"
    source.mkdir()
    target.mkdir()
    ended = subprocess.run(["mount", "--bind", str(source), str(target)], capture_output=True, check=False)
    unmount_below(str(target), 0.0)
    return ended.returncode == 0


def clear(directory: Path) -> None:
    """After a test: nothing below stays mounted."""
    unmount_below(str(directory), 0.5)
    assert mounted_below(str(directory)) == []


class Smb:
    """A private smbd with one share of one user, files of this user."""

    user, password = "tester", "geheim"

    def __init__(self, directory: Path) -> None:
        self.files = directory / "share"
        self.port = free_port()
        self.files.mkdir(parents=True)
        # Its sockets are in there: the test's own directory may have too long a path for them.
        self._own = Path(tempfile.mkdtemp(prefix="smbd-", dir="/tmp"))
        self._config = directory / "smb.conf"
        self._config.write_text(
            f"""[global]
 smb ports = {self.port}
 interfaces = 127.0.0.1
 bind interfaces only = yes
 lock directory = {self._own}
 state directory = {self._own}
 cache directory = {self._own}
 private dir = {self._own}
 pid directory = {self._own}
 ncalrpc dir = {self._own}/ncalrpc
 passdb backend = smbpasswd:{self._own}/smbpasswd
 log file = {directory}/smbd.log
 username map = {directory}/users
 load printers = no
 disable spoolss = yes
[data]
 path = {self.files}
 read only = no
 force user = root
"""
        )
        (directory / "users").write_text(f"root = {self.user}\n")
        subprocess.run(
            ["smbpasswd", "-c", str(self._config), "-a", "-s", "root"],
            input=f"{self.password}\n{self.password}\n",
            text=True,
            check=True,
            capture_output=True,
        )
        with open(directory / "out", "wb") as out:
            self._process = subprocess.Popen(
                ["smbd", "--foreground", "--no-process-group", "-s", str(self._config)],
                stdout=out,
                stderr=out,
                # At its end it ends its whole process group.
                start_new_session=True,
            )
        try:
            until(self._listens)
        except AssertionError:
            self.stop()
            raise AssertionError((directory / "out").read_text() + (directory / "smbd.log").read_text()) from None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._own)
