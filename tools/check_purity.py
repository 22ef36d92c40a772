"""Check that the pure rooms stay pure, by reading their syntax trees.

`domain`, `scheduler`, `autoscale` and `odata` import no clock, no random, no I/O and no event loop, by whatever
spelling, and nothing inside a function. Files past 600 lines are reported as well, for all of `src`; they are no error.

    python tools/check_purity.py [DIRECTORY]     default: src/millpond beside this file
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PURE_ROOMS: Final = ("domain", "scheduler", "autoscale", "odata")
IMPURE: Final = frozenset({"asyncio", "time", "random", "uuid", "os", "socket", "importlib"})
"""`importlib` is here because it is a way around the rest."""
LONG: Final = 600


def violations(package: Path) -> Iterator[str]:
    """One line for each rule broken below the package directory."""
    for room in PURE_ROOMS:
        for path in sorted((package / room).rglob("*.py")):
            yield from _violations_in(path)


def long_files(package: Path) -> Iterator[str]:
    for path in sorted(package.rglob("*.py")):
        count = len(path.read_bytes().splitlines())
        if count > LONG:
            yield f"{path}: {count} lines: split it along a noun?"


def _violations_in(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        for module in _imported(node):
            if module.partition(".")[0] in IMPURE:
                yield f"{path}:{_line(node)}: a pure room imports {module}"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for inner in ast.walk(node):
                if isinstance(inner, (ast.Import, ast.ImportFrom)):
                    yield f"{path}:{inner.lineno}: an import inside a function"


def _imported(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str(module), level=0):
            yield module
        case ast.Name(id="__import__"):
            yield "importlib.__import__"


def _line(node: ast.AST) -> int:
    return node.lineno if isinstance(node, (ast.expr, ast.stmt)) else 0


def main(arguments: list[str]) -> int:
    package = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent / "src" / "millpond"
    if not (package / PURE_ROOMS[0]).is_dir():
        print(f"{package}: there is no {PURE_ROOMS[0]}/ in it", file=sys.stderr)
        return 2
    broken = list(dict.fromkeys(violations(package)))
    for line in long_files(package):
        print(line)
    for line in broken:
        print(line, file=sys.stderr)
    print(f"purity: {len(broken)} broken" if broken else "purity: kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
