"""File patterns of output files (semantics 5.2): which files they match.

`*` and `?` stay within one name, `**` is any number of directories, `[abc]`, `[a-c]` and `[!abc]` are one character,
and `[*]` escapes. Names that begin with a dot match only patterns whose name begins with one.
"""

import os
import re
from typing import Final

import msgspec

_WILDCARD: Final = re.compile(r"[*?\[]")


class FoundFile(msgspec.Struct, frozen=True):
    path: str
    name: str
    """Relative to the working directory, or to the pattern's own directory when that is elsewhere."""


class Pattern(msgspec.Struct, frozen=True):
    """A pattern, taken apart."""

    base: str
    """The directory up to the first name with a wildcard, absolute."""
    names: tuple[str, ...]
    """The rest: at least one name."""
    within: str
    """What names of files are relative to: the working directory, or `base` when that is elsewhere."""

    @property
    def is_one_file(self) -> bool:
        """It can match no more than the file it names."""
        return not any(_is_wild(name) for name in self.names)


def parse_pattern(pattern: str, working_directory: str) -> Pattern:
    """`pattern` is absolute or relative to the working directory, whose own path is never read as a pattern."""
    own = working_directory.split("/")[1:]
    names = os.path.normpath(os.path.join(working_directory, pattern)).split("/")[1:]
    fixed = 0
    while fixed < len(names) - 1 and (names[fixed : fixed + 1] == own[fixed : fixed + 1] or not _is_wild(names[fixed])):
        fixed += 1
    base = "/" + "/".join(names[:fixed])
    within = working_directory if _is_within(base, working_directory) else base
    return Pattern(base, tuple(names[fixed:]), within)


def find_files(pattern: Pattern, root: str) -> list[FoundFile]:
    """The regular files that match, sorted.

    Links to directories are not followed. A link to a file, or a directory reached through a link, counts only if what
    it leads to lies within `root` (or, for a pattern outside it, within the pattern's own directory).
    """
    base = pattern.base
    boundary = root if _is_within(base, root) else base
    matchers: list[re.Pattern[str] | None] = []
    for name in pattern.names:
        # Any directories, and again any directories, is the same as once.
        if name != "**" or not matchers or matchers[-1] is not None:
            matchers.append(None if name == "**" else compile_name(name))
    if matchers[-1] is None:
        # At the end, any file below.
        matchers.append(compile_name("*"))
    real_boundary = os.path.realpath(boundary)
    return [
        FoundFile(path, os.path.relpath(path, pattern.within))
        for path in sorted(_walk(base, matchers))
        if _is_within(os.path.realpath(path), real_boundary) and os.path.isfile(path)
    ]


def _walk(base: str, matchers: list[re.Pattern[str] | None]) -> set[str]:
    """The paths that match below a directory: however deep a task nested them, as far as a path can name."""
    found: set[str] = set()
    todo = [(base, 0)]
    """(directory, number of the first matcher for the names in it)"""
    seen = set(todo)
    while todo:
        directory, number = todo.pop()
        steps: list[tuple[str, int]] = []
        matcher = matchers[number]
        if matcher is None:
            steps.append((directory, number + 1))
        for entry in _entries(directory):
            if matcher is None:
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    steps.append((entry.path, number))
            elif matcher.match(entry.name):
                if number == len(matchers) - 1:
                    if _is_file(entry):
                        found.add(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    steps.append((entry.path, number + 1))
        for step in steps:
            # With several `**` there are many ways to one place.
            if step not in seen:
                seen.add(step)
                todo.append(step)
    return found


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        # It is not there, or is not ours to read, or its path is too long: nothing in it matches.
        return []


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        # Such as a link to itself.
        return False


def _is_wild(name: str) -> bool:
    return _WILDCARD.search(name) is not None


def compile_name(pattern: str) -> re.Pattern[str]:
    """The expression for one name of a pattern."""
    expression = "" if pattern.startswith((".", "[.]")) else r"(?!\.)"
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            expression += ".*"
            while pattern[position : position + 1] == "*":
                position += 1
        elif character == "?":
            expression += "."
        elif character == "[":
            # A closing bracket right at the start is one of the set.
            first = position + (pattern[position : position + 1] == "!")
            end = pattern.find("]", first + 1)
            if end < 0:
                expression += r"\["
                continue
            negated = first > position
            members = re.sub(r"([\\\[\]&~|^])", r"\\\1", pattern[first:end])
            expression += f"[{'^' if negated else ''}{members}]"
            position = end + 1
        else:
            expression += re.escape(character)
    try:
        return re.compile(expression + r"\Z", re.DOTALL)
    except re.error:
        # Such as a range that runs backwards: it matches nothing but itself.
        return re.compile(re.escape(pattern) + r"\Z", re.DOTALL)


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
