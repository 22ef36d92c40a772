"""What a content cache holds, and what has to go: bookkeeping without a disk."""

from collections import OrderedDict
from typing import Final, TypeAlias

Place: TypeAlias = tuple[str, str]
"""(pool, content key)"""

_BLOCK: Final = 4096
"""What a file takes is counted in whole blocks, and one more for its name."""
MAX_ENTRIES: Final = 100_000
"""However small they are: an entry takes memory too."""


class Entry:
    """One version of one content. `etag` is the server's; `name` the file's. Changed by the index only."""

    __slots__ = ("etag", "gone", "name", "pins", "place", "size", "touched_at")

    def __init__(self, place: Place, etag: str, size: int, name: str) -> None:
        self.place = place
        self.etag = etag
        self.size = size
        self.name = name
        self.pins = 0
        """Copies being made of it."""
        self.gone = False
        """It is to be found no more, and its file goes when the last copy is made."""
        self.touched_at = 0.0
        """When the file was last marked as used (the owner's)."""

    @property
    def cost(self) -> int:
        return cost_of(self.size)


def cost_of(size: int) -> int:
    """What a file of that many bytes counts as."""
    return (size + _BLOCK - 1) // _BLOCK * _BLOCK + _BLOCK


class ContentIndex:
    """Entries by place, in order of their last use. Never holds more than `limit` bytes, nor so many entries that they
    would matter."""

    def __init__(self, limit: int, max_entries: int = MAX_ENTRIES) -> None:
        self.limit = limit
        self.used = 0
        """Bytes, of what is gone but still being copied too."""
        self._max_entries = max_entries
        self._entries: OrderedDict[Place, Entry] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, place: Place) -> Entry | None:
        """What is known under that name."""
        return self._entries.get(place)

    def use(self, entry: Entry) -> None:
        """Pin it for a copy: the youngest now. `release` it."""
        entry.pins += 1
        if not entry.gone:
            self._entries.move_to_end(entry.place)

    def release(self, entry: Entry) -> bool:
        """The copy is made, or will not be. Whether the entry's file must go now."""
        entry.pins -= 1
        return entry.gone and entry.pins == 0 and self._forget(entry)

    def make_room(self, size: int) -> list[Entry] | None:
        """Give up the longest unused until a file of that size fits: those whose files must go. None when it cannot fit;
        then all is as it was."""
        cost = cost_of(size)
        going: list[Entry] = []
        used, count = self.used, self._count
        for entry in self._entries.values():
            if used + cost <= self.limit and count < self._max_entries:
                break
            if not entry.pins:
                going.append(entry)
                used -= entry.cost
                count -= 1
        if used + cost > self.limit or count >= self._max_entries:
            return None
        return [entry for entry in going if self.remove(entry)]

    def add(self, entry: Entry) -> Entry | None:
        """Take in what `make_room` made room for: the youngest now. The entry it replaces, if its file must go now."""
        before = self._entries.get(entry.place)
        replaced = before if before is not None and self.remove(before) else None
        self._entries[entry.place] = entry
        self.used += entry.cost
        self._count += 1
        return replaced

    def remove(self, entry: Entry) -> bool:
        """It is to be found no more. Whether its file must go now: else it goes with the last copy made of it."""
        if entry.gone:
            return False
        entry.gone = True
        del self._entries[entry.place]
        return entry.pins == 0 and self._forget(entry)

    def remove_unused(self) -> list[Entry]:
        """Give up all that is not being copied: those whose files must go."""
        return [entry for entry in list(self._entries.values()) if not entry.pins and self.remove(entry)]

    def remove_pool(self, pool: str) -> list[Entry]:
        """Give up all of a pool: those whose files must go now."""
        return [entry for entry in list(self._entries.values()) if entry.place[0] == pool and self.remove(entry)]

    def _forget(self, entry: Entry) -> bool:
        self.used -= entry.cost
        self._count -= 1
        return True
