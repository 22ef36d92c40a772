"""The headers of an upload: those that Azure's Put Blob knows (semantics 5.2), and what becomes of them elsewhere."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from multidict import CIMultiDict

from millpond.domain.errors import TaskFailure, TaskFailureCode

_CONTENT: Final = ("content-type", "content-encoding", "content-language", "content-md5", "cache-control")
_OF_BLOB: Final = {f"x-ms-blob-{name}": name for name in (*_CONTENT, "content-disposition")}
_ENCRYPTION: Final = (
    "x-ms-encryption-algorithm",
    "x-ms-encryption-key",
    "x-ms-encryption-key-sha256",
    "x-ms-encryption-scope",
)
_OF_REQUEST: Final = ("x-ms-client-request-id", "x-ms-lease-id", *_ENCRYPTION)
"""What every request of an upload has to say."""
_CONDITIONS: Final = ("if-modified-since", "if-unmodified-since", "if-match", "if-none-match", "x-ms-if-tags")
_OTHER: Final = (
    "content-disposition",
    "x-ms-access-tier",
    "x-ms-blob-type",
    "x-ms-content-crc64",
    "x-ms-encryption-context",
    "x-ms-expiry-option",
    "x-ms-expiry-time",
    "x-ms-immutability-policy-mode",
    "x-ms-immutability-policy-until-date",
    "x-ms-legal-hold",
    "x-ms-tags",
)
_KNOWN: Final = frozenset((*_CONTENT, *_OF_BLOB, *_OF_REQUEST, *_CONDITIONS, *_OTHER))
_METADATA: Final = "x-ms-meta-"
_METADATA_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*\Z")


class Attributes(msgspec.Struct, frozen=True):
    """Upload headers in the words of obstore."""

    attributes: dict[str, str]
    """`Content-Type` and such, and metadata by their own names."""
    only_if_new: bool = False


def with_put_blob(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The headers as Put Blob takes them.

    Raises TaskFailure FileUploadMiscError for what is no header of it, or the node's to say (length, version, date,
    authorization).
    """
    sent: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        known = name.lower()
        if known.startswith(_METADATA):
            if not _METADATA_NAME.match(name[len(_METADATA) :]):
                raise _refused(name, "the name of a metadata item consists of letters, digits and _")
        elif known not in _KNOWN:
            raise _refused(name, "it is none of Put Blob's that a task may set")
        if not _VALUE.match(value):
            raise _refused(name, "its value has characters that no header may have")
        if known == "x-ms-blob-type":
            if value.lower() != "blockblob":
                raise _refused(name, "only block blobs are written")
            continue
        # Put Blob knows this one by its long name only.
        sent["x-ms-blob-content-disposition" if known == "content-disposition" else name] = value
    return sent


def with_each_block(sent: CIMultiDict[str]) -> CIMultiDict[str]:
    """Those of `with_put_blob` that each Put Block has to say, too."""
    return CIMultiDict((name, value) for name, value in sent.items() if name.lower() in _OF_REQUEST)


def with_block_list(sent: CIMultiDict[str]) -> CIMultiDict[str]:
    """Those of `with_put_blob` as Put Block List has them: its own Content-Type is that of the list."""
    listed: CIMultiDict[str] = CIMultiDict()
    for name, value in sent.items():
        if name.lower() in _CONTENT:
            listed.setdefault(f"x-ms-blob-{name.lower()}", value)
        else:
            listed[name] = value
    return listed


def as_attributes(headers: Mapping[str, str], storage: str) -> Attributes:
    """The headers as attributes of an object in storage that does not speak Azure's protocol; `storage` names it.

    Raises TaskFailure FileUploadMiscError for those that have no counterpart.
    """
    attributes: dict[str, str] = {}
    only_if_new = False
    for name, value in with_put_blob(headers).items():
        known = name.lower()
        known = _OF_BLOB.get(known, known)
        if known.startswith(_METADATA):
            attributes[name[len(_METADATA) :]] = value
        elif known in ("content-type", "content-encoding", "content-language", "content-disposition", "cache-control"):
            attributes["-".join(word.capitalize() for word in known.split("-"))] = value
        elif known == "if-none-match" and value == "*":
            only_if_new = True
        elif known != "x-ms-client-request-id":
            raise _refused(name, f"{storage} storage has no counterpart of it")
    return Attributes(attributes, only_if_new)


def _refused(name: str, reason: str) -> TaskFailure:
    return TaskFailure(
        TaskFailureCode.FILE_UPLOAD_MISC_ERROR,
        f"The upload header {name!r} cannot be used: {reason}",
        Header=name,
    )
