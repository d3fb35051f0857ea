"""Damages image files of every format that Pillow writes, and decodes them.

    python -m fuzz_images [--files COUNT] [--seed SEED]     from python_tests/

Whatever the bytes, the outcome is an image or an error that names the file, within seconds and a bound on memory. What
crashes, hangs or floods ends the program, and is left in a folder fuzz_images_* among the temporary files.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import io
import logging
import random
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from image_bytes import png, tiff
from PIL import Image

from visgen_fast.data.folder import ImageFolder
from visgen_fast.errors import UserError

SECONDS = 10
BYTES = 4 << 30  # more than there is by then


@functools.cache
def originals() -> list[tuple[str, bytes]]:
    """Small files in every format and mode that Pillow writes, and in depths that it only reads."""
    Image.init()
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 4)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    files: list[tuple[str, bytes]] = []
    for kind in sorted(set(Image.SAVE) - {"PDF", "EPS", "PALM"}):
        modes = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "LAB")
        for mode in modes[4:5] if kind == "ICNS" else modes:  # which holds ten sizes up to 1024²
            image = Image.fromarray(noise)
            with contextlib.suppress(Exception):  # not every format has every mode
                image = image.convert(mode) if mode in ("RGBA", "LA") else image.convert("RGB").convert(mode)
                for options in ({}, {"exif": exif}):
                    file = io.BytesIO()
                    image.save(file, kind, **options)
                    files.append((f"{kind} {mode}", file.getvalue()))
    files.append(("PNG of 16 bits", png(noise[..., :3].astype(int) * 257, bits=16, transparent=(1, 2, 3))))
    files.append(("TIFF of floats", tiff(noise[..., 0].astype("<f4").tobytes(), (20, 24), bits=32, sample_format=3)))
    return files


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The file with some bytes changed, cut, doubled or taken out, mostly near its start, where sizes stand."""
    result = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = min(int(chance.expovariate(1 / chance.choice((20, 100, 1000)))), len(result) - 1)
        match chance.randrange(6):
            case 0:
                result[at] = chance.randrange(256)
            case 1:
                result[at] ^= 1 << chance.randrange(8)
            case 2:
                result[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"))
            case 3:
                result[at : at + chance.randrange(1, 8)] = b""
            case 4:
                result[at:at] = result[at : at + chance.randrange(1, 64)]
            case _:
                del result[max(at, 8) :]
        result = result or bytearray(b"\0")
    return bytes(result)


def check(path: Path, content: bytes) -> bool:
    """Reads a folder with this file alone; whether there was an image. AssertionError for any other outcome."""
    path.write_bytes(content)
    try:
        pixels, labels, complaints = ImageFolder(path.parent, 16).read([0])
    except UserError as error:
        assert str(path.parent) in str(error)
        return False
    assert pixels.shape == (1, 3, 16, 16) and pixels.dtype == torch.uint8 and labels.tolist() == [0]
    assert complaints == ()
    return True


def fuzz(count: int, seed: int = 0) -> int:
    """Checks `count` damaged files; how many of them still were images."""
    chance, files = random.Random(seed), originals()
    images = 0
    with tempfile.TemporaryDirectory(prefix="fuzz_images_") as folder:
        for number in range(count):
            name, content = chance.choice(files)
            broken = damaged(content, chance)
            try:
                faulthandler.dump_traceback_later(SECONDS, exit=True)
                images += check(Path(folder) / "image", broken)
                faulthandler.cancel_dump_traceback_later()
            except BaseException:
                print(f"number {number} of seed {seed}, {name}:\n{broken.hex()}", file=sys.stderr)
                raise
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    images = fuzz(options.files, options.seed)
    print(f"{images} of {options.files} damaged files are images, and the others are refused")


if __name__ == "__main__":
    main()
