"""Loads from files: CSV tables, and traces in the Standard Workload Format.

CSV: a header line, then a task a line. Columns, in any order and any case:

    arrival    seconds from the beginning, or times (2026-01-05T08:00:00Z): the first of them is the beginning then
    duration   seconds the task runs
    slots      (optional) slots it needs, 1 unless given
    count      (optional) how many such tasks arrive then, 1 unless given

Lines that begin with # are comments. The Standard Workload Format (Feitelson and others, version 2) is a job a line in
18 columns, -1 where a value is not known; of these count the submit time (2), the run time (4) and the processors (5,
or those asked for, 8, where that is not known). Jobs of unknown run time or without processors never ran: they are left
out and counted.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from millpond.domain.durations import parse_timestamp
from millpond.lab.loads import MAX_TASKS, Arrival, Load, LoadError, make_load, parse_synthetic, problem_of

_COLUMNS: Final = ("arrival", "duration", "slots", "count")
_SWF_FIELDS: Final = 18
_MAX_BYTES: Final = 1 << 30


def load_of(text: str, *, processors_per_slot: int = 1) -> Load:
    """The load that a word names: a file (`*.swf`, else CSV), or one by chance (`poisson:rate=30`). Raises LoadError."""
    path = Path(text)
    if path.suffix.lower() in (".csv", ".swf", ".txt") or path.is_file():
        return read_trace(path, processors_per_slot=processors_per_slot)
    return parse_synthetic(text)


def read_trace(path: Path, *, processors_per_slot: int = 1) -> Load:
    """A trace by the ending of its name. Raises LoadError, with the line where there is one to blame."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise LoadError(f"{path}: more than 1 GiB is no load for this machine")
        text = path.read_text(encoding="utf-8-sig", errors="strict")
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise LoadError(f"{path}: this is not text in UTF-8 (byte {error.start}); is it compressed?") from error
    if path.suffix.lower() == ".swf":
        return parse_swf(text, str(path), processors_per_slot=processors_per_slot)
    return parse_csv(text, str(path))


# --- CSV ------------------------------------------------------------------------------------------------------------


def parse_csv(text: str, name: str = "csv") -> Load:
    """See the module. Raises LoadError with the line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    arrivals: list[Arrival] = []
    columns: dict[str, int] | None = None
    timestamps: bool | None = None
    try:
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if not row or row[0].lstrip().startswith("#") or not any(cell.strip() for cell in row):
                continue
            if columns is None:
                columns = _columns(row, where)
                continue
            if len(row) != len(columns):
                raise LoadError(f"{where}: {len(row)} columns, and the header has {len(columns)}")
            cells = {column: row[index].strip() for column, index in columns.items()}
            at, is_timestamp = _time(cells["arrival"], where)
            if timestamps is None:
                timestamps = is_timestamp
            elif timestamps is not is_timestamp:
                raise LoadError(f"{where}: arrivals are all in seconds, or all times: {cells['arrival']!r}")
            one = Arrival(at, _number(cells, "duration", where), _whole(cells, "slots", where))
            problem = problem_of(one)
            if problem is not None:
                raise LoadError(f"{where}: {problem}")
            count = _whole(cells, "count", where)
            if not 0 <= count <= MAX_TASKS - len(arrivals):
                raise LoadError(f"{where}: count is {count}: 0 or more, and {MAX_TASKS:,} tasks in all at most")
            arrivals.extend([one] * count)
    except csv.Error as error:
        raise LoadError(f"{name}, line {reader.line_num}: {error}") from error
    if columns is None:
        raise LoadError(f"{name}: there is no header line; the first line is arrival,duration or more")
    if timestamps and arrivals:
        begin = min(one.at for one in arrivals)
        arrivals = [Arrival(round(one.at - begin, 6), one.duration_s, one.slots) for one in arrivals]
    return make_load(name, arrivals)


def to_csv(arrivals: Iterable[Arrival]) -> str:
    """As `parse_csv` reads it."""
    lines = ["arrival,duration,slots"]
    lines.extend(f"{one.at:.6g},{one.duration_s:.6g},{one.slots}" for one in arrivals)
    return "\n".join(lines) + "\n"


def _columns(row: list[str], where: str) -> dict[str, int]:
    columns: dict[str, int] = {}
    for index, cell in enumerate(row):
        name = cell.strip().lower()
        if name in columns or name not in _COLUMNS:
            why = "is there twice" if name in columns else "is no column"
            raise LoadError(f"{where}: {cell.strip()!r} {why}: there are {', '.join(_COLUMNS)}")
        columns[name] = index
    for name in ("arrival", "duration"):
        if name not in columns:
            raise LoadError(f"{where}: the header names no column {name!r}")
    return columns


def _time(text: str, where: str) -> tuple[float, bool]:
    try:
        return float(text), False
    except ValueError:
        pass
    try:
        return parse_timestamp(text), True
    except ValueError:
        raise LoadError(
            f"{where}: arrival {text!r} is neither a number of seconds nor a time such as 2026-01-05T08:00:00Z"
        ) from None


def _number(cells: dict[str, str], column: str, where: str) -> float:
    try:
        value = float(cells[column])
    except ValueError:
        raise LoadError(f"{where}: {column} {cells[column]!r} is no number") from None
    if not math.isfinite(value):
        raise LoadError(f"{where}: {column} {cells[column]!r} is not finite")
    return value


def _whole(cells: dict[str, str], column: str, where: str) -> int:
    text = cells.get(column, "")
    if not text:
        return 1
    try:
        return int(text)
    except ValueError:
        raise LoadError(f"{where}: {column} {text!r} is no whole number") from None


# --- Standard Workload Format ---------------------------------------------------------------------------------------


def parse_swf(text: str, name: str = "swf", *, processors_per_slot: int = 1) -> Load:
    """See the module; `processors_per_slot` processors are one slot, and a part of a slot is one. Raises LoadError."""
    if processors_per_slot < 1:
        raise LoadError(f"{processors_per_slot} processors are no slot: 1 or more")
    arrivals: list[Arrival] = []
    left_out = 0
    for where, fields in _swf_lines(text, name):
        submitted, run_time = fields[1], fields[3]
        processors = fields[4] if fields[4] > 0 else fields[7]
        if run_time < 0 or processors <= 0:
            left_out += 1
            continue
        slots = math.ceil(processors / processors_per_slot)
        one = Arrival(submitted, run_time, slots)
        problem = problem_of(one)
        if problem is not None:
            raise LoadError(f"{where}: {problem}")
        if len(arrivals) == MAX_TASKS:
            raise LoadError(f"{where}: more than {MAX_TASKS:,} jobs")
        arrivals.append(one)
    if not arrivals:
        raise LoadError(f"{name}: there is no job in it that ran ({left_out} lines of jobs that did not)")
    begin = min(one.at for one in arrivals)
    note = f" ({left_out} jobs that never ran left out)" if left_out else ""
    return make_load(f"{name}{note}", [Arrival(one.at - begin, one.duration_s, one.slots) for one in arrivals])


def _swf_lines(text: str, name: str) -> Iterator[tuple[str, list[float]]]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(";"):
            continue
        where = f"{name}, line {number}"
        if len(words) != _SWF_FIELDS:
            raise LoadError(
                f"{where}: {len(words)} columns; the Standard Workload Format has {_SWF_FIELDS}, and comments begin with ;"
            )
        fields: list[float] = []
        for column, word in enumerate(words, 1):
            try:
                value = float(word)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise LoadError(f"{where}: column {column} {word!r} is no number")
            fields.append(value)
        yield where, fields
