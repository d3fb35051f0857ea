"""Image files built byte by byte, for what Pillow reads but does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np


def png(pixels: np.ndarray, *, bits: int, transparent: Sequence[int] = (), chunks: Sequence[bytes] = ()) -> bytes:
    """A PNG of grey [H, W] or RGB [H, W, 3] pixels of `bits` bits, with a transparent colour and other chunks."""
    colour = 2 if pixels.ndim == 3 else 0
    flat = pixels.reshape(len(pixels), -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in flat]
    else:
        single = (flat[..., None] >> np.arange(bits)[::-1]) & 1
        rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in single]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks]
    if transparent:
        parts.append(chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff(
    values: bytes,
    size: tuple[int, int],
    *,
    bits: int,
    sample_format: int = 1,
    polarity: int = 1,
    order: str = "<",
    deflated: bool = False,
    more: Sequence[tuple[int, int, int]] = (),
) -> bytes:
    """A TIFF of one grey channel. `more`: (tag, type 3 or 4, value) each."""
    width, height = size
    values = zlib.compress(values) if deflated else values
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 8 if deflated else 1),
        (262, 3, polarity),
        (273, 4, 0),
    ]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, len(values)), (339, 3, sample_format), *more]
    start = 8 + 2 + 12 * len(tags) + 4
    content = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    for tag, kind, value in sorted(tags):
        value = start if tag == 273 else value
        content += struct.pack(f"{order}HHI", tag, kind, 1)
        content += struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    return content + struct.pack(f"{order}I", 0) + values
