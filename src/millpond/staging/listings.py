"""Listings of a container: Azure's XML, and auto-storage's JSON (`{"blobs": [{"name", "size", "etag"}], "next": …}`)."""

from typing import Final
from xml.etree import ElementTree as ET

import msgspec

_BEFORE_XML: Final = b"\xef\xbb\xbf \r\n\t"
"""A byte order mark, or blanks."""


class ListedBlob(msgspec.Struct, frozen=True):
    name: str
    size: int = 0
    etag: str = ""


class Page(msgspec.Struct, frozen=True):
    """One page, and the marker of the next (None or empty: this is the last)."""

    blobs: tuple[ListedBlob, ...] = ()
    next: str | None = None


def parse_page(text: bytes) -> Page:
    """Raises ValueError when it is no listing."""
    try:
        return _parse_xml(text) if text.lstrip(_BEFORE_XML).startswith(b"<") else _parse_json(text)
    except (msgspec.MsgspecError, ET.ParseError) as error:
        raise ValueError(str(error)) from error


def _parse_json(text: bytes) -> Page:
    return msgspec.json.decode(text, type=Page)


def _parse_xml(text: bytes) -> Page:
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError("it has a document type")
    root = ET.fromstring(text)  # noqa: S314  entities need a document type, refused above
    if root.tag != "EnumerationResults":
        raise ValueError(f"its root is {root.tag!r}")
    blobs = [
        ListedBlob(
            blob.findtext("Name") or "",
            int(blob.findtext("Properties/Content-Length") or 0),
            _quoted(blob.findtext("Properties/Etag") or ""),
        )
        for blob in root.iterfind("Blobs/Blob")
    ]
    return Page(tuple(blob for blob in blobs if blob.name), root.findtext("NextMarker") or None)


def _quoted(etag: str) -> str:
    """Listings say ETags without the quotes they have in headers."""
    return f'"{etag}"' if etag and not etag.endswith('"') else etag
