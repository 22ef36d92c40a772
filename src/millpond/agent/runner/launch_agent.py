"""The launch agent: what mpirun and its like run in the place of ssh. Here it is installed; it is `launcher.py`."""

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Final

from millpond.agent.replacement import replace_file
from millpond.agent.runner import launcher

LAUNCHER: Final = "bin/millpond-launch"
"""Below a node's root: called as `millpond-launch HOST COMMAND …`."""
_SYSTEM_PYTHON: Final = "/usr/bin/python3"


def install(root: str) -> None:
    """Put it in place, unless it is there. Raises OSError."""
    path = f"{root}/{LAUNCHER}"
    program = Path(launcher.__file__).read_bytes()
    # Through a shell, as what follows `#!` may be neither long nor hold blanks.
    command = shlex.join([interpreter(), "-I", "-S", "-B", f"{path}.py"])
    _put(f"{path}.py", program, 0o644)
    _put(path, f'#!/bin/sh\nexec {command} "$@"\n'.encode(), 0o755)


def interpreter() -> str:
    """A Python that the users of tasks can run: the agent's own, unless it is where only its owner gets."""
    own = os.path.realpath(sys.executable)
    if os.geteuid() != 0 or _is_public(own) or not os.access(_SYSTEM_PYTHON, os.X_OK):
        return own
    return _SYSTEM_PYTHON


def _is_public(path: str) -> bool:
    if not stat.S_IMODE(os.stat(path).st_mode) & stat.S_IXOTH:
        return False
    return all(os.stat(parent).st_mode & stat.S_IXOTH for parent in Path(path).parents)


def _put(path: str, content: bytes, mode: int) -> None:
    try:
        if Path(path).read_bytes() == content:
            return
    except FileNotFoundError:
        directory = os.path.dirname(path)
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o755)  # noqa: S103 (all tasks run what is in it)
    # Another instance's agent may be just about to run it: it sees the whole of the old or of the new one.
    replace_file(path, content, mode)
