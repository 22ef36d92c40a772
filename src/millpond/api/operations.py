"""The route table: every operation of the Batch service specification, and the few of our own.

Names are those of 2025-06-01; operations only older versions have keep a name in the same style. The handler of an
operation is found by its name (`handlers.HANDLERS`).
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from millpond.api.percent import decode_component
from millpond.api.versions import ALWAYS, LAST_CLASSIC, Span
from millpond.domain.errors import BatchError, ErrorCode

_READ: Final = "$select $expand"
_LIST: Final = "maxresults $filter $select $expand"


class Operation(msgspec.Struct, frozen=True):
    """One operation: `name`, HTTP method, path template, status of success, query parameters by lower-case name, the
    versions that have it, whether it takes condition headers, and whether it is one of our own."""

    name: str
    method: str
    path: str
    success: int
    query: frozenset[str] = frozenset()
    span: Span = ALWAYS
    conditional: bool = False
    extension: bool = False


def _operations() -> Iterator[Operation]:
    """Rows of (name, method, path, success, query parameters beyond api-version and timeout)."""
    for row in (*_TABLE, *_EXTENSIONS):
        name, method, path, success, *query = row
        assert isinstance(name, str)
        assert isinstance(method, str)
        assert isinstance(path, str)
        assert isinstance(success, int)
        names = " ".join(str(part) for part in query).lower().split()
        if "maxresults" in names or name == "list_subtasks":
            names.append("$skiptoken")
        span = _SPANS.get(name, ALWAYS)
        yield Operation(
            name, method, path, success, frozenset(names), span, name in _CONDITIONAL, extension=row in _EXTENSIONS
        )


_TABLE: Final[tuple[tuple[str | int, ...], ...]] = (
    ("list_applications", "GET", "/applications", 200, "maxresults"),
    ("get_application", "GET", "/applications/{applicationId}", 200),
    ("list_pool_usage_metrics", "GET", "/poolusagemetrics", 200, "maxresults startTime endTime $filter"),
    ("list_supported_images", "GET", "/supportedimages", 200, "maxresults $filter"),
    ("list_pool_node_counts", "GET", "/nodecounts", 200, "maxresults $filter"),
    # pools
    ("create_pool", "POST", "/pools", 201),
    ("list_pools", "GET", "/pools", 200, _LIST),
    ("delete_pool", "DELETE", "/pools/{poolId}", 202),
    ("pool_exists", "HEAD", "/pools/{poolId}", 200),
    ("get_pool", "GET", "/pools/{poolId}", 200, _READ),
    ("update_pool", "PATCH", "/pools/{poolId}", 200),
    ("disable_pool_auto_scale", "POST", "/pools/{poolId}/disableautoscale", 200),
    ("enable_pool_auto_scale", "POST", "/pools/{poolId}/enableautoscale", 200),
    ("evaluate_pool_auto_scale", "POST", "/pools/{poolId}/evaluateautoscale", 200),
    ("resize_pool", "POST", "/pools/{poolId}/resize", 202),
    ("stop_pool_resize", "POST", "/pools/{poolId}/stopresize", 202),
    ("replace_pool_properties", "POST", "/pools/{poolId}/updateproperties", 204),
    ("remove_nodes", "POST", "/pools/{poolId}/removenodes", 202),
    ("get_pool_lifetime_statistics", "GET", "/lifetimepoolstats", 200),
    # nodes
    ("list_nodes", "GET", "/pools/{poolId}/nodes", 200, "maxresults $filter $select"),
    ("get_node", "GET", "/pools/{poolId}/nodes/{nodeId}", 200, "$select"),
    ("create_node_user", "POST", "/pools/{poolId}/nodes/{nodeId}/users", 201),
    ("delete_node_user", "DELETE", "/pools/{poolId}/nodes/{nodeId}/users/{userName}", 200),
    ("replace_node_user", "PUT", "/pools/{poolId}/nodes/{nodeId}/users/{userName}", 200),
    ("reboot_node", "POST", "/pools/{poolId}/nodes/{nodeId}/reboot", 202),
    ("start_node", "POST", "/pools/{poolId}/nodes/{nodeId}/start", 202),
    ("reimage_node", "POST", "/pools/{poolId}/nodes/{nodeId}/reimage", 202),
    ("deallocate_node", "POST", "/pools/{poolId}/nodes/{nodeId}/deallocate", 202),
    ("disable_node_scheduling", "POST", "/pools/{poolId}/nodes/{nodeId}/disablescheduling", 200),
    ("enable_node_scheduling", "POST", "/pools/{poolId}/nodes/{nodeId}/enablescheduling", 200),
    ("get_node_remote_login_settings", "GET", "/pools/{poolId}/nodes/{nodeId}/remoteloginsettings", 200),
    ("get_node_remote_desktop", "GET", "/pools/{poolId}/nodes/{nodeId}/rdp", 200),
    ("upload_node_logs", "POST", "/pools/{poolId}/nodes/{nodeId}/uploadbatchservicelogs", 200),
    ("list_node_extensions", "GET", "/pools/{poolId}/nodes/{nodeId}/extensions", 200, "maxresults $select"),
    ("get_node_extension", "GET", "/pools/{poolId}/nodes/{nodeId}/extensions/{extensionName}", 200, "$select"),
    ("list_node_files", "GET", "/pools/{poolId}/nodes/{nodeId}/files", 200, "maxresults $filter recursive"),
    ("delete_node_file", "DELETE", "/pools/{poolId}/nodes/{nodeId}/files/{filePath}", 200, "recursive"),
    ("download_node_file", "GET", "/pools/{poolId}/nodes/{nodeId}/files/{filePath}", 200),
    ("get_node_file_properties", "HEAD", "/pools/{poolId}/nodes/{nodeId}/files/{filePath}", 200),
    # jobs
    ("create_job", "POST", "/jobs", 201),
    ("list_jobs", "GET", "/jobs", 200, _LIST),
    ("delete_job", "DELETE", "/jobs/{jobId}", 202, "force"),
    ("get_job", "GET", "/jobs/{jobId}", 200, _READ),
    ("update_job", "PATCH", "/jobs/{jobId}", 200),
    ("replace_job", "PUT", "/jobs/{jobId}", 200),
    ("disable_job", "POST", "/jobs/{jobId}/disable", 202),
    ("enable_job", "POST", "/jobs/{jobId}/enable", 202),
    ("terminate_job", "POST", "/jobs/{jobId}/terminate", 202, "force"),
    ("get_job_task_counts", "GET", "/jobs/{jobId}/taskcounts", 200),
    (
        "list_job_preparation_and_release_task_status",
        "GET",
        "/jobs/{jobId}/jobpreparationandreleasetaskstatus",
        200,
        "maxresults $filter $select",
    ),
    ("get_job_lifetime_statistics", "GET", "/lifetimejobstats", 200),
    # tasks
    ("create_task", "POST", "/jobs/{jobId}/tasks", 201),
    ("list_tasks", "GET", "/jobs/{jobId}/tasks", 200, _LIST),
    ("create_task_collection", "POST", "/jobs/{jobId}/addtaskcollection", 200),
    ("delete_task", "DELETE", "/jobs/{jobId}/tasks/{taskId}", 200),
    ("get_task", "GET", "/jobs/{jobId}/tasks/{taskId}", 200, _READ),
    ("replace_task", "PUT", "/jobs/{jobId}/tasks/{taskId}", 200),
    ("list_subtasks", "GET", "/jobs/{jobId}/tasks/{taskId}/subtasksinfo", 200, "$select"),
    ("terminate_task", "POST", "/jobs/{jobId}/tasks/{taskId}/terminate", 204),
    ("reactivate_task", "POST", "/jobs/{jobId}/tasks/{taskId}/reactivate", 204),
    ("list_task_files", "GET", "/jobs/{jobId}/tasks/{taskId}/files", 200, "maxresults $filter recursive"),
    ("delete_task_file", "DELETE", "/jobs/{jobId}/tasks/{taskId}/files/{filePath}", 200, "recursive"),
    ("download_task_file", "GET", "/jobs/{jobId}/tasks/{taskId}/files/{filePath}", 200),
    ("get_task_file_properties", "HEAD", "/jobs/{jobId}/tasks/{taskId}/files/{filePath}", 200),
    # job schedules
    ("create_job_schedule", "POST", "/jobschedules", 201),
    ("list_job_schedules", "GET", "/jobschedules", 200, _LIST),
    ("job_schedule_exists", "HEAD", "/jobschedules/{jobScheduleId}", 200),
    ("delete_job_schedule", "DELETE", "/jobschedules/{jobScheduleId}", 202, "force"),
    ("get_job_schedule", "GET", "/jobschedules/{jobScheduleId}", 200, _READ),
    ("update_job_schedule", "PATCH", "/jobschedules/{jobScheduleId}", 200),
    ("replace_job_schedule", "PUT", "/jobschedules/{jobScheduleId}", 200),
    ("disable_job_schedule", "POST", "/jobschedules/{jobScheduleId}/disable", 204),
    ("enable_job_schedule", "POST", "/jobschedules/{jobScheduleId}/enable", 204),
    ("terminate_job_schedule", "POST", "/jobschedules/{jobScheduleId}/terminate", 202, "force"),
    ("list_jobs_from_schedule", "GET", "/jobschedules/{jobScheduleId}/jobs", 200, _LIST),
    # certificates (up to 2024-02-01.19.0)
    ("create_certificate", "POST", "/certificates", 201),
    ("list_certificates", "GET", "/certificates", 200, "maxresults $filter $select"),
    (
        "get_certificate",
        "GET",
        "/certificates(thumbprintAlgorithm={thumbprintAlgorithm},thumbprint={thumbprint})",
        200,
        "$select",
    ),
    (
        "delete_certificate",
        "DELETE",
        "/certificates(thumbprintAlgorithm={thumbprintAlgorithm},thumbprint={thumbprint})",
        202,
    ),
    (
        "cancel_certificate_deletion",
        "POST",
        "/certificates(thumbprintAlgorithm={thumbprintAlgorithm},thumbprint={thumbprint})/canceldelete",
        204,
    ),
)

_SPANS: Final[dict[str, Span]] = {
    "start_node": Span(first="2024-07-01.20.0"),
    "deallocate_node": Span(first="2024-07-01.20.0"),
    "get_node_remote_desktop": Span(last=LAST_CLASSIC),
    "create_certificate": Span(last=LAST_CLASSIC),
    "list_certificates": Span(last=LAST_CLASSIC),
    "get_certificate": Span(last=LAST_CLASSIC),
    "delete_certificate": Span(last=LAST_CLASSIC),
    "cancel_certificate_deletion": Span(last=LAST_CLASSIC),
    "get_pool_lifetime_statistics": Span(last="2022-10-01.16.0"),
    "get_job_lifetime_statistics": Span(last="2022-10-01.16.0"),
}
"""Of the operations that not all versions have."""

_CONDITIONAL: Final = frozenset(
    [
        "delete_pool",
        "pool_exists",
        "get_pool",
        "update_pool",
        "enable_pool_auto_scale",
        "resize_pool",
        "stop_pool_resize",
        "remove_nodes",
        "delete_job",
        "get_job",
        "update_job",
        "replace_job",
        "disable_job",
        "enable_job",
        "terminate_job",
        "job_schedule_exists",
        "delete_job_schedule",
        "get_job_schedule",
        "update_job_schedule",
        "replace_job_schedule",
        "disable_job_schedule",
        "enable_job_schedule",
        "terminate_job_schedule",
        "delete_task",
        "get_task",
        "replace_task",
        "terminate_task",
        "reactivate_task",
        "download_node_file",
        "get_node_file_properties",
        "download_task_file",
        "get_task_file_properties",
        "disable_pool_auto_scale",
        "replace_pool_properties",
    ]
)
"""The operations that take If-Match and its kin; those on files only the two dates. The last two do so beyond the
specification."""

_EXTENSIONS: Final[tuple[tuple[str | int, ...], ...]] = (
    # many tasks in one request
    ("create_task_array", "POST", "/jobs/{jobId}/addtaskarray", 201),
    # what the node's agent says of itself
    ("get_node_properties", "GET", "/pools/{poolId}/nodes/{nodeId}/properties", 200),
    # why something waits
    ("explain_job", "GET", "/jobs/{jobId}/explain", 200),
    ("explain_task", "GET", "/jobs/{jobId}/tasks/{taskId}/explain", 200),
    ("explain_pool", "GET", "/pools/{poolId}/explain", 200),
    ("explain_node", "GET", "/pools/{poolId}/nodes/{nodeId}/explain", 200),
    ("list_auto_scale_runs", "GET", "/pools/{poolId}/autoscaleruns", 200),
    ("list_auto_scale_samples", "GET", "/pools/{poolId}/autoscalesamples", 200),
    # what a task writes, as it writes it
    ("follow_task_file", "GET", "/jobs/{jobId}/tasks/{taskId}/follow", 200, "filePath offset attempt"),
    ("list_events", "GET", "/events", 200, "after wait"),
    # Azure's clouds take spot nodes back when they please; here somebody, or something, asks for it.
    ("preempt_node", "POST", "/pools/{poolId}/nodes/{nodeId}/preempt", 202),
)
"""Millpond's own operations: no Azure Batch client knows them."""

