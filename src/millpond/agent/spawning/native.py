"""The starter in C (`start.c`), where the agent could build it: the same as `start.Starter`, at less than half the cost."""

import ctypes
import errno
import os

from millpond.agent.spawning.frames import MARKER
from millpond.agent.spawning.start import StartError
from millpond.agent.spawning.switch import CgroupError, Cgroups, Switch

_STEPS = (b"directory", b"log", b"program", b"exec", b"cgroup", b"making")
_SAID = 512
_MAX_SWITCHES = 256


class _Order(ctypes.Structure):
    """The same as `struct order`."""

    _fields_ = (
        ("launch", ctypes.c_char_p),
        ("marker", ctypes.c_char_p),
        ("groups", ctypes.c_void_p),
        ("cgroups", ctypes.c_void_p),
        ("size", ctypes.c_uint),
        ("group_count", ctypes.c_uint),
        ("cgroup_count", ctypes.c_uint),
        ("uid", ctypes.c_uint),
        ("gid", ctypes.c_uint),
        ("null", ctypes.c_int),
        ("switches", ctypes.c_int),
    )


class _Prepared:
    """An order for one user and its control groups; `files` are open."""

    __slots__ = ("_held", "order", "reference")

    def __init__(self, token: bytes, null: int, switch: Switch | None, files: list[int]) -> None:
        order = self.order = _Order()
        self.reference = ctypes.byref(order)
        order.marker = MARKER.encode() + b"=" + token + b":"
        order.null = null
        if switch is not None:
            groups = (ctypes.c_uint * len(switch.groups))(*switch.groups)
            cgroups = (ctypes.c_int * len(files))(*files)
            self._held = groups, cgroups
            order.groups, order.group_count = ctypes.addressof(groups), len(switch.groups)
            order.cgroups, order.cgroup_count = ctypes.addressof(cgroups), len(files)
            order.uid, order.gid, order.switches = switch.uid, switch.gid, 1


class NotStarted(Exception):
    """A process that had begun could not become its program, and is taken in."""

    def __init__(self, pid: int, why: StartError) -> None:
        super().__init__(pid, why)
        self.pid = pid
        self.why = why


class NativeStarter:
    """Starts processes, for one thread. A process has *begun* once it has a pid; only then it becomes its program, or
    ends because it cannot. `token` is what they are marked with. Raises OSError when the library cannot be used."""

    def __init__(self, path: str, token: bytes, cgroups: Cgroups) -> None:
        try:
            library = ctypes.PyDLL(path)
            self._begin, self._take_in = library.millpond_begin, library.millpond_take_in
            self._begun, self._is_beginning = library.millpond_begun, library.millpond_is_beginning
        except AttributeError as error:
            raise OSError(errno.ENOEXEC, path) from error
        self._begin.argtypes = (ctypes.POINTER(_Order),)
        self._take_in.argtypes = (ctypes.c_char_p, ctypes.c_int)
        self._begun.argtypes = ()
        self._is_beginning.argtypes = (ctypes.c_int,)
        self._token = token
        self._cgroups = cgroups
        self._prepared: dict[Switch | None, _Prepared] = {}
        self._opened = cgroups.times_closed
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._said = ctypes.create_string_buffer(_SAID)

    def begin(self, launch: bytes, switch: Switch | None) -> int:
        """The pid of a process that is to become the program of `launch`, which is that of `frames.LAUNCH`. Raises
        StartError."""
        prepared = self._prepared.get(switch)
        if prepared is None or self._opened != self._cgroups.times_closed:
            prepared = self._prepare(switch)
        order = prepared.order
        order.launch, order.size = launch, len(launch) + 1
        pid: int = self._begin(prepared.reference)
        if pid < 0:
            raise StartError(-pid, b"exec")
        return pid

    def begun(self) -> int:
        """How many have yet to become their programs, or could not and are still to be taken in. One that its user has
        stopped is continued, if this is asked often enough."""
        count: int = self._begun()
        return count

    def is_beginning(self, pid: int) -> bool:
        """Whether it is one of them."""
        return bool(self._is_beginning(pid))

    def take_in(self) -> tuple[int, bytes]:
        """A child that has ended, or 0. One that was started here and keeps nothing is taken in, its group killed: then
        there is what EXITED is to say of it. Any other is still to be taken in. Raises NotStarted."""
        pid: int = self._take_in(self._said, _SAID)
        said = self._said.value if pid else b""
        if said.startswith(b"!"):
            _, number, step = said.split()
            error = StartError(int(number), _STEPS[int(step)])
            if error.step == b"cgroup":
                # Some may be gone by now, or new ones of the same names.
                self._cgroups.close()
            raise NotStarted(pid, error)
        return pid, said

    def _prepare(self, switch: Switch | None) -> _Prepared:
        try:
            files = [] if switch is None else [self._cgroups.file_of(one) for one in switch.cgroups]
        except CgroupError as error:
            raise StartError(error.errno or errno.EINVAL, b"cgroup") from error
        if self._opened != self._cgroups.times_closed or len(self._prepared) >= _MAX_SWITCHES:
            self._opened = self._cgroups.times_closed
            self._prepared.clear()
        prepared = self._prepared[switch] = _Prepared(self._token, self._null, switch, files)
        return prepared
