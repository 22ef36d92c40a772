"""Read an animated PNG back and check that it is what was ordered."""

import struct
import zlib

from assemble import chunks


class WrongPicture(Exception):
    """The picture is not what it should be; the text says why."""


def check_film(data: bytes, frames: int, width: int, height: int) -> None:
    """Raises WrongPicture unless `data` is an animated PNG of so many frames of that size, none of them blank, and not
    all alike."""
    try:
        parts = chunks(data)
        size = struct.unpack_from(">II", next(content for kind, content in parts if kind == b"IHDR"))
        declared = struct.unpack_from(">I", next(content for kind, content in parts if kind == b"acTL"))[0]
    except (ValueError, StopIteration, struct.error) as error:
        raise WrongPicture(f"it cannot be read as an animated PNG ({error})") from error
    if size != (width, height):
        raise WrongPicture(f"it is {size[0]}x{size[1]}, not {width}x{height}")
    controls = sum(kind == b"fcTL" for kind, _ in parts)
    if declared != frames or controls != frames:
        raise WrongPicture(f"it declares {declared} frames and has {controls}, not {frames}")

    pictures = []
    for kind, content in parts:
        if kind == b"fcTL":
            pictures.append(b"")
        elif kind == b"IDAT":
            pictures[-1] += content
        elif kind == b"fdAT":
            pictures[-1] += content[4:]
    seen = set()
    for number, packed in enumerate(pictures):
        try:
            pixels = zlib.decompress(packed)
        except zlib.error as error:
            raise WrongPicture(f"frame {number} is damaged ({error})") from error
        if len(pixels) != height * (width + 1):
            raise WrongPicture(f"frame {number} has {len(pixels)} bytes, not {height * (width + 1)}")
        if len(set(pixels)) < 3:
            raise WrongPicture(f"frame {number} is blank")
        seen.add(pixels)
    if len(seen) < frames:
        raise WrongPicture(f"only {len(seen)} of its {frames} frames are different from each other")
