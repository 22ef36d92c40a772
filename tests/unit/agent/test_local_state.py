"""The journal of a node: what was flushed is there again, whatever the end of the file looks like."""

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.agent.local_state import FileJournal
from millpond.agent.records import Accepted, Acknowledged, Begun, Launched, Proceeded, Record, Reported, RestartAsked
from millpond.domain.states import ErrorCategory
from millpond.domain.task import FailureInfo, NameValue
from millpond.protocol.messages import Coordinated, Ended, Start, Started, Stopped

START = Start(
    7, 1 << 33, 2, job_id="j", task_id="t", slots=3, spec=b'{"x": 1}', common_environment=(("A", "b"), ("C", ""))
)
FAILURE = FailureInfo(ErrorCategory.USER_ERROR, "BlobNotFound", "gone", (NameValue("url", "http://x"),))
RECORDS: list[Record] = [
    Begun(boot_time=12.5),
    Accepted(START),
    Launched(key=1 << 33, attempt=2),
    Proceeded(key=1 << 33, attempt=2),
    RestartAsked(wipe=True),
    Begun(boot_time=12.5, next_seq=3, disk_time=11.5),
    Reported(Started(1, 1 << 33, 2, 13.25)),
    Reported(Coordinated(1, 1 << 33, 2)),
    Reported(Stopped(1, 1 << 33, 2), slots=0),
    Reported(Ended(2, 1 << 33, 2, 13.25, 14.5, None, FAILURE, True), slots=3),
    Acknowledged(seq=1),
]


def journal(path: Path, records: list[Record]) -> FileJournal:
    opened = FileJournal(str(path))
    opened.load()
    for record in records:
        opened.append(record)
    opened.flush()
    return opened


def load(path: Path) -> list[Record]:
    opened = FileJournal(str(path))
    records = opened.load()
    opened.close()
    return records


def test_what_was_flushed_is_there_again_without_a_close(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = journal(path, RECORDS)
    first.append(Acknowledged(seq=2))
    assert load(path) == RECORDS
    first.close()
    assert load(path) == [*RECORDS, Acknowledged(seq=2)]


@given(cut=st.integers(0, 400), junk=st.binary(max_size=40))
def test_a_torn_tail_is_dropped_and_written_over(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn") / "journal"
    journal(path, RECORDS).close()
    whole = path.read_bytes()
    cut = min(cut, len(whole))
    path.write_bytes(whole[: len(whole) - cut] + junk)
    opened = FileJournal(str(path))
    kept = opened.load()
    assert kept == RECORDS[: len(kept)]
    if not cut:
        assert kept == RECORDS
    opened.append(Acknowledged(seq=99))
    opened.close()
    assert load(path) == [*kept, Acknowledged(seq=99)]


def test_a_flipped_byte_hides_it_and_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal(path, RECORDS).close()
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0x10
    path.write_bytes(whole)
    kept = load(path)
    assert kept == RECORDS[: len(kept)]
    assert len(kept) < len(RECORDS)


def test_a_rewrite_takes_the_place_of_all_before(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    opened = journal(path, RECORDS)
    opened.append(Acknowledged(seq=2))
    opened.rewrite(RECORDS[:2])
    opened.append(Acknowledged(seq=3))
    opened.close()
    assert load(path) == [*RECORDS[:2], Acknowledged(seq=3)]
    assert os.listdir(tmp_path) == ["journal"]


def test_it_wants_a_rewrite_when_it_is_long_and_mostly_past(tmp_path: Path) -> None:
    opened = journal(tmp_path / "journal", [])
    big = Accepted(Start(1, 1, 1, job_id="j", task_id="t", slots=1, spec=b"x" * 300_000))
    for _ in range(4):
        assert not opened.wants_rewrite
        opened.append(big)
        opened.flush()
    assert opened.wants_rewrite
    opened.rewrite([big] * 4)
    assert not opened.wants_rewrite
    opened.close()


def test_a_write_that_fails_half_way_leaves_whole_records_and_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    opened = journal(path, RECORDS)
    size = path.stat().st_size
    big = Accepted(Start(1, 1, 1, job_id="j", task_id="t", slots=1, spec=b"x" * 10_000))
    opened.append(big)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            opened.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load(path) == RECORDS
    opened.flush()
    opened.close()
    assert load(path) == [*RECORDS, big]
