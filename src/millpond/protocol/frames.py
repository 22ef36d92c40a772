"""A stream that may be silent for long: frames of 4 bytes of length (little-endian) and so many bytes.

An empty frame says nothing but that the sender is there. It comes first, so that the head of the message is not held
back for want of content, and now and then while there is nothing to say, so that a broken connection is noticed.
"""

import struct
from collections.abc import AsyncIterator
from typing import Final, Protocol

_LENGTH: Final = struct.Struct("<I")
MAX_FRAME: Final = 1 << 20
ALIVE: Final = _LENGTH.pack(0)
"""An empty frame."""


class Chunks(Protocol):
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


def frame(content: bytes) -> bytes:
    """One frame; `content` is at most MAX_FRAME bytes."""
    return _LENGTH.pack(len(content)) + content


async def unframed(chunks: Chunks) -> AsyncIterator[bytes]:
    """The contents of the frames in a stream cut anywhere; empty ones among them. Raises ConnectionResetError for a
    stream that ends within a frame or makes no sense. Whichever way it ends, the stream is closed."""
    buffer = bytearray()
    try:
        async for chunk in chunks:
            buffer += chunk
            while len(buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer)
                if length > MAX_FRAME:
                    raise ConnectionResetError("the stream of a file makes no sense")
                end = _LENGTH.size + length
                if end > len(buffer):
                    break
                content = bytes(buffer[_LENGTH.size : end])
                del buffer[:end]
                yield content
        if buffer:
            raise ConnectionResetError("the stream of a file broke off")
    finally:
        await chunks.aclose()
