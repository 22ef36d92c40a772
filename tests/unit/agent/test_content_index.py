"""The bookkeeping of the content cache, under random use."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from millpond.agent.content_index import ContentIndex, Entry, cost_of

LIMIT = 100_000
PLACES = [(pool, key) for pool in ("p", "q") for key in ("a", "b", "c", "d", "e", "f")]


class Use(RuleBasedStateMachine):
    """The files on a model's disk are what the index says must not go yet."""

    def __init__(self) -> None:
        super().__init__()
        self.index = ContentIndex(LIMIT, max_entries=8)
        self.files: dict[str, int] = {}
        self.order: list[str] = []
        """Names, longest unused first."""
        self.held: list[Entry] = []
        self.count = 0

    def delete(self, entries: list[Entry]) -> None:
        for entry in entries:
            assert not entry.pins
            del self.files[entry.name]
            self.order.remove(entry.name)

    @rule(place=st.sampled_from(PLACES), size=st.integers(0, 60_000), etag=st.sampled_from("xyz"))
    def take_in(self, place: tuple[str, str], size: int, etag: str) -> None:
        before = dict(self.files)
        unpinned = [name for name in self.order if name not in {entry.name for entry in self.held}]
        going = self.index.make_room(size)
        if going is None:
            assert self.files == before
            pinned = sum(cost_of(before[name]) for name in before if name not in unpinned)
            assert pinned + cost_of(size) > LIMIT or len(before) - len(unpinned) >= 8
            return
        # The longest unused go, and no more of them than have to.
        assert [entry.name for entry in going] == unpinned[: len(going)]
        self.delete(going)
        self.count += 1
        entry = Entry(place, etag, size, str(self.count))
        self.files[entry.name] = size
        self.order.append(entry.name)
        replaced = self.index.add(entry)
        if replaced is not None:
            assert replaced.place == place
            self.delete([replaced])
        assert self.index.get(place) is entry

    @rule(place=st.sampled_from(PLACES))
    def begin_to_copy(self, place: tuple[str, str]) -> None:
        entry = self.index.get(place)
        if entry is not None:
            assert entry.name in self.files
            self.index.use(entry)
            self.held.append(entry)
            self.order.remove(entry.name)
            self.order.append(entry.name)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end_a_copy(self, data: st.DataObject) -> None:
        entry = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if self.index.release(entry):
            self.delete([entry])

    @rule(place=st.sampled_from(PLACES))
    def give_up(self, place: tuple[str, str]) -> None:
        entry = self.index.get(place)
        if entry is not None and self.index.remove(entry):
            self.delete([entry])
        assert self.index.get(place) is None

    @rule()
    def free(self) -> None:
        self.delete(self.index.remove_unused())
        assert set(self.files) == {entry.name for entry in self.held}

    @rule(pool=st.sampled_from("pq"))
    def drop(self, pool: str) -> None:
        self.delete(self.index.remove_pool(pool))
        assert all(self.index.get(place) is None for place in PLACES if place[0] == pool)

    @invariant()
    def never_over_the_bound(self) -> None:
        assert self.index.used == sum(cost_of(size) for size in self.files.values()) <= LIMIT
        assert len(self.files) <= 8

    @invariant()
    def what_is_copied_is_there(self) -> None:
        assert {entry.name for entry in self.held} <= set(self.files)


TestUse = Use.TestCase
TestUse.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
