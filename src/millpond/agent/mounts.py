"""The mounts of a node's pool (semantics 5.5): below `fsmounts`, with a log beside each.

They are made when the node is set up, before its start task, and are gone with the node, with its host and with its
disk. A crash of the host leaves them: the tasks that go on use them. Should they not be whole when a host begins again
(the machine was restarted, or the host was stopped in order), the node restarts, and is set up anew.
"""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import stat
from collections.abc import Sequence
from typing import Final

import msgspec

from millpond.agent.mount_kinds import (
    Making,
    Mount,
    MountSettings,
    Place,
    failure,
    is_linked,
    making_of,
    program_environment,
)
from millpond.agent.mount_table import is_alive, mounted_below, unmount, unmount_below
from millpond.agent.replacement import replace_file

MOUNTS_DIRECTORY: Final = "fsmounts"
_PRIVATE: Final = "volatile/mounts"
_PLAN: Final = "plan.json"
_PATIENCE_S: Final = 5.0
"""How long what is mounted may still be used when it is to go."""
_HOPELESS: Final = (
    "authenticationfailed",
    "authorizationfailure",
    "bad option",
    "directory not found",
    "no such device",
    "not supported",
    "permission denied",
    "unknown filesystem type",
)
"""In what a program says: another try will say the same."""
_SIGNATURE: Final = re.compile(r"\bsig=[^&\s]+")
_TOLD: Final = 1000
"""Characters of what a program said that go into the error."""

_log = logging.getLogger(__name__)


class _Planned(msgspec.Struct, frozen=True):
    path: str
    """Relative to the node's `fsmounts`."""
    is_link: bool = False


class NodeMounts:
    """Those of one node."""

    def __init__(self, root: str, settings: MountSettings) -> None:
        self._settings = settings
        self._directory = f"{os.path.realpath(root)}/{MOUNTS_DIRECTORY}"
        self._private = f"{os.path.realpath(root)}/{_PRIVATE}"

    async def set_up(self, mounts: Sequence[Mount], group: int | None) -> None:
        """Mount these, and nothing else; `group` is that of the node's users. Raises TaskFailure
        MountConfigurationError; what was mounted until then is unmounted."""
        await asyncio.to_thread(self._forget)
        if not mounts:
            return
        try:
            os.makedirs(self._directory, mode=0o770, exist_ok=True)
            os.makedirs(self._private, mode=0o700, exist_ok=True)
            self._write_plan([_Planned(_relative(mount), is_link=is_linked(mount.kind)) for mount in mounts])
        except OSError as error:
            raise failure("", f"the mounts cannot be prepared: {error}") from error
        tasks = [asyncio.create_task(self._mount(number, mount, group)) for number, mount in enumerate(mounts)]
        try:
            for finished in asyncio.as_completed(tasks):
                await finished
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self._forget)
            raise

    def _forget(self) -> None:
        self.take_down()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._private}/{_PLAN}")

    @property
    def is_whole(self) -> bool:
        """Whether all that was mounted last still is, and answers. Without mounts it is."""
        return all(
            os.path.isdir(path) if planned.is_link else is_alive(path)
            for planned in self._plan()
            for path in (f"{self._directory}/{planned.path}",)
        )

    def take_down(self, patience_s: float = _PATIENCE_S) -> None:
        """Unmount everything; for what will be mounted again after a restart the plan stays. Blocks."""
        left = unmount_below(self._directory, patience_s)
        if left:
            _log.error("cannot be unmounted: %s", ", ".join(left))
        for planned in self._plan():
            if planned.is_link:
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._directory}/{planned.path}")

    # --- the plan -----------------------------------------------------------------------------------------------

    def _plan(self) -> list[_Planned]:
        try:
            with open(f"{self._private}/{_PLAN}", "rb") as file:
                return msgspec.json.decode(file.read(), type=list[_Planned])
        except (OSError, msgspec.MsgspecError):
            return []

    def _write_plan(self, plan: Sequence[_Planned]) -> None:
        replace_file(f"{self._private}/{_PLAN}", msgspec.json.encode(plan))

    def _target(self, mount: Mount) -> str:
        return f"{self._directory}/{_relative(mount)}"

    # --- one mount ----------------------------------------------------------------------------------------------

    async def _mount(self, number: int, mount: Mount, group: int | None) -> None:
        path = _relative(mount)
        target = self._target(mount)
        place = Place(target, f"{self._private}/{number}", os.geteuid(), group)
        making = making_of(mount.kind, place, self._settings)
        log = f"{self._directory}/{path.replace('/', '-')}.log"
        try:
            os.makedirs(place.private, mode=0o700, exist_ok=True)
            # Nobody else's file, and no link somebody put there.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(log)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(log, flags, 0o640)
        except OSError as error:
            raise failure(path, f"the mount's log cannot be made: {error}") from error
        try:
            if group is not None:
                os.fchown(descriptor, -1, group)
            for note in making.notes:
                os.write(descriptor, f"{note}\n".encode())
            await self._try_to_mount(path, making, place, descriptor)
        except OSError as error:
            raise failure(path, f"{path} cannot be mounted: {error}") from error
        finally:
            os.close(descriptor)

    async def _try_to_mount(self, path: str, making: Making, place: Place, log: int) -> None:
        if making.link:
            os.makedirs(os.path.dirname(place.target), mode=0o770, exist_ok=True)
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(place.target)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.rmdir(place.target)
            os.symlink(making.link, place.target)
            return
        _make_directories(self._directory, path, place.group)
        secrets = {**making.environment, **{name: await _obscure(value) for name, value in making.obscured.items()}}
        environment = program_environment(secrets)
        for tried in range(1, self._settings.tries + 1):
            said = await self._run_all(path, making, environment, log)
            if said is None:
                said = await self._look_at(place.target)
            if said is None:
                _log.info("mounted %s", place.target)
                return
            _log.warning("mounting %s: %s", place.target, said)
            # Whatever part of it is there.
            await asyncio.to_thread(unmount, place.target, 0.0)
            if tried == self._settings.tries or any(words in said.lower() for words in _HOPELESS):
                problem = failure(path, f"{path} cannot be mounted: {said}")
                problem.details["Message"] = said
                raise problem
            await asyncio.sleep(self._settings.pause_s)

    async def _run_all(self, path: str, making: Making, environment: dict[str, str], log: int) -> str | None:
        """None when all went well, else what was said."""
        try:
            for secret, text in making.secret_files.items():
                descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
            for command in making.commands:
                if shutil.which(command[0], path=environment["PATH"]) is None:
                    return f"there is no program {command[0]} on this node: install it (not supported without)"
                begun = os.fstat(log).st_size
                code = await _run(command, environment, log, self._settings.timeout_s)
                if code != 0:
                    said = _said(f"{self._directory}/{path.replace('/', '-')}.log", begun)
                    if code is None:
                        return (
                            f"{command[0]} did not come to an end within {self._settings.timeout_s:g} s. {said}".strip()
                        )
                    return said or f"{command[0]} ended with exit code {code}"
        finally:
            for secret in making.secret_files:
                with contextlib.suppress(OSError):
                    os.unlink(secret)
        return None

    async def _look_at(self, target: str) -> str | None:
        """What is wrong with what is mounted."""
        look = asyncio.to_thread(os.stat, target)
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await look
        except TimeoutError:
            return f"it did not answer within {self._settings.timeout_s:g} s"
        except OSError as error:
            return f"it is mounted and does not work: {error.strerror}"
        return None if is_alive(target) else "nothing is mounted there"


