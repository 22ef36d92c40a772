"""The starter in C (`start.c`), where the agent could build it: the same as `start.Starter`, at less than half the cost."""

import ctypes
import errno
import os

from millpond.agent.spawning.frames import APPENDS, MAKES_DIRECTORY, MARKER, PRIVATE_LOGS
from millpond.agent.spawning.start import StartError
from millpond.agent.spawning.switch import CgroupError, Cgroups, Switch

_STEPS = (b"directory", b"log", b"program", b"exec", b"cgroup", b"making")
_MARKER = MARKER.encode()


class _Order(ctypes.Structure):
    """The same as `struct order`."""

    _fields_ = (
        ("directory", ctypes.c_char_p),
        ("stdout_path", ctypes.c_char_p),
        ("stderr_path", ctypes.c_char_p),
        ("marker", ctypes.c_char_p),
        ("strings", ctypes.c_char_p),
        ("groups", ctypes.c_void_p),
        ("cgroups", ctypes.c_void_p),
        ("strings_size", ctypes.c_uint),
        ("arguments", ctypes.c_uint),
        ("group_count", ctypes.c_uint),
        ("cgroup_count", ctypes.c_uint),
        ("uid", ctypes.c_uint),
        ("gid", ctypes.c_uint),
        ("null", ctypes.c_int),
        ("switches", ctypes.c_int),
        ("private_logs", ctypes.c_int),
        ("appends", ctypes.c_int),
        ("makes_directory", ctypes.c_int),
        ("error", ctypes.c_int),
        ("step", ctypes.c_int),
    )


class NativeStarter:
    """Starts processes, in one thread. Raises OSError when the library cannot be used."""

    def __init__(self, path: str, cgroups: Cgroups) -> None:
        try:
            self._start = ctypes.PyDLL(path).millpond_start
        except AttributeError as error:
            raise OSError(errno.ENOEXEC, path) from error
        self._start.argtypes = (ctypes.POINTER(_Order),)
        self._start.restype = ctypes.c_int
        self._cgroups = cgroups
        self._order = _Order()
        self._order.null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._reference = ctypes.byref(self._order)

    def start(
        self,
        marker: bytes,
        directory: bytes,
        stdout_path: bytes,
        stderr_path: bytes,
        flags: bytes,
        arguments: int,
        strings: bytes,
        switch: Switch | None,
    ) -> int:
        """The pid. `strings` are that many arguments, and NAME=value …, with NUL bytes between. Raises StartError."""
        order = self._order
        order.directory, order.stdout_path, order.stderr_path = directory, stdout_path, stderr_path
        order.marker = _MARKER + b"=" + marker
        order.strings, order.strings_size, order.arguments = strings, len(strings) + 1, arguments
        order.appends = APPENDS in flags
        order.makes_directory = MAKES_DIRECTORY in flags
        order.switches = order.private_logs = order.group_count = order.cgroup_count = 0
        # Held until the call is over.
        groups = cgroups = None
        if switch is not None:
            try:
                files = [self._cgroups.file_of(one) for one in switch.cgroups]
            except CgroupError as error:
                raise StartError(error.errno or errno.EINVAL, b"cgroup") from error
            groups = (ctypes.c_uint * len(switch.groups))(*switch.groups)
            cgroups = (ctypes.c_int * len(files))(*files)
            order.groups, order.group_count = ctypes.addressof(groups), len(switch.groups)
            order.cgroups, order.cgroup_count = ctypes.addressof(cgroups), len(files)
            order.uid, order.gid, order.switches = switch.uid, switch.gid, 1
            order.private_logs = PRIVATE_LOGS in flags
        pid: int = self._start(self._reference)
        if pid < 0:
            step = _STEPS[order.step]
            if step == b"cgroup":
                # Some may be gone by now, or new ones of the same names.
                self._cgroups.close()
            raise StartError(order.error, step)
        return pid
