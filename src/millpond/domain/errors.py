"""The catalogue of errors: what the REST API answers, and what entities carry (task failures, resize and node errors).

Codes are Azure Batch's, spelled as on the wire. `BatchError` is raised anywhere and becomes JSON only in
`api/wire_errors`.
"""

from enum import StrEnum
from typing import Final


class ErrorCode(StrEnum):
    """The code of an API error. Status and default message are in `CATALOGUE`."""

    ACCOUNT_IS_DISABLED = "AccountIsDisabled"
    APPLICATION_NOT_FOUND = "ApplicationNotFound"
    APPLICATION_PACKAGE_NOT_FOUND = "ApplicationPackageNotFound"
    ACTIVE_JOB_AND_SCHEDULE_QUOTA_REACHED = "ActiveJobAndScheduleQuotaReached"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    AUTO_SCALE_FORMULA_TOO_LONG = "AutoScaleFormulaTooLong"
    AUTO_SCALING_FORMULA_SYNTAX_ERROR = "AutoScalingFormulaSyntaxError"
    CERTIFICATE_NOT_FOUND = "CertificateNotFound"
    CONDITION_NOT_MET = "ConditionNotMet"
    CONFLICT = "Conflict"
    """Of the management plane, where it has no code of its own."""
    EMPTY_METADATA_KEY = "EmptyMetadataKey"
    FILE_NOT_FOUND = "FileNotFound"
    INSUFFICIENT_ACCOUNT_PERMISSIONS = "InsufficientAccountPermissions"
    INTERNAL_ERROR = "InternalError"
    INVALID_APPLICATION_PACKAGE_REFERENCES = "InvalidApplicationPackageReferences"
    INVALID_AUTHENTICATION_INFO = "InvalidAuthenticationInfo"
    INVALID_AUTO_SCALING_SETTINGS = "InvalidAutoScalingSettings"
    INVALID_CONSTRAINT_VALUE = "InvalidConstraintValue"
    INVALID_HEADER_VALUE = "InvalidHeaderValue"
    INVALID_PROPERTY_VALUE = "InvalidPropertyValue"
    INVALID_QUERY_PARAMETER_VALUE = "InvalidQueryParameterValue"
    INVALID_RANGE = "InvalidRange"
    INVALID_REQUEST_BODY = "InvalidRequestBody"
    INVALID_URI = "InvalidUri"
    JOB_BEING_DELETED = "JobBeingDeleted"
    JOB_BEING_TERMINATED = "JobBeingTerminated"
    JOB_COMPLETED = "JobCompleted"
    JOB_DISABLED = "JobDisabled"
    JOB_EXISTS = "JobExists"
    JOB_NOT_ACTIVE = "JobNotActive"
    JOB_NOT_FOUND = "JobNotFound"
    JOB_PREPARATION_TASK_NOT_RUN_ON_NODE = "JobPreparationTaskNotRunOnNode"
    JOB_PREPARATION_TASK_NOT_SPECIFIED = "JobPreparationTaskNotSpecified"
    JOB_RELEASE_TASK_NOT_RUN_ON_NODE = "JobReleaseTaskNotRunOnNode"
    JOB_RELEASE_TASK_NOT_SPECIFIED = "JobReleaseTaskNotSpecified"
    JOB_SCHEDULE_BEING_DELETED = "JobScheduleBeingDeleted"
    JOB_SCHEDULE_BEING_TERMINATED = "JobScheduleBeingTerminated"
    JOB_SCHEDULE_COMPLETED = "JobScheduleCompleted"
    JOB_SCHEDULE_DISABLED = "JobScheduleDisabled"
    JOB_SCHEDULE_EXISTS = "JobScheduleExists"
    JOB_SCHEDULE_NOT_FOUND = "JobScheduleNotFound"
    JOB_SCHEDULE_WITH_SAME_ID_EXISTS = "JobScheduleWithSameIdExists"
    JOB_WITH_SAME_ID_EXISTS = "JobWithSameIdExists"
    MISSING_REQUIRED_HEADER = "MissingRequiredHeader"
    MISSING_REQUIRED_PROPERTY = "MissingRequiredProperty"
    MISSING_REQUIRED_QUERY_PARAMETER = "MissingRequiredQueryParameter"
    MULTIPLE_CONDITION_HEADERS_NOT_SUPPORTED = "MultipleConditionHeadersNotSupported"
    NODE_ALREADY_IN_TARGET_SCHEDULING_STATE = "NodeAlreadyInTargetSchedulingState"
    NODE_BEING_CREATED = "NodeBeingCreated"
    NODE_BEING_REBOOTED = "NodeBeingRebooted"
    NODE_BEING_REIMAGED = "NodeBeingReimaged"
    NODE_BEING_STARTED = "NodeBeingStarted"
    NODE_NOT_FOUND = "NodeNotFound"
    NODE_NOT_READY = "NodeNotReady"
    NODE_STATE_UNUSABLE = "NodeStateUnusable"
    NODE_USER_EXISTS = "NodeUserExists"
    NODE_USER_NOT_FOUND = "NodeUserNotFound"
    NOT_IMPLEMENTED = "NotImplemented"
    OPERATION_INVALID_FOR_CURRENT_STATE = "OperationInvalidForCurrentState"
    OPERATION_NOT_VALID_ON_NODE = "OperationNotValidOnNode"
    OPERATION_TIMED_OUT = "OperationTimedOut"
    OUT_OF_RANGE_INPUT = "OutOfRangeInput"
    OUT_OF_RANGE_PRIORITY = "OutOfRangePriority"
    OUT_OF_RANGE_QUERY_PARAMETER_VALUE = "OutOfRangeQueryParameterValue"
    POOL_BEING_CREATED = "PoolBeingCreated"
    POOL_BEING_DELETED = "PoolBeingDeleted"
    POOL_BEING_RESIZED = "PoolBeingResized"
    POOL_EXISTS = "PoolExists"
    POOL_NOT_FOUND = "PoolNotFound"
    POOL_QUOTA_REACHED = "PoolQuotaReached"
    REQUEST_BODY_TOO_LARGE = "RequestBodyTooLarge"
    REQUEST_ENTITY_TOO_LARGE = "RequestEntityTooLarge"
    RESOURCE_NOT_FOUND = "ResourceNotFound"
    SERVER_BUSY = "ServerBusy"
    TASK_COMPLETED = "TaskCompleted"
    TASK_DEPENDENCIES_NOT_SPECIFIED_ON_JOB = "TaskDependenciesNotSpecifiedOnJob"
    TASK_DEPENDENCY_LIST_TOO_LONG = "TaskDependencyListTooLong"
    TASK_DEPENDENCY_RANGES_TOO_LONG = "TaskDependencyRangesTooLong"
    TASK_EXISTS = "TaskExists"
    TASK_FILES_CLEANED_UP = "TaskFilesCleanedup"
    TASK_FILES_UNAVAILABLE = "TaskFilesUnavailable"
    TASK_NOT_COMPLETED = "TaskNotCompleted"
    TASK_NOT_FOUND = "TaskNotFound"
    TASK_SUCCEEDED = "TaskSucceeded"
    TASK_ID_SAME_AS_JOB_PREPARATION_TASK = "TaskIdSameAsJobPreparationTask"
    TASK_ID_SAME_AS_JOB_RELEASE_TASK = "TaskIdSameAsJobReleaseTask"
    TOO_MANY_ENABLE_AUTO_SCALE_REQUESTS = "TooManyEnableAutoScaleRequests"
    UNSUPPORTED_HTTP_VERB = "UnsupportedHttpVerb"
    UNSUPPORTED_HEADER = "UnsupportedHeader"
    UNSUPPORTED_PROPERTY = "UnsupportedProperty"
    UNSUPPORTED_QUERY_PARAMETER = "UnsupportedQueryParameter"
    UNSUPPORTED_REQUEST_VERSION = "UnsupportedRequestVersion"


