"""Render frames of a zoom into the Mandelbrot set as PNG files. Standard library only: it runs on a bare node.

    python3 render.py --frames 96 --size 320x200 --only 7        writes frame-0007.png
    python3 render.py --frames 96 --size 320x200 --only 3,50     two frames, one process

What a frame cost (CPU seconds) is kept in the picture itself, as a text chunk.
"""

import argparse
import math
import struct
import time
import zlib

CENTRE = (-0.743643887037151, 0.131825904205330)
FIRST_WIDTH = 3.2
LAST_WIDTH = 2e-4
ESCAPE = 256.0
"""Square of the radius past which a point is out: large, so that the shades between two steps are smooth."""


def palette() -> bytes:
    """256 colours: black for the set, then three waves out of phase that meet at their ends."""
    colours = bytearray((0, 0, 0))
    for i in range(255):
        angle = 2 * math.pi * i / 255
        for phase in (0.5, 0.85, 1.25):
            colours.append(round(255 * (0.5 - 0.5 * math.cos(angle + phase * math.pi)) ** 0.9))
    return bytes(colours)


def rows(frame: int, frames: int, width: int, height: int) -> "list[bytearray]":
    """The picture as rows of palette indices."""
    depth = frame / max(1, frames - 1)
    span = FIRST_WIDTH * (LAST_WIDTH / FIRST_WIDTH) ** depth
    limit = int(80 + 260 * depth)
    step = span / width
    left = CENTRE[0] - span / 2
    top = CENTRE[1] + step * height / 2
    log2 = math.log(2)
    picture = []
    for y in range(height):
        ci = top - y * step
        row = bytearray(width)
        for x in range(width):
            cr = left + x * step
            # The two largest discs belong to the set: no need to find out step by step.
            q = (cr - 0.25) ** 2 + ci * ci
            if q * (q + cr - 0.25) <= 0.25 * ci * ci or (cr + 1) ** 2 + ci * ci <= 0.0625:
                continue
            zr = zi = zr2 = zi2 = 0.0
            n = 0
            while zr2 + zi2 <= ESCAPE and n < limit:
                zi = 2 * zr * zi + ci
                zr = zr2 - zi2 + cr
                zr2 = zr * zr
                zi2 = zi * zi
                n += 1
            if n < limit:
                shade = n + 1 - math.log(math.log(zr2 + zi2) / 2) / log2
                row[x] = 1 + int(shade * 5) % 255
        picture.append(row)
    return picture


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(picture: "list[bytearray]", text: bytes) -> bytes:
    """An 8-bit palette PNG with one text chunk."""
    head = struct.pack(">IIBBBBB", len(picture[0]), len(picture), 8, 3, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in picture), 6)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            chunk(b"IHDR", head),
            chunk(b"PLTE", palette()),
            chunk(b"tEXt", text),
            chunk(b"IDAT", pixels),
            chunk(b"IEND", b""),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, required=True, help="frames of the whole film")
    parser.add_argument("--size", required=True, help="WIDTHxHEIGHT")
    parser.add_argument("--only", required=True, help="the frames to render, by number from 0, separated by commas")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    for number in map(int, arguments.only.split(",")):
        begun = time.process_time()
        picture = rows(number, arguments.frames, width, height)
        cpu = time.process_time() - begun
        with open(f"frame-{number:04}.png", "wb") as file:
            file.write(png(picture, b"cpu_s\0" + repr(round(cpu, 4)).encode()))
        print(f"frame {number}: {cpu:.3f} s", flush=True)


if __name__ == "__main__":
    main()
