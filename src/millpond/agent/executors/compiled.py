"""Builds the spawner's starter in C (`agent/spawning/start.c`) where there is a compiler. Nothing needs it (ADR 27)."""

import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from millpond.agent import spawner

_SOURCE: Final = Path(spawner.__file__).parent / "spawning" / "start.c"
_BUILD_S: Final = 60.0
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_log = logging.getLogger(__name__)


def build(directory: str, beside: str = str(_SOURCE.parent / "__pycache__")) -> str:
    """The path of the library; empty where it cannot be built. It is built once, `beside` the compiled Python, or in
    `directory` where the agent may not write there."""
    try:
        name = f"start-{hashlib.sha256(os.uname().machine.encode() + _SOURCE.read_bytes()).hexdigest()[:16]}.so"
    except OSError as error:
        _log.info("the starter in C cannot be built: %s", error)
        return ""
    places = [os.path.join(place, name) for place in (beside, directory)]
    found = next(filter(os.path.exists, places), "")
    compiler = shutil.which("cc", path=_PATH)
    if found or compiler is None:
        return found
    for path in places:
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            _compile(compiler, path)
        except subprocess.CalledProcessError as error:
            _log.info("the starter in C cannot be built: %s", error.stderr.decode(errors="replace").strip()[-500:])
        except (OSError, subprocess.TimeoutExpired) as error:
            _log.info("the starter in C cannot be built: %s", error)
        else:
            return path
    return ""


def _compile(compiler: str, path: str) -> None:
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "xb"):
        # Whether the place can be written to, before the work is done.
        pass
    try:
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-Wl,-z,now", "-o", temporary, str(_SOURCE)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
            timeout=_BUILD_S,
            check=True,
        )
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