_C = ErrorCode

CATALOGUE: Final[dict[ErrorCode, tuple[int, str]]] = {
    _C.ACCOUNT_IS_DISABLED: (403, "The specified account is disabled."),
    _C.APPLICATION_NOT_FOUND: (404, "The specified application does not exist."),
    _C.APPLICATION_PACKAGE_NOT_FOUND: (404, "The specified application package does not exist."),
    _C.ACTIVE_JOB_AND_SCHEDULE_QUOTA_REACHED: (
        409,
        "The quota of active jobs and job schedules of the account has been reached.",
    ),
    _C.AUTHENTICATION_FAILED: (
        403,
        (
            "Server failed to authenticate the request. Make sure the value of the Authorization header is formed "
            "correctly, including the signature."
        ),
    ),
    _C.AUTO_SCALE_FORMULA_TOO_LONG: (400, "The autoscale formula is too long."),
    _C.AUTO_SCALING_FORMULA_SYNTAX_ERROR: (400, "The autoscale formula has a syntax error."),
    _C.CONDITION_NOT_MET: (412, "The condition specified using HTTP conditional header(s) is not met."),
    _C.CONFLICT: (409, "The request conflicts with the current state of the resource."),
    _C.EMPTY_METADATA_KEY: (400, "The key of a metadata item is empty."),
    _C.CERTIFICATE_NOT_FOUND: (404, "The specified certificate does not exist."),
    _C.FILE_NOT_FOUND: (404, "The specified file does not exist."),
    _C.INSUFFICIENT_ACCOUNT_PERMISSIONS: (
        403,
        "The account being accessed does not have sufficient permissions for this operation.",
    ),
    _C.INTERNAL_ERROR: (500, "The server encountered an internal error."),
    _C.INVALID_APPLICATION_PACKAGE_REFERENCES: (
        409,
        (
            "One or more application package references could not be satisfied. This occurs if the application or "
            "version does not exist or is not active, or if no version was given and there is no default version."
        ),
    ),
    _C.INVALID_AUTHENTICATION_INFO: (
        400,
        "The authentication information was not provided in the correct format. Verify the value of the Authorization header.",
    ),
    _C.INVALID_AUTO_SCALING_SETTINGS: (400, "The autoscale settings are invalid."),
    _C.INVALID_CONSTRAINT_VALUE: (400, "The value of a constraint is invalid."),
    _C.INVALID_HEADER_VALUE: (400, "The value for one of the HTTP headers is not in the correct format."),
    _C.INVALID_PROPERTY_VALUE: (400, "The value provided for one of the properties in the request body is invalid."),
    _C.INVALID_QUERY_PARAMETER_VALUE: (
        400,
        "Value for one of the query parameters specified in the request URI is invalid.",
    ),
    _C.INVALID_RANGE: (416, "The range specified is invalid for the current size of the resource."),
    _C.INVALID_REQUEST_BODY: (400, "The specified request body is not syntactically valid."),
    _C.INVALID_URI: (400, "The requested URI does not represent any resource on the server."),
    _C.JOB_BEING_DELETED: (409, "The specified job is being deleted."),
    _C.JOB_BEING_TERMINATED: (409, "The specified job is being terminated."),
    _C.JOB_COMPLETED: (409, "The specified job is already in a completed state."),
    _C.JOB_DISABLED: (409, "The specified job is disabled."),
    _C.JOB_EXISTS: (409, "The specified job already exists."),
    _C.JOB_NOT_ACTIVE: (409, "The specified job is not active."),
    _C.JOB_NOT_FOUND: (404, "The specified job does not exist."),
    _C.JOB_WITH_SAME_ID_EXISTS: (409, "A job with the specified id exists."),
    _C.MISSING_REQUIRED_HEADER: (400, "An HTTP header that's mandatory for this request is not specified."),
    _C.MISSING_REQUIRED_PROPERTY: (400, "A required property was not specified in the request body."),
    _C.MISSING_REQUIRED_QUERY_PARAMETER: (400, "A query parameter that's mandatory for this request is not specified."),
    _C.MULTIPLE_CONDITION_HEADERS_NOT_SUPPORTED: (400, "Multiple conditional headers are not supported."),
    _C.JOB_PREPARATION_TASK_NOT_RUN_ON_NODE: (
        409,
        "The specified job preparation task did not run on the specified node.",
    ),
    _C.JOB_PREPARATION_TASK_NOT_SPECIFIED: (409, "The specified job does not have a job preparation task."),
    _C.JOB_RELEASE_TASK_NOT_RUN_ON_NODE: (409, "The specified job release task did not run on the specified node."),
    _C.JOB_RELEASE_TASK_NOT_SPECIFIED: (409, "The specified job does not have a job release task."),
    _C.JOB_SCHEDULE_BEING_DELETED: (409, "The specified job schedule is being deleted."),
    _C.JOB_SCHEDULE_BEING_TERMINATED: (409, "The specified job schedule is being terminated."),
    _C.JOB_SCHEDULE_COMPLETED: (409, "The specified job schedule is completed."),
    _C.JOB_SCHEDULE_DISABLED: (409, "The specified job schedule is disabled."),
    _C.JOB_SCHEDULE_EXISTS: (409, "The specified job schedule already exists."),
    _C.JOB_SCHEDULE_NOT_FOUND: (404, "The specified job schedule does not exist."),
    _C.JOB_SCHEDULE_WITH_SAME_ID_EXISTS: (
        409,
        "A job schedule with that id exists: jobs and job schedules share their ids.",
    ),
    _C.NODE_ALREADY_IN_TARGET_SCHEDULING_STATE: (
        409,
        "The specified node is already in the target scheduling state.",
    ),
    _C.NODE_BEING_CREATED: (409, "The specified node is being created."),
    _C.NODE_BEING_REBOOTED: (409, "The specified node is being rebooted."),
    _C.NODE_BEING_REIMAGED: (409, "The specified node is being reimaged."),
    _C.NODE_BEING_STARTED: (409, "The specified node is being started."),
    _C.TASK_ID_SAME_AS_JOB_PREPARATION_TASK: (409, "The task's id is that of its job's preparation task."),
    _C.TASK_ID_SAME_AS_JOB_RELEASE_TASK: (409, "The task's id is that of its job's release task."),
    _C.NODE_NOT_FOUND: (404, "The specified node does not exist."),
    _C.NODE_NOT_READY: (409, "The node is not able to perform the requested operation in its current state."),
    _C.NODE_STATE_UNUSABLE: (409, "The specified node is unusable."),
    _C.NODE_USER_EXISTS: (409, "The specified node user already exists."),
    _C.NODE_USER_NOT_FOUND: (404, "The specified node user does not exist."),
    _C.NOT_IMPLEMENTED: (501, "The requested operation is not implemented on the specified resource."),
    _C.OPERATION_INVALID_FOR_CURRENT_STATE: (409, "The operation is not valid for the current state of the resource."),
    _C.OPERATION_NOT_VALID_ON_NODE: (409, "The specified operation is not valid on the node."),
    _C.OPERATION_TIMED_OUT: (500, "The operation could not be completed within the permitted time."),
    _C.OUT_OF_RANGE_INPUT: (400, "One of the request inputs is out of range."),
    _C.OUT_OF_RANGE_PRIORITY: (400, "The priority is out of range: it must be between -1000 and 1000."),
    _C.OUT_OF_RANGE_QUERY_PARAMETER_VALUE: (
        400,
        "A query parameter specified in the request URI is outside the permissible range.",
    ),
    _C.POOL_BEING_CREATED: (409, "The specified pool is being created."),
    _C.POOL_BEING_DELETED: (409, "The specified pool is being deleted."),
    _C.POOL_BEING_RESIZED: (409, "The specified pool is being resized."),
    _C.POOL_EXISTS: (409, "The specified pool already exists."),
    _C.POOL_NOT_FOUND: (404, "The specified pool does not exist."),
    _C.POOL_QUOTA_REACHED: (409, "The pool quota of the account has been reached."),
    _C.REQUEST_BODY_TOO_LARGE: (413, "The size of the request body exceeds the maximum permissible limit."),
    _C.REQUEST_ENTITY_TOO_LARGE: (413, "The request entity is too large."),
    _C.RESOURCE_NOT_FOUND: (404, "The specified resource does not exist."),
    _C.SERVER_BUSY: (503, "The server is currently unable to receive requests. Please retry your request."),
    _C.TASK_COMPLETED: (409, "The specified task is already in a completed state."),
    _C.TASK_DEPENDENCIES_NOT_SPECIFIED_ON_JOB: (
        400,
        "The task has dependencies, but usesTaskDependencies is not set on its job.",
    ),
    _C.TASK_DEPENDENCY_LIST_TOO_LONG: (400, "The list of task dependencies is too long."),
    _C.TASK_DEPENDENCY_RANGES_TOO_LONG: (400, "The list of task dependency ranges is too long."),
    _C.TASK_EXISTS: (409, "The specified task already exists."),
    _C.TASK_FILES_CLEANED_UP: (
        409,
        "The files of the specified task were cleaned up: their retention time has passed.",
    ),
    _C.TASK_FILES_UNAVAILABLE: (409, "The files of the specified task are not available: the node it ran on is gone."),
    _C.TASK_NOT_COMPLETED: (409, "The specified task is not in a completed state."),
    _C.TASK_NOT_FOUND: (404, "The specified task does not exist."),
    _C.TASK_SUCCEEDED: (409, "The specified task completed successfully."),
    _C.TOO_MANY_ENABLE_AUTO_SCALE_REQUESTS: (
        503,
        "Autoscale was enabled on this pool a moment ago. Please retry your request.",
    ),
    _C.UNSUPPORTED_HTTP_VERB: (405, "The resource doesn't support the specified HTTP verb."),
    _C.UNSUPPORTED_HEADER: (400, "One of the HTTP headers specified in the request is not supported."),
    _C.UNSUPPORTED_PROPERTY: (400, "One of the properties specified in the request body is not supported."),
    _C.UNSUPPORTED_QUERY_PARAMETER: (400, "One of the query parameters specified in the request URI is not supported."),
    _C.UNSUPPORTED_REQUEST_VERSION: (400, "The api-version specified in the request is not supported."),
}
"""Code → (HTTP status, default message)."""


