"""The peers' side: a driver says it is ready, reads `[command, count]` a line each and answers with seconds.

Runs in the peers' own environments: nothing but the standard library here.
"""

import json
import os
import sys
from collections.abc import Callable


def drive(run: Callable[[list[str], int], float]) -> None:
    """Until there is nothing more to read. What the library prints goes where its errors go."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        run(["/bin/true"], 20)  # what happens at first only
        answers.write('"ready"\n')
        for line in sys.stdin:
            command, count = json.loads(line)
            answers.write(f"{json.dumps(run(command, count))}\n")
