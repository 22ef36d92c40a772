"""The Azure Blob protocol as far as several need it: names, listings, errors, lists of blocks. No transport."""

from base64 import b64encode
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from millpond.staging.account_storage import StorageError
from millpond.staging.auto_storage import is_container_name
from millpond.staging.base import RemoteFile
from millpond.staging.xml import parse_xml

BLOB_VERSION: Final = "2021-08-06"
"""Of the protocol."""
MAX_BLOB_NAME: Final = 1024


def check_container(name: str) -> str:
    """The name. Raises StorageError 400."""
    if not is_container_name(name):
        raise StorageError(400, "InvalidResourceName", "A container's name has 3 to 63 a-z, 0-9, single hyphens.")
    return name


def check_blob(name: str) -> str:
    """A name that reaches the server as it is: HTTP clients and servers resolve `.` and `..` in paths. Raises
    StorageError 400."""
    segments = name.split("/")
    if not 0 < len(name) <= MAX_BLOB_NAME or name.startswith("/") or "\0" in name or {".", ".."} & set(segments):
        raise StorageError(
            400, "InvalidUri", "A blob's name is a relative path of at most 1024 characters without '.' and '..' in it."
        )
    return name


def block_id(upload: str, number: int) -> str:
    """Of one block; all of a blob must be of one length."""
    return b64encode(f"{upload}{number:06}".encode()).decode()


def block_list(blocks: Iterable[str]) -> bytes:
    """The body that makes a blob of its blocks."""
    listed = "".join(f"<Latest>{escape(block)}</Latest>" for block in blocks)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()


def parse_error(text: bytes) -> tuple[str, str]:
    """Code and message of an error's body; empty where it says none."""
    try:
        root = parse_xml(text)
    except ValueError:
        return "", ""
    return root.findtext("Code") or "", (root.findtext("Message") or "").partition("\n")[0].strip()


def parse_listing(text: bytes) -> tuple[list[RemoteFile], str]:
    """The blobs of one page, and the marker of the next (empty: there is none). Raises StorageError 502."""
    try:
        root = parse_xml(text)
        return [_file(blob) for blob in root.iterfind("Blobs/Blob")], root.findtext("NextMarker") or ""
    except ValueError as error:
        raise StorageError(502, "StorageError", "What the storage account answers is not a listing.") from error


def parse_containers(text: bytes) -> tuple[list[str], str]:
    """The names of the containers of one page, and the marker of the next (empty: there is none). Raises StorageError
    502."""
    try:
        root = parse_xml(text)
    except ValueError as error:
        raise StorageError(502, "StorageError", "What the storage account answers is not a listing.") from error
    names = [name.text for name in root.iterfind("Containers/Container/Name") if name.text]
    return names, root.findtext("NextMarker") or ""


def _file(blob: Element) -> RemoteFile:
    name = blob.find("Name")
    if name is None or not name.text:
        raise ValueError("a blob has no name")
    etag = blob.findtext("Properties/Etag") or ""
    return RemoteFile(
        unquote(name.text) if name.get("Encoded") == "true" else name.text,
        int(blob.findtext("Properties/Content-Length") or 0),
        etag if not etag or etag.startswith('"') else f'"{etag}"',
    )
