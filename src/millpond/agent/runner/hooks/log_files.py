"""stdout.txt and stderr.txt, one level above `wd`."""

import os

from millpond.agent.runner.attempt import Attempt, TaskHook


class LogFiles(TaskHook):
    """The process opens them itself; when it was never started they are made empty, so that they can be asked for."""

    def stop(self, attempt: Attempt) -> None:
        if attempt.exit is not None:
            return
        for path in (attempt.stdout_path, attempt.stderr_path):
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
                try:
                    if attempt.run_as is not None and os.fstat(descriptor).st_nlink == 1:
                        os.fchown(descriptor, attempt.run_as.uid, attempt.run_as.gid)
                finally:
                    os.close(descriptor)
            except OSError:
                # No directory, no disk: that is the attempt's failure already.
                return