class BatchError(Exception):
    """An error the client is told about: a code of the catalogue, a message, and key/value details.

    `message` replaces the catalogue's text when the situation can be said more exactly: what is wrong, where, and what
    to do about it.
    """

    def __init__(self, code: ErrorCode, message: str | None = None, **values: str) -> None:
        self.code = code
        self.status, default = CATALOGUE[code]
        self.message = message or default
        self.values: dict[str, str] = values
        super().__init__(f"{code.value}: {self.message}")


def invalid_property(name: str, value: object, reason: str) -> BatchError:
    """400 InvalidPropertyValue naming the property, what was sent, and why it will not do."""
    return BatchError(
        ErrorCode.INVALID_PROPERTY_VALUE,
        f"The value of property '{name}' is invalid: {reason}",
        PropertyName=name,
        PropertyValue=str(value)[:256],
        Reason=reason,
    )


class TaskFailureCode(StrEnum):
    """`failureInfo.code` of a task (Azure Batch: TaskFailureInformationCodes)."""

    FAILURE_EXIT_CODE = "FailureExitCode"
    TASK_ENDED = "TaskEnded"
    MAX_INTERNAL_RETRY_COUNT_REACHED = "MaxInternalRetryCountReached"
    APPLICATION_PACKAGE_ERROR = "ApplicationPackageError"
    MOUNT_CONFIGURATION_ERROR = "MountConfigurationError"
    COMMAND_PROGRAM_NOT_FOUND = "CommandProgramNotFound"
    COMMAND_LAUNCH_FAILED = "CommandLaunchFailed"
    BLOB_NOT_FOUND = "BlobNotFound"
    BLOB_ACCESS_DENIED = "BlobAccessDenied"
    BLOB_DOWNLOAD_TIMED_OUT = "BlobDownloadTimedOut"
    BLOB_DOWNLOAD_MISC_ERROR = "BlobDownloadMiscError"
    RESOURCE_CONTAINER_NOT_FOUND = "ResourceContainerNotFound"
    RESOURCE_CONTAINER_ACCESS_DENIED = "ResourceContainerAccessDenied"
    RESOURCE_CONTAINER_LIST_TIMED_OUT = "ResourceContainerListTimedOut"
    RESOURCE_CONTAINER_LIST_MISC_ERROR = "ResourceContainerListMiscError"
    RESOURCE_DIRECTORY_CREATE_FAILED = "ResourceDirectoryCreateFailed"
    RESOURCE_FILE_CREATE_FAILED = "ResourceFileCreateFailed"
    RESOURCE_FILE_WRITE_FAILED = "ResourceFileWriteFailed"
    DISK_FULL = "DiskFull"
    FILE_UPLOAD_CONTAINER_NOT_FOUND = "FileUploadContainerNotFound"
    FILE_UPLOAD_ACCESS_DENIED = "FileUploadAccessDenied"
    FILE_UPLOAD_CONFLICT = "FileUploadConflict"
    FILE_UPLOAD_TIMED_OUT = "FileUploadTimedOut"
    FILE_UPLOAD_MISC_ERROR = "FileUploadMiscError"
    UNKNOWN = "Unknown"


class LeaseLost(Exception):
    """Another owner holds the pool: what was to be committed is void."""


class StoreUnavailable(Exception):
    """The store could not commit (disk full, I/O error): nothing was written; the request may be tried again."""


class ProviderError(Exception):
    """A node provider could not do what was asked."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class TaskFailure(Exception):
    """Raised on a node when a task cannot be run or its files not be moved; becomes the task's failureInfo."""

    def __init__(self, code: TaskFailureCode, message: str, *, user_error: bool = True, **details: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.user_error = user_error
        self.details: dict[str, str] = details


class Bug(Exception):
    """An invariant is broken; the text is the story that led there."""
