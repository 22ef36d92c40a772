"""File patterns of output files (semantics 5.2): which files they match.

`*` and `?` stay within one name, `**` is any number of directories, `[abc]`, `[a-c]` and `[!abc]` are one character,
and `[*]` escapes. Names that begin with a dot match only patterns whose name begins with one.
"""

import os
import re
from typing import Final

import msgspec

_WILDCARD: Final = re.compile(r"[*?\[]")
_MAX_DEPTH: Final = 128


class FoundFile(msgspec.Struct, frozen=True):
    path: str
    name: str
    """Relative to the working directory, or to the pattern's own directory when that is elsewhere."""


def has_wildcard(pattern: str) -> bool:
    """Whether the pattern may match more than the one file it names."""
    return _WILDCARD.search(pattern) is not None


def find_files(pattern: str, working_directory: str, root: str) -> list[FoundFile]:
    """The regular files that match, sorted. `pattern` is relative to the working directory, or absolute.

    Links to directories are not followed. A link to a file, or a directory reached through a link, counts only if what
    it leads to lies within `root` (or, for a pattern outside it, within the pattern's own directory).
    """
    absolute = os.path.normpath(os.path.join(working_directory, pattern))
    names = absolute.split("/")[1:]
    fixed = 0
    while fixed < len(names) - 1 and not has_wildcard(names[fixed]):
        fixed += 1
    base = "/" + "/".join(names[:fixed])
    boundary = root if _is_within(base, root) else base
    within = working_directory if _is_within(base, working_directory) else base
    matchers: list[re.Pattern[str] | None] = [None if name == "**" else compile_name(name) for name in names[fixed:]]
    if matchers[-1] is None:
        # At the end, any file below.
        matchers.append(compile_name("*"))
    found: set[str] = set()
    _walk(base, matchers, found, 0)
    real_boundary = os.path.realpath(boundary)
    return [
        FoundFile(path, os.path.relpath(path, within))
        for path in sorted(found)
        if _is_within(os.path.realpath(path), real_boundary) and os.path.isfile(path)
    ]


def _walk(directory: str, matchers: list[re.Pattern[str] | None], found: set[str], depth: int) -> None:
    matcher, rest = matchers[0], matchers[1:]
    if matcher is None:
        _walk(directory, rest, found, depth)
    if depth > _MAX_DEPTH:
        return
    try:
        with os.scandir(directory) as entries:
            listed = list(entries)
    except OSError:
        # It is not there, or is not ours to read: nothing in it matches.
        return
    for entry in listed:
        if matcher is None:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                _walk(entry.path, matchers, found, depth + 1)
        elif matcher.match(entry.name):
            if not rest:
                if entry.is_file():
                    found.add(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                _walk(entry.path, rest, found, depth + 1)


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
