"""The limit: how many processes a second this machine starts and reaps, with the directories and log files of a task.

One small process, `posix_spawn`, two in flight: nothing that runs tasks one process each can be faster here.
"""

import argparse
import os
import time


def spawn_rate(count: int, directory: str, in_flight: int = 2) -> float:
    """Processes a second over `count` runs of /bin/true. Directories are left behind: removing them would slow the
    next repeat (a fresh inode is quicker than a just freed one)."""
    environment = {f"AZ_BATCH_VARIABLE_{n}": "value" * 4 for n in range(30)}
    environment["PATH"] = "/usr/bin:/bin"
    begun = time.perf_counter()
    running = 0
    for number in range(count):
        task = f"{directory}/task-{number:07d}"
        os.mkdir(task)
        os.mkdir(f"{task}/wd")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.posix_spawn(
            "/bin/true",
            ["true"],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, f"{task}/stdout.txt", flags, 0o644),
                (os.POSIX_SPAWN_OPEN, 2, f"{task}/stderr.txt", flags, 0o644),
            ],
            setsid=True,
        )
        running += 1
        if running >= in_flight:
            os.waitpid(-1, 0)
            running -= 1
    while running:
        os.waitpid(-1, 0)
        running -= 1
    return count / (time.perf_counter() - begun)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()
    print(spawn_rate(arguments.count, arguments.directory))
