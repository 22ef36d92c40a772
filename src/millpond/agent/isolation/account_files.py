"""Entries of this machine's /etc/passwd and /etc/group for the accounts of nodes.

Programs such as `whoami`, `ssh`, `git` and `mpirun` want their user to have a name. Entries are made once, when a node
gets its users, and go with the node; nothing is written for a task. The files are changed as the system's own tools do
it: under the lock of lckpwdf(3), and by renaming a new file into place.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Final

import msgspec

_LOCK: Final = ".pwd.lock"


class AccountEntry(msgspec.Struct, frozen=True):
    """A user with a group of its own of the same name and number."""

    name: str
    uid: int
    home: str


class AccountFiles:
    """The two files below `etc`."""

    def __init__(self, etc: str = "/etc") -> None:
        self._etc = etc

    def add(self, group: tuple[str, int], accounts: Sequence[AccountEntry]) -> None:
        """Have these entries, in place of others of the same numbers. Raises OSError when the files cannot be written.

        `group` is (name, gid) of the group that all accounts of the node are in.
        """
        uids = {str(account.uid) for account in accounts}
        gids = uids | {str(group[1])}
        shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        users = [
            f"{account.name}:*:{account.uid}:{account.uid}:Millpond task user:{account.home}:{shell}"
            for account in accounts
        ]
        groups = [f"{account.name}:*:{account.uid}:" for account in accounts]
        with self._locked():
            # Who may log in is a member too, and stays one.
            before = [line.split(":") for line in self._lines("group")]
            known = next(
                (fields[3].split(",") for fields in before if len(fields) > 3 and fields[2] == str(group[1])), []
            )
            members = dict.fromkeys([account.name for account in accounts] + [name for name in known if name])
            groups.append(f"{group[0]}:*:{group[1]}:{','.join(members)}")
            # Groups first: no user is ever there without its own.
            self._change("group", lambda fields: fields[2] not in gids, groups)
            self._change("passwd", lambda fields: fields[2] not in uids, users)

    def put_login(self, account: AccountEntry, password: str, last_day: int, group: int) -> None:
        """Have a user who may log in, as a member of the group. `password` is hashed, or `!` for none; `last_day` is the
        last the user is let in, in days since 1970. Raises OSError."""
        shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        user = f"{account.name}:x:{account.uid}:{account.uid}:Millpond node user:{account.home}:{shell}"
        number = str(account.uid)
        with self._locked():
            groups = [line.split(":") for line in self._lines("group")]
            ours = next((fields for fields in groups if len(fields) > 3 and fields[2] == str(group)), None)
            more = [f"{account.name}:x:{account.uid}:"]
            if ours is not None:
                members = [name for name in ours[3].split(",") if name and name != account.name]
                more.append(":".join([*ours[:3], ",".join([*members, account.name])]))
            self._change("group", lambda fields: fields[2] not in (number, str(group if ours else number)), more)
            shadow = f"{account.name}:{password}:{max(1, last_day - 1)}:0:99999:7::{last_day}:"
            # Before the user is there: without this entry anybody could be it.
            self._change("shadow", lambda fields: fields[0] != account.name, [shadow], mode=0o600)
            self._change("passwd", lambda fields: fields[2] != number, [user])

    def remove(self, first: int, last: int) -> None:
        """Remove all users and groups whose numbers are in that range. Raises OSError."""

        def stays(fields: Sequence[str]) -> bool:
            return not (fields[2].isdigit() and first <= int(fields[2]) <= last)

        with self._locked():
            gone = {
                fields[0]
                for line in self._lines("passwd")
                if len(fields := line.split(":")) > 3 and fields[1] == "x" and not stays(fields)
            }
            self._change("passwd", stays, ())
            if gone:
                self._change("shadow", lambda fields: fields[0] not in gone, (), mode=0o600)
                self._drop_members(gone)
            self._change("group", stays, ())

    def _drop_members(self, names: Set[str]) -> None:
        """Take users out of the groups they are in."""
        more = []
        changed = set()
        for line in self._lines("group"):
            fields = line.split(":")
            if len(fields) > 3 and not names.isdisjoint(fields[3].split(",")):
                changed.add(fields[0])
                kept = ",".join(name for name in fields[3].split(",") if name not in names)
                more.append(":".join([*fields[:3], kept]))
        self._change("group", lambda fields: fields[0] not in changed, more)

    def taken_names(self) -> dict[str, int]:
        """All names of users and groups in the files, and their numbers (a user's, where both have the name)."""
        found: dict[str, int] = {}
        for name in ("group", "passwd"):
            for line in self._lines(name):
                fields = line.split(":")
                if len(fields) > 3 and fields[2].isdigit():
                    found[fields[0]] = int(fields[2])
        return found

    def _lines(self, name: str) -> list[str]:
        try:
            with open(f"{self._etc}/{name}", encoding="utf-8", errors="surrogateescape") as file:
                return file.read().splitlines()
        except FileNotFoundError:
            # A bare container.
            return []

    def _change(
        self, name: str, stays: Callable[[Sequence[str]], bool], more: Sequence[str], mode: int = 0o644
    ) -> None:
        before = self._lines(name)
        # What is no entry (a comment, NIS) is left as it is.
        after = [line for line in before if line.count(":") < 3 or stays(line.split(":"))]
        after += more
        if after == before:
            return
        path = f"{self._etc}/{name}"
        temporary = f"{path}.millpond"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("".join(f"{line}\n" for line in after))
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileNotFoundError):
            facts = os.stat(path)
            os.chown(temporary, facts.st_uid, facts.st_gid)
            shutil.copystat(path, temporary)
        os.replace(temporary, path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(f"{self._etc}/{_LOCK}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