OPERATIONS: Final[tuple[Operation, ...]] = tuple(_operations())

_WHOLE_SEGMENT: Final = re.compile(r"\{(\w+)\}\Z")
_FILE_PATH: Final = "filePath"


class _Place(msgspec.Struct):
    """A node of the tree of path segments."""

    literals: dict[bytes, "_Place"] = msgspec.field(default_factory=dict)
    patterns: list[tuple["re.Pattern[bytes]", "_Place"]] = msgspec.field(default_factory=list)
    """Segments of letters and parameters mixed."""
    parameter: "_Place | None" = None
    rest: "_Place | None" = None
    """A parameter that takes all that is left of the path, slashes included."""
    name: str = ""
    """Of the parameter that leads here."""
    operations: dict[str, Operation] = msgspec.field(default_factory=dict)
    """By method."""


class Router:
    """Finds the operation of a method and a raw path. The path is split first and decoded after, so that an encoded
    slash never changes where it leads."""

    def __init__(self, operations: tuple[Operation, ...] = OPERATIONS) -> None:
        self._root = _Place()
        for operation in operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        place = self._root
        for segment in operation.path.removeprefix("/").split("/"):
            place = self._step(place, segment)
        if operation.method in place.operations:
            raise ValueError(f"two operations for {operation.method} {operation.path}")
        place.operations[operation.method] = operation

    @staticmethod
    def _step(place: _Place, segment: str) -> _Place:
        if "{" not in segment:
            return place.literals.setdefault(segment.encode(), _Place())
        whole = _WHOLE_SEGMENT.match(segment)
        if whole is None:
            pattern = re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^,()]+)", re.escape(segment)).encode() + rb"\Z")
            for known, beyond in place.patterns:
                if known.pattern == pattern.pattern:
                    return beyond
            place.patterns.append((pattern, _Place()))
            return place.patterns[-1][1]
        if whole[1] == _FILE_PATH:
            place.rest = place.rest or _Place(name=whole[1])
            return place.rest
        if place.parameter is None:
            place.parameter = _Place(name=whole[1])
        return place.parameter

    def find(self, method: str, path: bytes) -> tuple[Operation, dict[str, str]]:
        """The operation and its decoded path parameters.

        Raises BatchError: InvalidUri (no such path, or one that is not UTF-8), UnsupportedHttpVerb.
        """
        place = self._root
        found: list[tuple[str, bytes]] = []
        segments = path.removeprefix(b"/").split(b"/")
        for index, segment in enumerate(segments):
            step = place.literals.get(segment)
            if step is None:
                if place.rest is not None:
                    step = place.rest
                    found.append((step.name, b"/".join(segments[index:])))
                    place = step
                    break
                if place.parameter is not None and segment:
                    step = place.parameter
                    found.append((step.name, segment))
                else:
                    step = _match_pattern(place, segment, found)
            if step is None:
                raise BatchError(ErrorCode.INVALID_URI)
            place = step
        if not place.operations:
            raise BatchError(ErrorCode.INVALID_URI)
        operation = place.operations.get(method)
        if operation is None:
            allowed = ", ".join(sorted(place.operations))
            raise BatchError(ErrorCode.UNSUPPORTED_HTTP_VERB, Verb=method[:32], Allowed=allowed)
        try:
            return operation, {name: decode_component(value).decode() for name, value in found}
        except UnicodeDecodeError:
            raise BatchError(ErrorCode.INVALID_URI, "The path is not UTF-8 text.") from None


def _match_pattern(place: _Place, segment: bytes, found: list[tuple[str, bytes]]) -> _Place | None:
    decoded = decode_component(segment)
    for pattern, beyond in place.patterns:
        match = pattern.match(decoded)
        if match is not None:
            found.extend(match.groupdict().items())
            return beyond
    return None
