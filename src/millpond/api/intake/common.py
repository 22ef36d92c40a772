"""Checks that bodies have in common. Each raises `BatchError` naming the property."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Final

from millpond.api.schema.base import NameValueItem
from millpond.api.schema.task import EnvironmentSetting
from millpond.domain.durations import Timestamp, format_duration, parse_duration, parse_timestamp
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.ids import is_valid_id

MAX_DISPLAY_NAME: Final = 1024
MAX_METADATA_ITEMS: Final = 1000
MAX_DURATION_S: Final = 10675199 * 86400.0
_URL: Final = re.compile(r"(?:https?|s3|gs)://[^\s/?#]+[^\s]*\Z", re.IGNORECASE)


@contextlib.contextmanager
def within(path: str) -> Iterator[None]:
    """Errors raised inside name their property from here: `commandLine` becomes `startTask.commandLine`."""
    try:
        yield
    except BatchError as error:
        name = error.values.get("PropertyName")
        whole = path if name is None else f"{path}.{name}"
        message = error.message if name is None else error.message.replace(f"'{name}'", f"'{whole}'", 1)
        raise BatchError(error.code, message, **{**error.values, "PropertyName": whole}) from None


def check_id(name: str, text: str) -> None:
    """1 to 64 letters, digits, hyphens, underscores."""
    if not is_valid_id(text):
        raise invalid_property(name, text, "an id has 1 to 64 letters, digits, hyphens and underscores")


def check_display_name(name: str, text: str | None) -> None:
    if text is not None and len(text) > MAX_DISPLAY_NAME:
        raise invalid_property(name, text, f"it is longer than {MAX_DISPLAY_NAME} characters")


def duration_s(name: str, text: str, *, minimum_s: float = 0.0, maximum_s: float | None = None) -> float | None:
    """The seconds of a duration; None is no limit."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise invalid_property(name, text, str(error)) from None
    if seconds is not None and seconds < minimum_s:
        raise invalid_property(name, text, f"it is shorter than {format_duration(minimum_s)}")
    if maximum_s is not None and (seconds is None or seconds > maximum_s):
        raise invalid_property(name, text, f"it is longer than {format_duration(maximum_s)}")
    if seconds is not None and seconds > MAX_DURATION_S:
        return None
    return seconds


def timestamp_of(name: str, text: str) -> Timestamp:
    """The instant a date-time names."""
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise invalid_property(name, text, str(error)) from None


def time_limit_s(name: str, text: str) -> float | None:
    """A limit on running time: anything above zero; None is no limit."""
    seconds = duration_s(name, text)
    if seconds is not None and seconds <= 0:
        raise invalid_property(name, text, "it must be longer than zero")
    return seconds


def check_retry_count(name: str, value: int | None) -> None:
    if value is not None and value < -1:
        raise invalid_property(name, value, "it must be -1 (no limit), 0 or more")


def check_metadata(items: Sequence[NameValueItem] | None) -> None:
    for index, item in enumerate(items or ()):
        if not item.name:
            raise BatchError(ErrorCode.EMPTY_METADATA_KEY, PropertyName=f"metadata[{index}].name")
    if items is not None and len(items) > MAX_METADATA_ITEMS:
        raise invalid_property("metadata", len(items), f"it has more than {MAX_METADATA_ITEMS} items")


def check_environment(name: str, settings: Sequence[EnvironmentSetting] | None) -> None:
    """Names that an environment can carry, values without NUL."""
    for index, setting in enumerate(settings or ()):
        if not setting.name or "=" in setting.name or "\0" in setting.name:
            raise invalid_property(
                f"{name}[{index}].name", setting.name, "a variable's name is not empty and has no '=' and no NUL"
            )
        if setting.value is not None and "\0" in setting.value:
            raise invalid_property(f"{name}[{index}].value", setting.value, "a value has no NUL")


def check_url(name: str, text: str) -> None:
    if _URL.match(text) is None:
        raise invalid_property(name, text, "it must be an http, https, s3 or gs URL")


def check_relative_path(name: str, text: str, *, empty: bool = False) -> None:
    """A path that stays below the directory it is relative to."""
    if not text and not empty:
        raise invalid_property(name, text, "it is empty")
    if text.startswith(("/", "\\")) or "\0" in text:
        raise invalid_property(name, text, "it must be a relative path")
    if ".." in text.replace("\\", "/").split("/"):
        raise invalid_property(name, text, "it must not lead out of the working directory ('..')")