class Mounts:
    """Those of all nodes of a host."""

    def __init__(self, settings: MountSettings) -> None:
        self._settings = settings

    def of(self, root: str) -> NodeMounts:
        """Those of the node with this root directory."""
        return NodeMounts(root, self._settings)

    def sweep(self, trash: str) -> None:
        """Unmount what was left in directories that are on their way out. Blocks for a moment."""
        for one in mounted_below(trash):
            unmount(one.path, 0.0)


def _relative(mount: Mount) -> str:
    """Raises TaskFailure for a path that would not be below `fsmounts`."""
    path = mount.kind.relative_mount_path
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path:
        raise failure(path, f"{path!r} is not a path below the node's {MOUNTS_DIRECTORY}")
    return "/".join(parts)


def _make_directories(top: str, path: str, group: int | None) -> None:
    """Make the directory to mount on, to be passed by the group. What is in the way and is no directory goes: no link is followed. Raises OSError."""
    for part in path.split("/"):
        top = f"{top}/{part}"
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(top).st_mode):
                os.unlink(top)
        with contextlib.suppress(FileExistsError):
            os.mkdir(top, 0o750)
        if group is not None:
            os.chown(top, -1, group, follow_symlinks=False)


async def _run(command: Sequence[str], environment: dict[str, str], log: int, timeout_s: float) -> int | None:
    """The exit code, or None when it took too long. What the program leaves running stays."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        # What a probe lists is nobody's; what is wrong is said here.
        stdout=asyncio.subprocess.DEVNULL if command[1] == "lsf" else log,
        stderr=log,
        env=environment,
        cwd="/",
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            return await process.wait()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _obscure(secret: str) -> str:
    """A password as rclone wants it. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        "rclone",
        "obscure",
        "-",
        "--config=",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=program_environment({}),
    )
    out, _ = await process.communicate(secret.encode())
    if process.returncode != 0:
        raise OSError("rclone cannot obscure the password")
    return out.decode().strip()


def _said(log: str, begun: int) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(begun)
            text = file.read(64 * 1024).decode(errors="replace")
    except OSError:
        return ""
    return _SIGNATURE.sub("sig=(hidden)", " ".join(text.split()))[-_TOLD:]


def checked(mounts: Sequence[Mount]) -> Sequence[Mount]:
    """Those mounts. Raises TaskFailure MountConfigurationError for a path that would not be below `fsmounts`."""
    for mount in mounts:
        _relative(mount)
    return mounts
