"""Image files of any format, depth and mode, as square RGB pixels."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError
from ..untrusted import MOST_PIXELS, open_file

# Pillow gives PostScript to an interpreter, and has only stubs for the others.
_NOT_IMAGES = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
# TIFF's tags. Of the formats of samples, 1 is unsigned and 2 is signed.
_BITS, _POLARITY, _SAMPLE_FORMAT = 258, 262, 339
_ORIENTATION = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # orientations whose sides are exchanged
# What stands for white where the file doesn't say.
_WHITES = (1, 255, 65535, 2**31 - 1, 2**32 - 1)


def decode(path: str | os.PathLike[str] | bytes, size: int | Sequence[int]) -> Tensor:
    """The image of a file, or of its content, as uint8 [3, size, size], or [3, *size] for (height, width).

    It is upright, on white where transparent, resized and centre-cropped.

    Deeper pixels are scaled to eight bits: 16-bit ones by their full range; of 32-bit integers and floats, white is the
    smallest of 1 (floats alone), 255, 65535 and the largest integers that no pixel exceeds, and negative values and NaN
    are black. Where the orientation cannot be read, the image stays as it is stored. Of several images in a file, the
    first one is taken.

    Raises errors of many types for a damaged file, as Pillow's decoders do, and `UserError` for more than
    `untrusted.MOST_PIXELS` pixels and for what isn't a regular file.
    """
    height, width = (size, size) if isinstance(size, int) else size
    with _upright(path) as image:
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def aspect_ratio(path: str | os.PathLike[str] | bytes) -> float:
    """The width of an image over its height, once it is upright, by its header. Raises as `decode` does."""
    with _unwarned(), opened(path) as image:
        ratio = image.width / image.height
        return 1 / ratio if _orientation(image) in _LYING else ratio


def as_png(path: str | os.PathLike[str]) -> bytes:
    """A file's image as the content of a PNG file that has its pixels and nothing else, as `decode` reads them.

    Its size stays. Raises as `decode` does.
    """
    with _upright(path) as image:
        written = io.BytesIO()
        Image.fromarray(np.array(image)).save(written, "PNG")
    return written.getvalue()


@contextmanager
def _upright(path: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """A file's image in RGB, upright and on white, for as long as this lasts."""
    with _unwarned(), opened(path) as file:
        _scale_transparency(file)
        _load(file)
        image = _eight_bits(file) if file.mode[0] in "IF" else file
        upright = _UPRIGHT.get(_orientation(file))
        if upright is not None:
            image = image.transpose(upright)
        yield on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """An image in RGB, on white where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def complaints(paths: Sequence[Path]) -> dict[Path, str]:
    """Why some files cannot be training images, judged by their headers; those that can are left out."""
    # Warnings are those of all threads.
    with ThreadPoolExecutor() as threads, _unwarned():
        return {path: why for path, why in zip(paths, threads.map(_complaint, paths), strict=True) if why}


def _complaint(path: Path) -> str | None:
    try:
        with opened(path) as image:
            return "it has no pixels" if 0 in image.size else None
    except UnidentifiedImageError:
        return "it is no image of a kind that can be read"
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # Pillow's parsers raise errors of many types on files that are no images.
        return str(error) or type(error).__name__


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without Pillow's warnings, of sizes that are allowed here and of metadata that is not needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(path: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """A file's image, or that of its content, for as long as this lasts; nothing is decoded yet."""
    stream = io.BytesIO(path) if isinstance(path, bytes) else open_file(path)
    with stream as content, Image.open(content, formats=_formats()) as file:
        pixels = file.width * file.height
        if pixels > MOST_PIXELS:
            named = "it" if isinstance(path, bytes) else os.fspath(path)
            raise UserError(f"{named} has {pixels} pixels, and at most {MOST_PIXELS} are read")
        yield file


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_IMAGES)


def _load(file: Image.Image) -> None:
    """Reads a file's pixels, whatever is wrong with the metadata around them."""
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        read_metadata = file.load_end

        def forgiving() -> None:
            try:
                read_metadata()
            except Exception:  # The pixels are there by now, but not turned yet.
                file._size = file.im.size

        setattr(file, "load_end", forgiving)  # noqa: B010  of this one object
    file.load()


def _orientation(file: Image.Image) -> int:
    """The number by which EXIF says how to turn the image; 1 where that cannot be read."""
    try:
        orientation = file.getexif().get(_ORIENTATION, 1)
    except Exception:  # Broken metadata raises errors of many types and says nothing about the pixels.
        return 1
    return orientation if isinstance(orientation, int) else 1


def _scale_transparency(file: Image.Image) -> None:
    """Brings the colour that stands for transparency to the scale of the decoded pixels.

    Pillow leaves it on the scale of the file, where PNG has 2, 4 or 3 × 16 bits.
    """
    colour = file.info.get("transparency")
    raw = file.tile[0].args if isinstance(file, PngImagePlugin.PngImageFile) and file.tile else None
    if raw == "RGB;16B" and isinstance(colour, tuple):
        file.info["transparency"] = tuple(value >> 8 for value in colour)
    if raw in ("L;2", "L;4") and isinstance(colour, int):
        file.info["transparency"] = colour * (85 if raw == "L;2" else 17)


def _eight_bits(file: Image.Image) -> Image.Image:
    """A grey image of deeper pixels, scaled to eight bits; with opacity, where one of its values is transparent."""
    tags = getattr(file, "tag_v2", {})
    values = np.asarray(file)
    if values.dtype == np.int32 and tags.get(_SAMPLE_FORMAT, (2,))[0] == 1:
        values = values.view(np.uint32)  # which Pillow has no mode for
    white = _white(file, values, tags)
    scaled = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=white, neginf=0.0).clip(0, white)
    if tags.get(_POLARITY) == 0:
        scaled = white - scaled
    grey = Image.fromarray((scaled * (255 / white) + 0.5).astype(np.uint8))
    colour = file.info.get("transparency")
    if colour is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(values == colour, 0, 255).astype(np.uint8))))


def _white(file: Image.Image, values: np.ndarray, tags: Mapping[int, tuple[int, ...]]) -> int:
    """The value of white among deep grey pixels."""
    if file.mode.startswith("I;16") or file.format == "PPM" and file.mode == "I":
        return 2 ** tags.get(_BITS, (16,))[0] - 1
    if file.mode == "I" and tags.get(_BITS) == (16,):
        return 2**15 - 1  # with a sign
    largest = values[np.isfinite(values)].max(initial=0)
    whites = _WHITES if file.mode == "F" else _WHITES[1:]
    return next((white for white in whites if largest <= white), int(largest))
