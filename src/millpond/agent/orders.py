"""What a node is asked to do at once: file operations go to `files`, orders (users who log in, logs) are done here."""

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, Protocol

import msgspec

from millpond.agent.isolation.logins import Logins
from millpond.domain.durations import Timestamp
from millpond.domain.errors import CATALOGUE, BatchError, ErrorCode, TaskFailure, TaskFailureCode
from millpond.protocol.messages import FileReply, FileRequest, NodeOrder, PutUser, RemoveUser, UploadedLogs, UploadLogs
from millpond.staging.base import Staging
from millpond.staging.threads import finish_in_thread

ORDER: Final = "order"
LOG_SUFFIX: Final = ".log"
_log: Final = logging.getLogger(__name__)
_decode: Final = msgspec.json.Decoder(NodeOrder).decode


class Files(Protocol):
    """See `link.Files`."""

    async def handle(self, request: FileRequest) -> tuple[FileReply, AsyncIterator[bytes] | None]: ...


class NodeDesk:
    """Answers whatever is asked of one node."""

    def __init__(
        self,
        files: Files,
        logins: Callable[[], Logins | None],
        why_no_logins: str,
        log_directory: str,
        staging: Staging,
    ) -> None:
        """`logins` are the node's, None where its tasks do not run as users of their own: `why_no_logins`. The files of
        `log_directory` that end in `.log` are the agent's."""
        self._files = files
        self._logins = logins
        self._why_no_logins = why_no_logins
        self._log_directory = log_directory
        self._staging = staging

    async def handle(self, request: FileRequest) -> tuple[FileReply, AsyncIterator[bytes] | None]:
        if request.operation != ORDER:
            return await self._files.handle(request)
        try:
            return FileReply(content=await self._do(_decode(request.content))), None
        except msgspec.DecodeError:
            return _refusal(
                BatchError(ErrorCode.NOT_IMPLEMENTED, "The node does not know what it is asked to do.")
            ), None
        except BatchError as error:
            return _refusal(error), None
        except TaskFailure as failure:
            return _refusal(_storage_error(failure)), None
        except OSError as error:
            _log.warning("an order failed: %s", error)
            message = f"The node could not do it: {error.strerror or error}."
            return _refusal(BatchError(ErrorCode.INTERNAL_ERROR, message)), None

    async def _do(self, order: NodeOrder) -> bytes:
        match order:
            case UploadLogs():
                return msgspec.json.encode(UploadedLogs(await self._upload(order)))
            case PutUser():
                await finish_in_thread(self._require_logins().put, order)
            case RemoveUser(name):
                await finish_in_thread(self._require_logins().remove, name)
        return b""

    def _require_logins(self) -> Logins:
        logins = self._logins()
        if logins is None:
            raise BatchError(
                ErrorCode.NOT_IMPLEMENTED,
                f"The node cannot have users who log in, because its tasks do not run as users of their own: "
                f"{self._why_no_logins}.",
            )
        return logins

    async def _upload(self, order: UploadLogs) -> int:
        count = 0
        for path in self._logs(order.start, order.end):
            name = f"{order.directory}/{os.path.basename(path)}"
            await self._staging.put(path, order.container_url, name, {})
            count += 1
        return count

    def _logs(self, start: Timestamp, end: Timestamp | None) -> Iterator[str]:
        """Those that may hold something of that time: a log is appended to until it was last changed."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._log_directory) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if not entry.name.endswith(LOG_SUFFIX) or not entry.is_file(follow_symlinks=False):
                    continue
                facts = entry.stat(follow_symlinks=False)
                if facts.st_mtime >= start and (end is None or _first_written(facts) <= end):
                    yield entry.path


def _first_written(facts: os.stat_result) -> Timestamp:
    """When the file was made, where that can be told; else as long ago as can be."""
    return float(getattr(facts, "st_birthtime", 0.0))


def _storage_error(failure: TaskFailure) -> BatchError:
    """What stands in the way of an upload is told in the words of a failed task."""
    denied = failure.code is TaskFailureCode.FILE_UPLOAD_ACCESS_DENIED
    missing = failure.code is TaskFailureCode.FILE_UPLOAD_CONTAINER_NOT_FOUND
    code = ErrorCode.INVALID_PROPERTY_VALUE if denied or missing else ErrorCode.OPERATION_TIMED_OUT
    return BatchError(code, f"The logs cannot be uploaded to containerUrl: {failure.message}")


def _refusal(error: BatchError) -> FileReply:
    return FileReply(error=error.code.value, message=error.message or CATALOGUE[error.code][1])
