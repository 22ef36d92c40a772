"""The limit: how many processes a second this machine starts and reaps, with the directories and log files of a task.

One small process, `posix_spawn`, two in flight: nothing that runs tasks one process each can be faster here.
"""

import argparse
import os
import time
from collections.abc import Sequence


def spawn_rate(count: int, directory: str, in_flight: int = 2, command: Sequence[str] = ("/bin/true",)) -> float:
    """Processes a second over `count` runs of a command. Directories are left behind: removing them would slow the
    next repeat (a fresh inode is quicker than a just freed one). Raises RuntimeError when a run fails."""
    environment = {f"AZ_BATCH_VARIABLE_{n}": "value" * 4 for n in range(30)}
    environment["PATH"] = "/usr/bin:/bin"
    begun = time.perf_counter()
    running = failed = 0
    for number in range(count):
        task = f"{directory}/task-{number:07d}"
        os.mkdir(task)
        os.mkdir(f"{task}/wd")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.posix_spawn(
            command[0],
            tuple(command),
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, f"{task}/stdout.txt", flags, 0o644),
                (os.POSIX_SPAWN_OPEN, 2, f"{task}/stderr.txt", flags, 0o644),
            ],
            setsid=True,
        )
        running += 1
        if running >= in_flight:
            failed += os.waitpid(-1, 0)[1] != 0
            running -= 1
    while running:
        failed += os.waitpid(-1, 0)[1] != 0
        running -= 1
    taken_s = time.perf_counter() - begun
    if failed:
        raise RuntimeError(f"{failed} of {count} runs of {command[0]} failed")
    return count / taken_s


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("command", nargs="*", default=["/bin/true"])
    arguments = parser.parse_args()
    print(spawn_rate(arguments.count, arguments.directory, arguments.in_flight, arguments.command))
