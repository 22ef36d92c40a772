"""The users of one node (semantics 4.6): a pool user, named accounts, and one user for each task that wants its own.

All have numbers of the node's block (`claims`):

    first             a group all users of the node are in, and nobody else
    first + 1         the pool's auto-user, with its private group
    first + 2 …       named accounts that come without a number
    first + 32 …      users of single tasks, handed out in turn
    the last 64       users who log in (`logins`)

Elevated (`admin`) is root, whoever asked for it (ADR 12).
"""

import contextlib
import os
from collections.abc import Collection
from typing import Final

import msgspec

from millpond.agent.base import RunAs
from millpond.agent.isolation.account_files import AccountEntry, AccountFiles
from millpond.agent.isolation.claims import Block
from millpond.agent.isolation.logins import MOST as MOST_LOGINS
from millpond.agent.replacement import replace_file
from millpond.agent.runner.spec import UserIdentity
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.domain.states import TaskKind

STATE_FILE: Final = "users.json"
HOMES: Final = "home"
ROOT_USER: Final = "root"
_NAMED: Final = 2
_FIRST_TASK: Final = 32
_RESERVED: Final = 256
"""So many numbers are noted as used at a time, so that handing one out costs no file."""


class LinuxUser(msgspec.Struct, frozen=True, rename="camel"):
    uid: int | None = None
    gid: int | None = None
    ssh_private_key: str | None = None


class NamedAccount(msgspec.Struct, frozen=True, rename="camel"):
    """One of the pool's `userAccounts`."""

    name: str
    elevation_level: str | None = None
    linux_user_configuration: LinuxUser | None = None

    @property
    def is_admin(self) -> bool:
        return (self.elevation_level or "").lower() == "admin"


class _PoolSpec(msgspec.Struct, frozen=True, rename="camel"):
    user_accounts: tuple[NamedAccount, ...] | None = None


class State(msgspec.Struct):
    """`users.json` of a node."""

    block: Block
    names: dict[str, str] = {}
    """Named account → name on this machine."""
    numbers: dict[str, int] = {}
    """Named account → its place among the numbers."""
    next_task: int = 0
    """All users of tasks below this may have been handed out."""


class Identity(msgspec.Struct, frozen=True):
    """Who a task runs as."""

    name: str
    """AZ_BATCH_TASK_USER"""
    words: str
    """AZ_BATCH_TASK_USER_IDENTITY"""
    run_as: RunAs
    own: bool = False
    """A user of this task alone."""


def named_accounts(pool_spec: bytes) -> tuple[NamedAccount, ...]:
    """The user accounts in what a node knows of its pool."""
    return msgspec.json.decode(pool_spec, type=_PoolSpec).user_accounts or ()


def wished(identity: UserIdentity | None, kind: TaskKind) -> tuple[str, bool, bool]:
    """What a task asks for: (name of an account or nothing, of the task alone, elevated).

    Without a wish: the pool's user, but a start task is given one of its own (semantics 3.1, 4.6).
    """
    if identity is None or (not identity.user_name and identity.auto_user is None):
        return "", kind is TaskKind.START_TASK, False
    if identity.user_name:
        return identity.user_name, False, False
    assert identity.auto_user is not None
    scope, level = identity.auto_user.scope, identity.auto_user.elevation_level
    return "", (scope or "").lower() == "task", (level or "").lower() == "admin"


def identity_words(name: str, *, own: bool, admin: bool) -> str:
    """AZ_BATCH_TASK_USER_IDENTITY."""
    return name or f"{'Task' if own else 'Pool'}{'Admin' if admin else 'NonAdmin'}"


