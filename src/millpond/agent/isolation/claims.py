"""Which node of this machine has which user ids.

Every node has a block of ids to itself, claimed in one file for the whole machine: other nodes, other services and other
data directories claim from the same. A claim ends with the directory it was made for. Blocks are handed out in turn, so
that one that was given back comes last: what its users left in `/tmp` belongs to nobody for as long as can be.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from millpond.agent.replacement import replace_file

DEFAULT_DIRECTORY: Final = "/var/lib/millpond-users"
_FILE: Final = "claims.json"
_LOCK: Final = "lock"
_MIN_BLOCK: Final = 512
_MAX_BLOCK: Final = 65536
_BLOCKS: Final = 1024
"""So many blocks a range is to have, as far as that leaves them a good size."""


class UidRange(msgspec.Struct, frozen=True):
    """User ids from `first` to `last`; group ids are the same numbers."""

    first: int
    last: int

    @property
    def block_size(self) -> int:
        """How many a node gets."""
        return min(_MAX_BLOCK, max(_MIN_BLOCK, (self.last - self.first + 1) // _BLOCKS))

    @property
    def blocks(self) -> int:
        """How many nodes can have one."""
        return (self.last - self.first + 1) // self.block_size

    def __contains__(self, uid: int) -> bool:
        return self.first <= uid <= self.last


class Block(msgspec.Struct, frozen=True):
    """The ids `first` … `first + size - 1`; `number` tells it from other blocks in names."""

    number: int
    first: int
    size: int

    @property
    def last(self) -> int:
        return self.first + self.size - 1

    def __contains__(self, uid: int) -> bool:
        return self.first <= uid <= self.last


class Claim(msgspec.Struct, frozen=True):
    block: Block
    owner: str
    """The directory it was made for."""
    inode: int
    """Of that directory: another one of the same name is another owner."""


class _File(msgspec.Struct):
    claims: list[Claim] = []
    next: int = 0
    """Where to look for a free block first, counted in blocks."""


class NoUidsLeft(Exception):
    """Every block of the range is claimed."""


class UidClaims:
    """The claims file of a machine."""

    def __init__(self, uid_range: UidRange, directory: str = DEFAULT_DIRECTORY) -> None:
        self._range = uid_range
        self._directory = directory

    def claim(
        self, owner: str, earlier: Block | None = None, clear_up: Callable[[Block], None] = lambda _: None
    ) -> Block:
        """The block of that directory: the one it has, or a new one.

        `clear_up` is called for each block that is found abandoned, while nobody can claim it: a node that had it next
        would lose what is cleared up after it. `earlier` is the block its files say it had, should the claims not know (a new container over old data): it is
        taken again if nobody else has it. Raises OSError, NoUidsLeft.
        """
        inode = os.stat(owner).st_ino
        with self._locked() as file:
            for claim in [claim for claim in file.claims if not _exists(claim)]:
                if claim.owner != owner or claim.block != earlier:
                    clear_up(claim.block)
                file.claims.remove(claim)
            for claim in file.claims:
                if claim.owner == owner and claim.inode == inode:
                    return claim.block
            block = earlier if earlier is not None and self._is_free(earlier, file) else self._next(file)
            file.claims.append(Claim(block, owner, inode))
            return block

    def release(self, owner: str) -> None:
        """That directory's node is gone. Raises OSError."""
        with self._locked() as file:
            file.claims = [claim for claim in file.claims if claim.owner != owner]

    def _is_free(self, block: Block, file: _File) -> bool:
        return all(block.last < claim.block.first or claim.block.last < block.first for claim in file.claims)

    def _next(self, file: _File) -> Block:
        size, count, first = self._range.block_size, self._range.blocks, self._range.first
        # Claims need not be blocks of this range: it may have been another when they were made.
        taken = {
            number
            for claim in file.claims
            for number in range(max(0, (claim.block.first - first) // size), (claim.block.last - first) // size + 1)
        }
        for step in range(count):
            number = (file.next + step) % count
            if number not in taken:
                file.next = number + 1
                return Block(number, first + number * size, size)
        raise NoUidsLeft(
            f"all {count} blocks of user ids from {self._range.first} to {self._range.last} are in use: "
            "give nodes.uid_range more, or remove nodes"
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[_File]:
        os.makedirs(self._directory, mode=0o755, exist_ok=True)
        lock = os.open(f"{self._directory}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        path = f"{self._directory}/{_FILE}"
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                with open(path, "rb") as text:
                    before = text.read()
                file = msgspec.json.decode(before, type=_File)
            except (FileNotFoundError, msgspec.DecodeError):
                before, file = b"", _File()
            yield file
            after = msgspec.json.encode(file)
            if after != before:
                replace_file(path, after, durable=True)
        finally:
            os.close(lock)


def _exists(claim: Claim) -> bool:
    try:
        return os.stat(claim.owner).st_ino == claim.inode
    except OSError:
        return False
