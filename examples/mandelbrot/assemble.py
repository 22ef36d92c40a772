"""Put PNG frames together into one animated PNG. Standard library only: it runs on a bare node.

    python3 assemble.py FRAMES_DIRECTORY COUNT OUTPUT.png

Prints one JSON line: how many frames, and the CPU seconds each of them says it cost. The frames must be of one size and
one palette, numbered frame-0000.png and on; a missing or broken one is an error.
"""

import json
import os
import struct
import sys
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FRAMES_PER_S = 20
LAST_FRAME_S = 2


def chunks(data: bytes) -> "list[tuple[bytes, bytes]]":
    """(kind, content) of every chunk of a PNG. Raises ValueError when it is none, or a checksum is wrong."""
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG")
    found = []
    at = len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if len(content) != length or data[at + 8 + length : at + 12 + length] != checksum(kind, content):
            raise ValueError("a chunk is cut short or damaged")
        found.append((kind, content))
        at += 12 + length
    return found


def checksum(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(kind + content))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + checksum(kind, content)


def frame_control(sequence: int, head: bytes, *, last: bool) -> bytes:
    width, height = struct.unpack_from(">II", head)
    delay = (LAST_FRAME_S, 1) if last else (1, FRAMES_PER_S)
    return struct.pack(">IIIIIHHBB", sequence, width, height, 0, 0, *delay, 0, 0)


def assemble(directory: str, count: int) -> "tuple[bytes, list[float]]":
    """The animated PNG, and the cost of each frame."""
    out = bytearray(SIGNATURE)
    costs = []
    sequence = 0
    common: list[bytes] = []
    for number in range(count):
        path = os.path.join(directory, f"frame-{number:04}.png")
        with open(path, "rb") as file:
            parts = chunks(file.read())
        by_kind: dict[bytes, bytes] = {}
        for kind, content in parts:
            by_kind[kind] = by_kind.get(kind, b"") + content
        shape = [by_kind[b"IHDR"], by_kind[b"PLTE"]]
        if number == 0:
            common = shape
            out += chunk(b"IHDR", shape[0]) + chunk(b"acTL", struct.pack(">II", count, 0)) + chunk(b"PLTE", shape[1])
        elif shape != common:
            raise ValueError(f"{path} has another size or palette than the first frame")
        out += chunk(b"fcTL", frame_control(sequence, shape[0], last=number == count - 1))
        sequence += 1
        if number == 0:
            out += chunk(b"IDAT", by_kind[b"IDAT"])
        else:
            out += chunk(b"fdAT", struct.pack(">I", sequence) + by_kind[b"IDAT"])
            sequence += 1
        keyword, _, cost = by_kind.get(b"tEXt", b"").partition(b"\0")
        costs.append(float(cost) if keyword == b"cpu_s" else 0.0)
    return bytes(out + chunk(b"IEND", b"")), costs


def main() -> None:
    directory, count, output = sys.argv[1:]
    picture, costs = assemble(directory, int(count))
    with open(output, "wb") as file:
        file.write(picture)
    print(json.dumps({"frames": len(costs), "cpu_s": costs}))


if __name__ == "__main__":
    main()