class NodeUsers:
    """The users of the node whose directory is `directory`; its state is a file there."""

    def __init__(self, directory: str, block: Block, account_files: AccountFiles) -> None:
        """Raises OSError when the state cannot be read or written."""
        self._directory = directory
        self._files = account_files
        self.block = block
        self._state = self._read() or State(block)
        self.is_new = self._state.block != block
        """The node has had other numbers, or none, before."""
        if self.is_new:
            self._state = State(block)
        self._next = self._state.next_task
        self._live: set[int] = set()
        self._accounts: dict[str, RunAs] = {}
        self._admins: set[str] = set()
        self._known: tuple[NamedAccount, ...] | None = None
        self.has_names = False
        """The accounts are in /etc/passwd."""
        self.pool_user = f"_azbatch{block.number}"

    @property
    def group(self) -> int:
        """The group of all users of the node."""
        return self.block.first

    def set_up(self, accounts: tuple[NamedAccount, ...]) -> None:
        """Have the pool user and these named accounts; what was there stays as it is. Raises OSError."""
        if accounts == self._known:
            return
        homes = f"{self._directory}/{HOMES}"
        _make_directory(homes, 0, self.group, 0o750)
        entries = [AccountEntry(self.pool_user, self.block.first + 1, f"{homes}/{self.pool_user}")]
        taken = self._taken_names()
        for account in accounts:
            if account.is_admin:
                continue
            linux = account.linux_user_configuration
            if linux is not None and linux.uid is not None:
                # A number of the user's own choice has no entry of ours: it may have one of the machine's.
                run_as = RunAs(linux.uid, linux.uid if linux.gid is None else linux.gid, (self.group,))
                name = account.name
            else:
                name, uid = self._name_of(account.name, taken)
                run_as = RunAs(uid, uid, (self.group,))
                entries.append(AccountEntry(name, uid, f"{homes}/{name}"))
            self._accounts[account.name] = run_as
            home = f"{homes}/{name}"
            _make_directory(home, run_as.uid, run_as.gid, 0o700)
            if linux is not None and linux.ssh_private_key:
                _put_key(home, run_as, linux.ssh_private_key)
        _make_directory(entries[0].home, entries[0].uid, entries[0].uid, 0o700)
        self._write()
        self._known = accounts
        self._admins = {account.name for account in accounts if account.is_admin}
        try:
            self._files.add((f"_azbatchgrp{self.block.number}", self.group), entries)
            self.has_names = True
        except OSError:
            # An /etc that cannot be written: the users have numbers only, and their names in their environment.
            self.has_names = False

    def forget_homes(self) -> None:
        """The home directories are gone: `set_up` makes them again."""
        self._known = None

    def _taken_names(self) -> Collection[str]:
        ours = self.block
        return {name for name, number in self._files.taken_names().items() if number not in ours}

    def _name_of(self, account: str, taken: Collection[str]) -> tuple[str, int]:
        """The name on this machine, and the number, of a named account."""
        state = self._state
        if account not in state.numbers:
            if len(state.numbers) >= _FIRST_TASK - _NAMED:
                raise OSError(f"a node has room for {_FIRST_TASK - _NAMED} named user accounts")
            state.numbers[account] = len(state.numbers)
            state.names[account] = f"{account}-{self.block.number}" if account in taken else account
        return state.names[account], self.block.first + _NAMED + state.numbers[account]

    # --- who a task is ---

    def identify(self, identity: UserIdentity | None, kind: TaskKind) -> Identity:
        """Who the task is to run as. One of its own is taken: `release` it. Raises TaskFailure."""
        name, own, admin = wished(identity, kind)
        words = identity_words(name, own=own, admin=admin)
        if name:
            if name in self._admins:
                return Identity(name, words, RunAs(0, 0, (self.group,)))
            run_as = self._accounts.get(name)
            if run_as is None:
                raise TaskFailure(
                    TaskFailureCode.COMMAND_LAUNCH_FAILED,
                    f"The pool has no user account named {name!r}",
                    UserName=name,
                )
            if run_as.uid == 0:
                raise TaskFailure(
                    TaskFailureCode.COMMAND_LAUNCH_FAILED,
                    f"The user account {name!r} has uid 0, which only elevationLevel admin gives",
                    UserName=name,
                )
            return Identity(name, words, run_as)
        if admin:
            return Identity(ROOT_USER, words, RunAs(0, 0, (self.group,)))
        if own:
            uid = self._take()
            suffix = "start" if kind is TaskKind.START_TASK else str(uid - self.block.first - _FIRST_TASK)
            return Identity(f"_azbatchtask_{suffix}", words, RunAs(uid, uid, (self.group,)), own=True)
        uid = self.block.first + 1
        return Identity(self.pool_user, words, RunAs(uid, uid, (self.group,)))

    def _take(self) -> int:
        """A number no task has now, and none has had for as long as can be."""
        count = self.block.size - _FIRST_TASK - MOST_LOGINS
        for _ in range(count):
            place = self._next % count
            self._next += 1
            uid = self.block.first + _FIRST_TASK + place
            if uid not in self._live:
                if self._next > self._state.next_task:
                    self._state.next_task = self._next + _RESERVED
                    self._write()
                self._live.add(uid)
                return uid
        raise TaskFailure(
            TaskFailureCode.COMMAND_LAUNCH_FAILED, "All user ids of the node's tasks are in use", user_error=False
        )

    def resume(self, uid: int) -> None:
        """A task that runs since an earlier life of the agent has this number."""
        if uid in self.block and uid >= self.block.first + _FIRST_TASK:
            self._live.add(uid)

    def release(self, uid: int) -> None:
        """The task that had this number is over."""
        self._live.discard(uid)

    def is_live(self, uid: int) -> bool:
        """Whether a task has this number for itself now."""
        return uid in self._live

    def owns(self, uid: int) -> bool:
        """Whether the number is that of a user of the node."""
        return uid in self.block or any(account.uid == uid for account in self._accounts.values())

    # --- the file ---

    def _read(self) -> State | None:
        return read_state(self._directory)

    def _write(self) -> None:
        replace_file(f"{self._directory}/{STATE_FILE}", msgspec.json.encode(self._state))


def read_state(directory: str) -> State | None:
    """What a node's directory says of its users; None when it says nothing. Raises OSError."""
    try:
        with open(f"{directory}/{STATE_FILE}", "rb") as file:
            return msgspec.json.decode(file.read(), type=State)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _make_directory(path: str, uid: int, gid: int, mode: int) -> None:
    """A directory in one of the agent's own."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def _put_key(home: str, user: RunAs, key: str) -> None:
    """Let the account log in to other nodes of the pool: `.ssh/id_rsa`. The home is the account's own, and what is in it
    may be anything: nothing is followed."""
    ssh = f"{home}/.ssh"
    with contextlib.suppress(FileExistsError):
        os.mkdir(ssh, 0o700)
    directory = os.open(ssh, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(directory, user.uid, user.gid)
        temporary = ".id_rsa.millpond"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            os.write(file, key.rstrip("\n").encode() + b"\n")
            os.fchown(file, user.uid, user.gid)
        finally:
            os.close(file)
        os.rename(temporary, "id_rsa", src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)
