"""The launch agent of a node: `millpond-launch [options as of ssh] HOST COMMAND …`, as mpirun and its like call it.

It runs on the standard library alone, in the environment of an instance of a multi-instance task. HOST is the IP address
of another instance's node, which is reached by way of the service: the command runs there as that task's user, in that
instance's environment, and its output and exit code come back. Exit code 255 is, as with ssh, the launcher's own.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import signal
import sys
import time
import urllib.error
import urllib.request
from typing import Any

PATH = "/agent/v1/launch"
FAILED = 255
_PATIENCE_S = 120.0
"""How long the service may be away."""
_PAUSE_S = 0.5
_ANSWER_S = 90.0
_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"
"""Options of ssh that are followed by a value."""


def split_arguments(arguments: list[str]) -> tuple[str, str]:
    """Host and command. Raises ValueError."""
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if len(option) == 2 and option[1] in _WITH_VALUE and rest:
            rest.pop(0)
    if len(rest) < 2:
        raise ValueError("usage: millpond-launch HOST COMMAND …")
    return rest[0].rpartition("@")[2], " ".join(rest[1:])


def call(url: str, token: str, message: dict[str, object]) -> dict[str, Any]:
    """One call of the service. Raises OSError when it may be tried again, PermissionError when not."""
    request = urllib.request.Request(  # noqa: S310 (the URL is the service's own)
        url,
        data=json.dumps(message).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_ANSWER_S) as answer:
            answered: dict[str, Any] = json.loads(answer.read())
            return answered
    except urllib.error.HTTPError as error:
        text = error.read(1000).decode("utf-8", "replace")
        with contextlib.suppress(ValueError, TypeError, KeyError):
            text = json.loads(text)["message"]
        if error.code >= 500 or error.code in (408, 409, 429):
            raise ConnectionError(text) from None
        raise PermissionError(text) from None
    except (ValueError, http.client.HTTPException) as error:
        raise ConnectionError(f"the answer makes no sense: {error}") from None


def run(host: str, command: str) -> int:
    """Have the command run on that host; its exit code."""
    url = os.environ["AZ_BATCH_ACCOUNT_URL"].rstrip("/") + PATH
    token = os.environ["MILLPOND_LAUNCH_TOKEN"]
    message: dict[str, object] = {"id": secrets.token_hex(8), "host": host, "command": command}
    have = {"stdout": 0, "stderr": 0}
    heard = time.monotonic()
    while True:
        try:
            answer = call(url, token, message | {"stdoutFrom": have["stdout"], "stderrFrom": have["stderr"]})
        except PermissionError as error:
            sys.stderr.write(f"millpond-launch: {host}: {error}\n")
            return FAILED
        except OSError as error:
            if time.monotonic() - heard > _PATIENCE_S:
                sys.stderr.write(f"millpond-launch: {host}: the service cannot be reached: {error}\n")
                return FAILED
            time.sleep(_PAUSE_S)
            continue
        heard = time.monotonic()
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            data = base64.b64decode(answer.get(name, ""))
            have[name] += len(data)
            stream.buffer.write(data)
            stream.buffer.flush()
        code: int | None = answer.get("exitCode")
        if code is not None:
            return code if code >= 0 else 128 - code


def main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        host, command = split_arguments(sys.argv[1:])
        return run(host, command)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
    except KeyError as error:
        sys.stderr.write(f"millpond-launch: {error} is not set: this is for multi-instance tasks\n")
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
