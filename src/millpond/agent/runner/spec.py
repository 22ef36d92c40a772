"""The part of a task's specification that a node acts on, decoded from its wire form."""

from functools import lru_cache
from typing import Final

import msgspec

from millpond.agent.mount_kinds import Mount
from millpond.domain.durations import Timestamp, parse_duration
from millpond.domain.errors import TaskFailure, TaskFailureCode

DEFAULT_RETENTION_S: Final = 7 * 86400.0


class _Wire(msgspec.Struct, frozen=True, rename="camel"):
    pass


class EnvironmentSetting(_Wire, frozen=True, rename="camel"):
    name: str
    value: str | None = None


class ResourceFile(_Wire, frozen=True, rename="camel"):
    """A file, or the files of a container, to fetch before the command line runs (semantics 5.1)."""

    http_url: str | None = None
    storage_container_url: str | None = None
    blob_prefix: str | None = None
    file_path: str | None = None
    file_mode: str | None = None


class ApplicationPackage(_Wire, frozen=True, rename="camel"):
    """A package the task (or the pool) refers to, as the control plane has resolved the reference."""

    id: str
    version: str = ""
    problem: str = ""
    """Why there is nothing to deploy, in words; the rest is empty then."""
    is_default: bool = False
    created_at: Timestamp = 0.0
    url: str = ""
    sha256: str = ""


class UploadHeader(_Wire, frozen=True, rename="camel"):
    name: str
    value: str | None = None


class OutputContainer(_Wire, frozen=True, rename="camel"):
    container_url: str
    path: str | None = None
    upload_headers: tuple[UploadHeader, ...] | None = None


class OutputDestination(_Wire, frozen=True, rename="camel"):
    container: OutputContainer | None = None


class UploadOptions(_Wire, frozen=True, rename="camel"):
    upload_condition: str | None = None


class OutputFile(_Wire, frozen=True, rename="camel"):
    """Files to upload after the command line ended (semantics 5.2)."""

    file_pattern: str
    destination: OutputDestination
    upload_options: UploadOptions | None = None


class Constraints(_Wire, frozen=True, rename="camel"):
    max_wall_clock_time: str | None = None
    retention_time: str | None = None


class AutoUser(_Wire, frozen=True, rename="camel"):
    scope: str | None = None
    elevation_level: str | None = None


class UserIdentity(_Wire, frozen=True, rename="camel"):
    user_name: str | None = msgspec.field(default=None, name="username")
    auto_user: AutoUser | None = None


class MultiInstanceSettings(_Wire, frozen=True, rename="camel"):
    coordination_command_line: str | None = None
    common_resource_files: tuple[ResourceFile, ...] | None = None


class PrepareError(_Wire, frozen=True, rename="camel"):
    """Why the service could not prepare the specification for this node."""

    code: TaskFailureCode
    message: str


class TaskSpec(_Wire, frozen=True, rename="camel"):
    """What the node needs of a task. Everything else in the wire form is ignored here."""

    command_line: str = ""
    application_packages: tuple[ApplicationPackage, ...] = ()
    resource_files: tuple[ResourceFile, ...] | None = None
    output_files: tuple[OutputFile, ...] | None = None
    environment_settings: tuple[EnvironmentSetting, ...] | None = None
    constraints: Constraints | None = None
    user_identity: UserIdentity | None = None
    multi_instance_settings: MultiInstanceSettings | None = None
    prepare_error: PrepareError | None = None
    mount_configuration: tuple[Mount, ...] | None = None
    """Of a node's setup."""

    @property
    def max_wall_clock_s(self) -> float | None:
        """Seconds from entry to running until the task is killed; None is no limit."""
        text = None if self.constraints is None else self.constraints.max_wall_clock_time
        return None if text is None else _seconds(text)

    @property
    def retention_s(self) -> float | None:
        """Seconds the task's directory is kept after its end; None is for ever."""
        text = None if self.constraints is None else self.constraints.retention_time
        return DEFAULT_RETENTION_S if text is None else _seconds(text)


_DECODER: Final = msgspec.json.Decoder(TaskSpec)
_SHORT: Final = 2048
"""Bytes of a specification up to which it is remembered: many tasks have the same."""

_seconds: Final = lru_cache(maxsize=64)(parse_duration)


def _decode(spec: bytes) -> TaskSpec:
    decoded = _DECODER.decode(spec)
    # Durations are read here, so that a bad one ends the attempt before anything was done for it.
    _ = decoded.max_wall_clock_s, decoded.retention_s
    return decoded


_decode_short: Final = lru_cache(maxsize=256)(_decode)


def decode_spec(spec: bytes) -> TaskSpec:
    """Raises TaskFailure Unknown (a server error: the API checks specifications before they get here)."""
    try:
        return _decode_short(spec) if len(spec) <= _SHORT else _decode(spec)
    except (msgspec.MsgspecError, ValueError) as error:
        raise TaskFailure(
            TaskFailureCode.UNKNOWN, f"The task's specification cannot be read: {error}", user_error=False
        ) from error
