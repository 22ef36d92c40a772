"""The data directory: everything a service keeps, and the files by which other commands find it.

    lock              held (flock) by the one service that uses the directory; its process id is in it
    keys.json         the account's two keys, mode 0600
    account.json      what was set of the account by the management plane
    node-secret.json  what the nodes' own tokens are made of, mode 0600
    endpoint.json     where the service listens, or last listened
    storage.json      where the account's auto-storage is, with its key, mode 0600
    azurite-key.json  the key of the Azurite beside the service, mode 0600
    millpond.db       the store
    nodes/            the local nodes
    storage/          the account's auto-storage, where it is a directory
    azurite/          the blobs, the log and the process id of the Azurite beside the service
    sign-in-key.pem   what the development issuer signs with, mode 0600
    tls/              the service's own certificates (see `tls`)
    accounts/NAME/    each further account: a directory like this one, without tls/ and sign-in-key.pem
    groups.json       the resource groups that were made by the management plane

The kernel lets go of the lock when the process dies, however it dies.
"""

import base64
import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

_LOCK: Final = "lock"
_KEYS: Final = "keys.json"
_ACCOUNT: Final = "account.json"
_GROUPS: Final = "groups.json"
_NODE_FILE: Final = "node-secret.json"
_ENDPOINT: Final = "endpoint.json"
_STORAGE: Final = "storage.json"
_AZURITE_KEY: Final = "azurite-key.json"
_SIGN_IN_KEY: Final = "sign-in-key.pem"
_KEY_BYTES: Final = 64
_NODE_SECRET_BYTES: Final = 32


class DataDirError(Exception):
    """The data directory cannot be used. The text is one line that says why and what to do."""


class AccountKeyPair(NamedTuple):
    """The account's two keys, base64 of 64 bytes each. Either one opens everything."""

    primary: str
    secondary: str


class Endpoint(NamedTuple):
    """Where a service listens: what `millpond env` tells a client."""

    url: str
    account: str
    pid: int
    authority: str = ""
    """With https: path of the certificate to trust, where the machine does not trust the service's already."""
    bundle: str = ""
    """That and what the machine trusts, in one file."""
    development_issuer: bool = False
    """Whether it issues tokens."""
    account_path: str = ""
    """Below the URL, where the account is not the service's first: `/accounts/NAME`."""

    @property
    def account_url(self) -> str:
        """What the account's clients are given."""
        return self.url + self.account_path


class StorageFacts(NamedTuple):
    """Where the account's auto-storage is."""

    kind: str = "directory"
    """`directory`, `azurite` or `account` (of Azure Blob storage)"""
    url: str = ""
    """Of the account's blobs; empty for a directory."""
    connection_string: str = ""
    """With the key. Empty for a directory, whose URLs are signed with the Batch account's key."""


