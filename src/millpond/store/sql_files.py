"""Named SQL: `queries/*.sql` and `migrations/*.sql`, read once."""

import re
from importlib import resources
from typing import Final

_NAME: Final = re.compile(r"-- name: (\w+)\n")
_COMMENT: Final = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_FRAGMENT: Final = re.compile(r"/\*(\w+)\*/")


def load_queries() -> dict[str, str]:
    """Every query by name. `/*name*/` stands for the fragment of that name; other marks are left to the caller."""
    queries: dict[str, str] = {}
    for file in sorted((resources.files(__package__) / "queries").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".sql"):
            _, *parts = _NAME.split(file.read_text(encoding="utf-8"))
            for name, text in zip(parts[::2], parts[1::2], strict=True):
                if name in queries:
                    raise ValueError(f"two queries are called {name}")
                queries[name] = _COMMENT.sub("", text).strip()
    return {name: _FRAGMENT.sub(lambda mark: queries.get(mark[1], mark[0]), text) for name, text in queries.items()}


def load_migrations() -> list[tuple[int, str]]:
    """(version, script) in order; versions count up from 1 without gaps."""
    files = sorted((resources.files(__package__) / "migrations").iterdir(), key=lambda one: one.name)
    migrations = [
        (int(file.name.partition("_")[0]), file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".sql")
    ]
    if [version for version, _ in migrations] != list(range(1, len(migrations) + 1)):
        raise ValueError("the migrations are not numbered 1, 2, 3 …")
    return migrations
