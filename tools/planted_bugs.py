"""Plant bugs into copies of the sources, one at a time, and see how many seeds the simulation needs to notice each.

    python tools/planted_bugs.py [NAME ...] [--seeds N] [--first N] [--minutes M] [--jobs N]

Prints a table: mutation → seeds needed, and what gave it away. Exits 1 when one is not caught, 2 when the text a
mutation replaces is no longer in the sources (then the mutation is to be written anew). The sources themselves are never
touched: `tools/planted_bugs.toml` lists what is replaced in a copy that is thrown away.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = ROOT / "src"
LIST: Final = Path(__file__).with_suffix(".toml")
TIMEOUT_S: Final = 900.0

_CHILD: Final = """
import json, sys
from millpond.sim.run import first_failure
first, seeds, minutes = json.loads(sys.argv[1])
result = first_failure(first, seeds, minutes)
print(json.dumps(None if result is None else [result.seed, result.violation, result.story]))
"""


class Edit(NamedTuple):
    file: str
    """Below `src/millpond`."""
    old: str
    new: str


class Mutation(NamedTuple):
    name: str
    story: str
    edits: tuple[Edit, ...]
    says: str
    """A pattern that the violation matches: it must tell what is wrong."""
    quick: bool
    """Few seeds show it: `make test` plants it too."""


class NotFound(Exception):
    """The text a mutation replaces is not in the sources, or not just once."""


class Verdict(NamedTuple):
    mutation: Mutation
    seeds: int
    """Seeds needed; 0 when none of them noticed."""
    violation: str
    story: str
    problem: str = ""
    """Why this is no success."""


def mutations() -> list[Mutation]:
    """The list, in its order."""
    with LIST.open("rb") as file:
        entries = tomllib.load(file)
    return [
        Mutation(
            name=name,
            story=entry["story"],
            edits=tuple(Edit(edit["file"], edit["old"], edit["new"]) for edit in entry["edits"]),
            says=entry["says"],
            quick=entry.get("quick", False),
        )
        for name, entry in entries.items()
    ]


def changed_files(mutation: Mutation) -> dict[str, str]:
    """The files of the mutation as it makes them. Raises NotFound."""
    texts: dict[str, str] = {}
    for edit in mutation.edits:
        path = SOURCE / "millpond" / edit.file
        text = texts.get(edit.file) or (path.read_text(encoding="utf-8") if path.exists() else "")
        if text.count(edit.old) != 1:
            raise NotFound(f"{mutation.name}: found {text.count(edit.old)} times in {edit.file}: {edit.old!r}")
        texts[edit.file] = text.replace(edit.old, edit.new)
    return texts


def hunt(mutation: Mutation, first: int, seeds: int, minutes: float) -> Verdict:
    """Plant the bug into a copy and simulate until it shows. Raises NotFound."""
    files = changed_files(mutation)
    with tempfile.TemporaryDirectory(prefix="planted-") as directory:
        package = Path(directory) / "millpond"
        shutil.copytree(SOURCE / "millpond", package, ignore=shutil.ignore_patterns("__pycache__"))
        for name, text in files.items():
            compile(text, name, "exec")
            (package / name).write_text(text, encoding="utf-8")
        try:
            child = subprocess.run(
                [sys.executable, "-c", _CHILD, json.dumps([first, seeds, minutes])],
                env={**os.environ, "PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Verdict(mutation, 0, "", "", f"no end after {TIMEOUT_S:.0f} s")
    if child.returncode != 0:
        return Verdict(mutation, 0, "", "", f"the simulation itself failed: {child.stderr.strip()[-400:]}")
    answer: Any = json.loads(child.stdout)
    if answer is None:
        return Verdict(mutation, 0, "", "", f"{seeds} seeds, and nobody noticed")
    seed, violation, story = answer
    problem = "" if re.search(mutation.says, violation) else f"the violation does not match {mutation.says!r}"
    return Verdict(mutation, seed - first + 1, violation, story, problem)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="See how many seeds the simulation needs to notice planted bugs.")
    parser.add_argument("names", nargs="*", help="only these mutations (default: all)")
    parser.add_argument("--seeds", type=int, default=500, help="seeds to try at most (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the first of them (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="virtual minutes of each run (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="mutations at a time (default: %(default)s)")
    options = parser.parse_args(arguments)
    known = mutations()
    unknown = set(options.names) - {mutation.name for mutation in known}
    if unknown:
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    chosen = [mutation for mutation in known if not options.names or mutation.name in options.names]
    try:
        for mutation in chosen:
            changed_files(mutation)
    except NotFound as error:
        print(error, file=sys.stderr)
        return 2
    width = max(len(mutation.name) for mutation in chosen)
    print(f"{'mutation':<{width}}  seeds  what gave it away")
    failed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        verdicts = pool.map(lambda one: hunt(one, options.first, options.seeds, options.minutes), chosen)
        for verdict in verdicts:
            failed += bool(verdict.problem)
            seeds = str(verdict.seeds) if verdict.seeds else "-"
            text = verdict.violation.splitlines()[0][:150] if verdict.violation else ""
            trouble = f"FAILED: {verdict.problem}: " if verdict.problem else ""
            print(f"{verdict.mutation.name:<{width}}  {seeds:>5}  {trouble}{text}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} caught")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
