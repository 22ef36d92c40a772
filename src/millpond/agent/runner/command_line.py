"""From a task's command line to an argument vector. There is no shell (semantics 4.5)."""

import re
import shlex
from typing import Final

from millpond.domain.errors import TaskFailure, TaskFailureCode

_QUOTING: Final = re.compile(r"[\"'\\]")
_WORD: Final = re.compile(r"[^ \t\r\n]+")


def split_command_line(command_line: str) -> tuple[str, ...]:
    """Split as a POSIX shell would, honouring single quotes, double quotes and backslash, and nothing else.

    Raises TaskFailure CommandLaunchFailed when it is empty, a quote is not closed, or it holds a NUL character.
    """
    if "\0" in command_line:
        raise TaskFailure(TaskFailureCode.COMMAND_LAUNCH_FAILED, "The command line holds a NUL character")
    if _QUOTING.search(command_line) is None:
        # shlex reads character by character; most lines need no such care.
        words = _WORD.findall(command_line)
    else:
        try:
            words = shlex.split(command_line)
        except ValueError as error:
            raise TaskFailure(
                TaskFailureCode.COMMAND_LAUNCH_FAILED,
                f"The command line cannot be split into arguments: {error}",
                CommandLine=command_line[:1024],
            ) from None
    if not words or not words[0]:
        raise TaskFailure(TaskFailureCode.COMMAND_LAUNCH_FAILED, "The command line is empty")
    return tuple(words)