class DataDir:
    """A data directory. `open` takes it for a service; reading the keys and the endpoint needs no lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd = -1

    @property
    def store_path(self) -> Path:
        return self.path / "millpond.db"

    @property
    def nodes_path(self) -> Path:
        return self.path / "nodes"

    @property
    def storage_path(self) -> Path:
        return self.path / "storage"

    @property
    def azurite_path(self) -> Path:
        return self.path / "azurite"

    @property
    def tls_path(self) -> Path:
        return self.path / "tls"

    @property
    def keys_path(self) -> Path:
        return self.path / _KEYS

    @property
    def accounts_path(self) -> Path:
        return self.path / "accounts"

    def account(self, name: str) -> "DataDir":
        """The directory of a further account."""
        return DataDir(self.accounts_path / name)

    def account_names(self) -> list[str]:
        """The further accounts there are. One whose making was not finished is none. Raises DataDirError."""
        try:
            return sorted(path.parent.name for path in self.accounts_path.glob(f"*/{_ACCOUNT}"))
        except OSError as error:
            raise DataDirError(f"{self.accounts_path} cannot be read: {_reason(error)}; make it readable") from error

    def open(self) -> Self:
        """Make the directory (mode 0700) if needed and take its lock.

        Raises DataDirError when another service has it, or when it cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise DataDirError(f"{self.path} is not a directory; name another with --data-dir") from error
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._take_lock()
        except BaseException:
            self.close()
            raise
        return self

    def let_pass(self) -> None:
        """Let other users through to the nodes, where their own files are, and to nothing else. For root's directory.

        Raises DataDirError.
        """
        # What the service makes from now on is its own.
        os.umask(0o077)
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
            self.storage_path.mkdir(mode=0o700, exist_ok=True)
            if self.accounts_path.is_dir():
                self.accounts_path.chmod(0o711)
            for entry in os.scandir(self.path):
                facts = entry.stat(follow_symlinks=False)
                passable = entry.name in (self.nodes_path.name, self.accounts_path.name)
                if not passable and not entry.is_symlink() and facts.st_mode & 0o077:
                    os.chmod(entry.path, stat.S_IMODE(facts.st_mode) & 0o700)
            if not mode & 0o001:
                self.path.chmod(mode | 0o011)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def account_keys(self, *, create: bool = False) -> AccountKeyPair:
        """The account's keys; with `create` they are made if there are none. Raises DataDirError."""
        try:
            text = self.keys_path.read_text(encoding="ascii")
        except FileNotFoundError:
            if not create:
                raise DataDirError(f"no account key in {self.path}; start a service there with millpond up") from None
            return self._make_keys()
        except (OSError, UnicodeDecodeError) as error:
            raise DataDirError(f"{self.keys_path} cannot be read: {_reason(error)}") from error
        try:
            fields = json.loads(text)
            keys = AccountKeyPair(fields["primary"], fields["secondary"])
            usable = all(base64.b64decode(key, validate=True) for key in keys)
        except (ValueError, TypeError, KeyError):
            usable = False
        if not usable:
            raise DataDirError(f"{self.keys_path} is damaged: put it back from a copy, or remove it to get new keys")
        if create and self.keys_path.stat().st_mode & 0o077:
            self.keys_path.chmod(0o600)
        return keys

    def write_account_keys(self, primary: str, secondary: str) -> None:
        """Put these keys, in base64, in place of the account's. Raises DataDirError."""
        self._write_private(_KEYS, AccountKeyPair(primary, secondary)._asdict())

    def account_settings(self) -> dict[str, Any]:
        """What `write_account_settings` was given last; nothing at first. Raises DataDirError."""
        path = self.path / _ACCOUNT
        try:
            settings = dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise DataDirError(
                f"{path} cannot be read: {_reason(error)}; put it back from a copy, or remove it and lose the account's tags"
            ) from error
        return settings

    def write_account_settings(self, settings: dict[str, Any]) -> None:
        """Raises DataDirError."""
        self._write_private(_ACCOUNT, settings)

    def make_account(self, name: str, settings: dict[str, Any]) -> None:
        """Make the directory of a further account, with its keys. Raises DataDirError, also where there is one."""
        directory = self.account(name)
        if (directory.path / _ACCOUNT).exists():
            raise DataDirError(f"{directory.path} holds an account already; start the service again to have it back")
        # What is left of one that was not made to its end.
        directory.remove()
        try:
            self.accounts_path.mkdir(mode=0o700, exist_ok=True)
            self.accounts_path.chmod(0o700 | (stat.S_IMODE(self.path.stat().st_mode) & 0o011))
            directory.path.mkdir(mode=0o700)
            directory.account_keys(create=True)
            directory.write_account_settings(settings)
            for path in (self.accounts_path, self.path):
                _sync_directory(path)
        except OSError as error:
            raise self._unwritable(error) from error

    def groups(self) -> list[dict[str, Any]]:
        """What `write_groups` was given last; nothing at first. Raises DataDirError."""
        path = self.path / _GROUPS
        try:
            return [dict(group) for group in json.loads(path.read_text(encoding="utf-8"))["groups"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataDirError(
                f"{path} cannot be read: {_reason(error)}; put it back from a copy, or remove it and lose the groups"
            ) from error

    def write_groups(self, groups: list[dict[str, Any]]) -> None:
        """Raises DataDirError."""
        self._write_private(_GROUPS, {"groups": groups})

    def remove(self) -> None:
        """Remove an account's directory with all that is in it; one that is not there is no error. Raises DataDirError."""
        if mounted := self._mounts():
            raise DataDirError(
                f"{mounted[0]} is still mounted; unmount it, so that what it holds is not removed with it"
            )
        try:
            # What makes it an account goes last, so that after a crash this is gone on with.
            for entry in [entry for entry in os.scandir(self.path) if entry.name != _ACCOUNT]:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
            (self.path / _ACCOUNT).unlink(missing_ok=True)
            self.path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unwritable(error) from error

    def _mounts(self) -> list[str]:
        """What is mounted below the directory."""
        try:
            text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return []
        points = [line.split(" ")[4].replace("\\040", " ") for line in text.splitlines()]
        return [point for point in points if point.startswith(f"{os.path.realpath(self.path)}/")]

    def node_secret(self) -> bytes:
        """What the nodes' tokens are derived from; made if there is none. Apart from the account's keys, so that these
        can be replaced without losing the nodes. Raises DataDirError."""
        path = self.path / _NODE_FILE
        try:
            secret = base64.b64decode(json.loads(path.read_text(encoding="ascii"))["secret"], validate=True)
        except FileNotFoundError:
            secret = secrets.token_bytes(_NODE_SECRET_BYTES)
            self._write_private(_NODE_FILE, {"secret": base64.b64encode(secret).decode()})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataDirError(
                f"{path} cannot be read: {_reason(error)}; put it back from a copy, or remove it and lose the nodes"
            ) from error
        return secret

    def sign_in_key(self, make: Callable[[], bytes]) -> bytes:
        """What the development issuer signs with (PEM); made by `make` if there is none. Raises DataDirError."""
        path = self.path / _SIGN_IN_KEY
        try:
            return path.read_bytes()
        except FileNotFoundError:
            key = make()
            self._write_file(_SIGN_IN_KEY, key)
            return key
        except OSError as error:
            raise DataDirError(f"{path} cannot be read: {_reason(error)}; make it readable, or remove it") from error

    def write_endpoint(self, endpoint: Endpoint) -> None:
        """Raises DataDirError."""
        self._write_private(_ENDPOINT, endpoint._asdict())

    def endpoint(self) -> Endpoint:
        """Where the service listens or last listened. Raises DataDirError when none ever ran here."""
        try:
            fields = json.loads((self.path / _ENDPOINT).read_text(encoding="utf-8"))
            return Endpoint(
                str(fields["url"]),
                str(fields["account"]),
                int(fields["pid"]),
                str(fields.get("authority", "")),
                str(fields.get("bundle", "")),
                bool(fields.get("development_issuer", False)),
            )
        except FileNotFoundError:
            raise DataDirError(f"no service has run in {self.path}; start one with millpond up") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataDirError(
                f"{self.path / _ENDPOINT} cannot be read: {_reason(error)}; start the service again"
            ) from error

    def azurite_key(self) -> str:
        """The key of the service's own Azurite, in base64; made if there is none. Raises DataDirError."""
        path = self.path / _AZURITE_KEY
        try:
            key = str(json.loads(path.read_text(encoding="ascii"))["key"])
            base64.b64decode(key, validate=True)
        except FileNotFoundError:
            key = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
            self._write_private(_AZURITE_KEY, {"key": key})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataDirError(f"{path} cannot be read: {_reason(error)}; remove it to get a new key") from error
        return key

    def write_storage(self, facts: StorageFacts) -> None:
        """Raises DataDirError."""
        self._write_private(_STORAGE, facts._asdict())

    def storage(self) -> StorageFacts:
        """Where the auto-storage of the service that runs or last ran here is. Raises DataDirError."""
        try:
            fields = json.loads((self.path / _STORAGE).read_text(encoding="utf-8"))
            return StorageFacts(str(fields["kind"]), str(fields["url"]), str(fields["connection_string"]))
        except FileNotFoundError:
            return StorageFacts()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataDirError(
                f"{self.path / _STORAGE} cannot be read: {_reason(error)}; start the service again"
            ) from error

    def is_in_use(self) -> bool:
        """Whether a service holds the directory now."""
        try:
            fd = os.open(self.path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def _take_lock(self) -> None:
        # `is_in_use` of another process holds the lock for a moment: not every refusal means a service.
        deadline = time.monotonic() + 0.3
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise DataDirError(
                        f"{self.path} cannot be locked ({error.strerror}); name one on a local disk with --data-dir"
                    ) from error
                if time.monotonic() > deadline:
                    holder = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise DataDirError(
                        f"{self.path} is in use by another millpond (process {holder}); "
                        "stop that one, or name another directory with --data-dir"
                    ) from None
                time.sleep(0.02)
        try:
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise self._unwritable(error) from error

    def _make_keys(self) -> AccountKeyPair:
        keys = AccountKeyPair(*(base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode() for _ in range(2)))
        self._write_private(_KEYS, keys._asdict())
        return keys

    def _write_private(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file as `_write_file` does."""
        self._write_file(name, json.dumps(content, indent=2).encode() + b"\n")

    def _write_file(self, name: str, content: bytes) -> None:
        """Write a file of mode 0600 so that a crash leaves the old one or the new one."""
        path, temporary = self.path / name, self.path / f".{name}.new"
        try:
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_directory(self.path)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> DataDirError:
        return DataDirError(
            f"{self.path} cannot be written ({error.strerror}); "
            "make it writable for you, or name another directory with --data-dir"
        )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is damaged"
