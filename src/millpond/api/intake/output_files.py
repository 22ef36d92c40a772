"""Output files of tasks and job managers, checked (semantics 5.2)."""

import re
from collections.abc import Sequence
from typing import Final

from millpond.api.decode import missing_property
from millpond.api.intake.common import check_relative_path, check_url
from millpond.api.schema.task import OutputFile, UploadHeader
from millpond.domain.errors import invalid_property

UPLOAD_HEADERS: Final = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-unmodified-since",
        "x-ms-access-tier",
        "x-ms-blob-cache-control",
        "x-ms-blob-content-disposition",
        "x-ms-blob-content-encoding",
        "x-ms-blob-content-language",
        "x-ms-blob-content-type",
        "x-ms-client-request-id",
        "x-ms-encryption-algorithm",
        "x-ms-encryption-key",
        "x-ms-encryption-key-sha256",
        "x-ms-encryption-scope",
        "x-ms-immutability-policy-mode",
        "x-ms-immutability-policy-until-date",
        "x-ms-lease-id",
        "x-ms-legal-hold",
        "x-ms-tags",
    }
)
"""Of Put Blob, what says something about the blob. The others are the uploader's own (lengths, checksums, who asks)."""
_METADATA: Final = re.compile(r"x-ms-meta-[A-Za-z_][A-Za-z0-9_]*\Z", re.IGNORECASE)
_VALUE: Final = re.compile(r"[\x20-\x7e\t]*\Z")


def check_output_files(name: str, outputs: Sequence[OutputFile]) -> None:
    """Raises BatchError InvalidPropertyValue or MissingRequiredProperty naming the property."""
    for index, output in enumerate(outputs):
        _check(f"{name}[{index}]", output)


def _check(name: str, output: OutputFile) -> None:
    if not output.file_pattern or "\0" in output.file_pattern:
        raise invalid_property(f"{name}.filePattern", output.file_pattern, "it is empty or has a NUL character")
    container = output.destination.container
    if container is None:
        raise missing_property(f"{name}.destination.container")
    check_url(f"{name}.destination.container.containerUrl", container.container_url)
    if container.path is not None:
        check_relative_path(f"{name}.destination.container.path", container.path, empty=True)
    seen: set[str] = set()
    for index, header in enumerate(container.upload_headers or ()):
        where = f"{name}.destination.container.uploadHeaders[{index}]"
        _check_header(where, header)
        if header.name.lower() in seen:
            raise invalid_property(f"{where}.name", header.name, "it is given twice; case does not matter")
        seen.add(header.name.lower())


def _check_header(name: str, header: UploadHeader) -> None:
    if not header.name:
        raise invalid_property(f"{name}.name", "", "it is empty")
    if header.name.lower() not in UPLOAD_HEADERS and not _METADATA.match(header.name):
        raise invalid_property(
            f"{name}.name",
            header.name,
            "it is not a header that may be set when a blob is put, such as Content-Type, Cache-Control or x-ms-meta-name",
        )
    if header.value is not None and _VALUE.match(header.value) is None:
        raise invalid_property(f"{name}.value", header.value, "a header's value has printable ASCII characters only")
