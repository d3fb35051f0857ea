"""What somebody else wrote: how it is read and shown, and bounds on what it may ask for.

A folder of images or a downloaded checkpoint may hold anything. Every bound on it stands here: each is far above what
honest files need, and small enough that a machine which can train at all survives it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import UserError

# An image is decoded at four bytes a pixel, and up to three times at once: 1.5 GiB.
MOST_PIXELS = 2**27
# An IDX file's values, one byte each. The largest of MNIST's descendants, EMNIST, has 0.6 · 10⁹.
MOST_IDX_VALUES = 2**31
MOST_IDX_DIMENSIONS = 8

# A checkpoint's state.json, of which class names are most, and the images that it describes.
MOST_STATE_BYTES = 2**24
MOST_IMAGE_SIDE = 4096
MOST_CHANNELS = 64
MOST_FRAMES = 1024
MOST_CLASSES = 2**20
MOST_CHARACTERS_OF_A_CLASS = 10_000
# What a checkpoint's settings may build: tables of positions and the like beside its weights, and layers without any.
MOST_ELEMENTS_BESIDE_WEIGHTS = 2**28
MOST_MODULES_PER_WEIGHT = 20
# What needs no weights, and is therefore bounded where it stands among the settings.
MOST_SAMPLING_STEPS = 10_000
MOST_QUANTIZER_DEPTH = 1000
MOST_CODES = 2**20  # of an image in an order
MOST_BEAM = 1000
# Of a text from a file that is shown: a sentence, and the name of a row in a figure.
MOST_CHARACTERS = 2000
MOST_CHARACTERS_OF_A_NAME = 40
# Format characters that join letters and emoji; all others may turn a text around or hide parts of it.
_JOINERS = "\u200c\u200d"


def escaped(text: object, most: int = MOST_CHARACTERS) -> str:
    """A text that may come from a file, to be shown: on one line, without control characters, cut if endless."""
    whole = str(text)
    shown = whole[:most] + ("…" if len(whole) > most else "")
    return "".join(sign if sign.isprintable() or sign in _JOINERS else escape(sign) for sign in shown)


def escape(sign: str) -> str:
    """A character as Python would write it in ASCII."""
    return sign.encode("unicode_escape").decode("ascii")


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file for reading; raises `UserError` for a pipe, a socket, a device or a folder, and never waits.

    OSError where it is not there or may not be read.
    """
    # Without O_NONBLOCK, opening a named pipe waits for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{os.fspath(path)} is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, most: int) -> bytes:
    """A file's content; raises `UserError` as `open_file` does, and where there are more than `most` bytes."""
    with open_file(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path} is larger than {most} bytes")
    return content
