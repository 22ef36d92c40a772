"""Listings of a container: Azure's XML, and auto-storage's JSON (`{"blobs": [{"name", "size", "etag"}], "next": …}`)."""

import msgspec

from millpond.staging.xml import is_xml, parse_xml


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
        return _of_xml(text) if is_xml(text) else msgspec.json.decode(text, type=Page)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def _of_xml(text: bytes) -> Page:
    root = parse_xml(text)
    if root.tag != "EnumerationResults":
        raise ValueError(f"its root is {root.tag!r}")
    blobs = [
        ListedBlob(
            blob.findtext("Name") or "",
            int(blob.findtext("Properties/Content-Length") or 0),
            quoted(blob.findtext("Properties/Etag") or ""),
        )
        for blob in root.iterfind("Blobs/Blob")
    ]
    return Page(tuple(blob for blob in blobs if blob.name), root.findtext("NextMarker") or None)


def quoted(etag: str) -> str:
    """Listings say ETags without the quotes they have in headers."""
    return f'"{etag}"' if etag and not etag.endswith('"') else etag
