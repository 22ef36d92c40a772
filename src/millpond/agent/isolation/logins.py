"""Users who may log in to a node (Azure Batch: node users), by password or SSH key, until they expire.

They have numbers at the end of the node's block (`claims`), so that they own nothing of any other node, and are in the
node's group: they may read what its tasks may. Nobody of them is root (ADR 22).
"""

import base64
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from millpond.agent.isolation.account_files import AccountEntry, AccountFiles
from millpond.agent.isolation.claims import Block
from millpond.agent.replacement import replace_file
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode
from millpond.protocol.messages import PutUser

MOST: Final = 64
"""Of a node at a time."""
STATE_FILE: Final = "logins.json"
HOMES: Final = "home"
_DAY_S: Final = 86_400.0


class Login(msgspec.Struct, frozen=True):
    uid: int
    expires: Timestamp


class Logins:
    """The login users of the node whose directory is `directory`. Methods may be called from any thread."""

    def __init__(
        self, directory: str, block: Block, account_files: AccountFiles, clock: Callable[[], Timestamp]
    ) -> None:
        """Raises OSError when the state cannot be read."""
        self._directory = directory
        self._block = block
        self._files = account_files
        self._clock = clock
        self._lock = threading.Lock()
        self._known = self._read()

    def put(self, order: PutUser) -> None:
        """Raises BatchError (NodeUserExists, NodeUserNotFound, ResourceTypeMismatch …), OSError."""
        with self._lock:
            self._expire()
            known = self._known.get(order.name)
            if order.exists and known is None:
                raise _not_found(order.name)
            if not order.exists and known is not None:
                raise BatchError(ErrorCode.NODE_USER_EXISTS, f"The node user '{order.name}' exists already.")
            if known is None and order.name in self._files.taken_names():
                raise BatchError(
                    ErrorCode.NODE_USER_EXISTS, f"The machine of the node has a user or group '{order.name}' already."
                )
            uid = known.uid if known is not None else self._free_uid()
            home = f"{self._directory}/{HOMES}/{order.name}"
            # In the list first: whatever happens now, it will be taken away again.
            self._known[order.name] = Login(uid, order.expires)
            self._write()
            os.makedirs(os.path.dirname(home), 0o750, exist_ok=True)
            _make_home(home, uid, order.public_key)
            hashed = password_hash(order.password) if order.password else "!"
            # The file knows whole days; the day it ends on is the last it lets one in.
            self._files.put_login(
                AccountEntry(order.name, uid, home), hashed, int(order.expires // _DAY_S) + 1, self._block.first
            )

    def remove(self, name: str) -> None:
        """Raises BatchError NodeUserNotFound, OSError."""
        with self._lock:
            self._expire()
            if name not in self._known:
                raise _not_found(name)
            self._take_away(name)

    def expire(self) -> None:
        """Take away those whose time is over. Raises OSError."""
        with self._lock:
            self._expire()

    def clear(self) -> None:
        """Take all of them away. Raises OSError."""
        with self._lock:
            for name in list(self._known):
                self._take_away(name)

    def _expire(self) -> None:
        now = self._clock()
        for name in [name for name, login in self._known.items() if login.expires <= now]:
            self._take_away(name)

    def _take_away(self, name: str) -> None:
        uid = self._known[name].uid
        self._files.remove(uid, uid)
        _kill_all(uid)
        shutil.rmtree(f"{self._directory}/{HOMES}/{name}", ignore_errors=True)
        del self._known[name]
        self._write()

    def _free_uid(self) -> int:
        taken = {login.uid for login in self._known.values()}
        for uid in range(self._block.last, self._block.last - MOST, -1):
            if uid not in taken:
                return uid
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
            f"The node has {MOST} users already, and has no room for more.",
        )

    # --- the file ---

    def _read(self) -> dict[str, Login]:
        try:
            with open(f"{self._directory}/{STATE_FILE}", "rb") as file:
                known = msgspec.json.decode(file.read(), type=dict[str, Login])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}
        return {name: login for name, login in known.items() if login.uid in self._block}

    def _write(self) -> None:
        replace_file(f"{self._directory}/{STATE_FILE}", msgspec.json.encode(self._known))


def _not_found(name: str) -> BatchError:
    return BatchError(ErrorCode.NODE_USER_NOT_FOUND, f"The node has no user '{name[:64]}'.")


def _make_home(home: str, uid: int, public_key: str) -> None:
    """A home with the one key that opens it. What the user made of it before is not followed: it is put there anew."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(home, 0o700)
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(directory, uid, uid)
        with contextlib.suppress(FileExistsError):
            os.mkdir(".ssh", 0o700, dir_fd=directory)
        ssh = os.open(".ssh", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fchown(ssh, uid, uid)
            for name in ("authorized_keys", "authorized_keys.new"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=ssh)
            if public_key:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open("authorized_keys", flags, 0o600, dir_fd=ssh)
                try:
                    os.write(file, f"{public_key}\n".encode())
                    os.fchown(file, uid, uid)
                finally:
                    os.close(file)
        finally:
            os.close(ssh)
    finally:
        os.close(directory)


def _kill_all(uid: int) -> None:
    """End all processes of a user; what it starts meanwhile too."""
    for _ in range(8):
        found = False
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                    os.kill(int(name), signal.SIGKILL)
                    found = True
        if not found:
            return


# --- passwords ------------------------------------------------------------------------------------------------------

_ROUNDS: Final = 5000
_LETTERS: Final = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def password_hash(password: str, salt: str = "") -> str:
    """The password as /etc/shadow has it: SHA-512 crypt (`$6$`), the scheme every Linux knows. `salt` is for tests."""
    salt = salt or base64.b32encode(secrets.token_bytes(10)).decode()
    key, salted = password.encode(), salt.encode()
    other = hashlib.sha512(key + salted + key).digest()
    first = hashlib.sha512(key + salted + _repeated(other, len(key)))
    length = len(key)
    while length:
        first.update(other if length & 1 else key)
        length >>= 1
    digest = first.digest()
    p = _repeated(hashlib.sha512(key * len(key)).digest(), len(key))
    s = _repeated(hashlib.sha512(salted * (16 + digest[0])).digest(), len(salted))
    for number in range(_ROUNDS):
        text = p if number & 1 else digest
        text += s if number % 3 else b""
        text += p if number % 7 else b""
        digest = hashlib.sha512(text + (digest if number & 1 else p)).digest()
    encoded = ""
    a, b, c = 0, 21, 42
    for _ in range(21):
        encoded += _letters((digest[a] << 16) | (digest[b] << 8) | digest[c], 4)
        a, b, c = b + 1, c + 1, a + 1
    return f"$6${salt}${encoded}{_letters(digest[63], 2)}"


def _repeated(text: bytes, length: int) -> bytes:
    return (text * (length // len(text) + 1))[:length]


def _letters(value: int, count: int) -> str:
    return "".join(_LETTERS[(value >> (6 * place)) & 63] for place in range(count))
