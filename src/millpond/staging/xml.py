"""XML that a server sent: what storage accounts answer, parsed without what can hurt."""

from typing import Final
from xml.etree import ElementTree as ET

_BEFORE: Final = b"\xef\xbb\xbf \r\n\t"
"""A byte order mark, or blanks."""


def parse_xml(text: bytes) -> ET.Element:
    """The root element. Only UTF-8 (with or without a byte order mark), and no document type: entities, which could
    blow up memory, need one. Raises ValueError for anything else."""
    text.decode()
    # A parser takes a NUL, or a byte order mark that is no UTF-8, as a sign of UTF-16, in which a document type looks
    # different; and a claim to another encoding for true unless it is told the encoding.
    if b"\0" in text or b"<!DOCTYPE" in text:
        raise ValueError("it has a document type, or a NUL")
    parser = ET.XMLParser(encoding="utf-8")  # noqa: S314  entities need a document type, refused above
    try:
        return ET.fromstring(text.lstrip(_BEFORE), parser)  # noqa: S314  as above
    except ET.ParseError as error:
        raise ValueError(str(error)) from error


def is_xml(text: bytes) -> bool:
    """Whether it begins like XML."""
    return text.lstrip(_BEFORE).startswith(b"<")
