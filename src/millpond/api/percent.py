"""Percent-encoding of URLs."""

from urllib.parse import unquote_to_bytes


def decode_component(text: bytes, *, plus: bool = False) -> bytes:
    """Undo percent-encoding; with `plus`, `+` is a space (queries)."""
    if plus and b"+" in text:
        text = text.replace(b"+", b" ")
    return unquote_to_bytes(text) if b"%" in text else text
