"""Any folder of pictures, optionally one sub-folder a class."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import UserError
from .pictures import PictureFormat

logger = logging.getLogger(__name__)


class PictureFolder:
    """The pictures of a folder as RGB, resized and centre-cropped to `size`×`size` when they are read.

    With sub-folders, each of them is a class and holds its pictures at any depth, and files beside the sub-folders are
    odd ones out; without, all pictures are of one class. Files that aren't pictures are named in the log, skipped and
    counted. A file whose header is sound but whose content turns out damaged when it is read stands back for the next
    one, always the same, so that the order of the data stays a function of the position. Raises `UserError` if no
    picture is left.
    """

    def __init__(self, folder: Path, size: int) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        class_names, files = _list_files(folder)
        with ThreadPoolExecutor() as threads:
            complaints = list(threads.map(lambda file: _complaint(*file), files))
        for complaint in filter(None, complaints):
            logger.warning("skipped %s", complaint)
        kept = [file for file, complaint in zip(files, complaints, strict=True) if not complaint]
        self.skipped = len(files) - len(kept)
        if self.skipped:
            logger.warning("skipped %d of %d files in %s", self.skipped, len(files), folder)
        if not kept:
            raise UserError(f"{folder} has no readable pictures ({len(files)} other files)")
        self.folder = folder
        self.paths = [str(path) for path, _ in kept]
        self.labels = torch.tensor([label for _, label in kept])
        self.format = PictureFormat(size, 3, tuple(class_names))

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        pixels, labels = [], []
        complaints: list[str] = []
        for index in indices:
            picture, label = self._read_one(index, complaints)
            pixels.append(picture)
            labels.append(label)
        return torch.stack(pixels), torch.stack(labels), tuple(complaints)

    def _read_one(self, index: int, complaints: list[str]) -> tuple[Tensor, Tensor]:
        for candidate in range(index, index + len(self)):
            candidate %= len(self)
            try:
                return decode(self.paths[candidate], self.format.size), self.labels[candidate]
            except Exception as error:  # Pillow's decoders raise errors of many types on damaged files.
                complaints.append(f"{self.paths[candidate]}: {error}")
        raise UserError(f"none of the pictures in {self.folder} can be decoded any more")


def decode(path: str | os.PathLike[str], size: int) -> Tensor:
    """A file's picture as uint8 [3, size, size]: upright, on white where transparent, resized and centre-cropped."""
    with Image.open(path) as image:
        picture = ImageOps.exif_transpose(image)
        if picture.mode.startswith("I;16"):
            # Pillow would clip 16-bit values at 255 instead of scaling them.
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = ImageOps.fit(picture.convert("RGB"), (size, size), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _list_files(folder: Path) -> tuple[list[str], list[tuple[Path, int | None]]]:
    """The names of the classes, and every file with its label, or None where it belongs to no class; sorted."""
    entries = sorted(folder.iterdir())
    sub_folders = [entry for entry in entries if entry.is_dir()]
    if not sub_folders:
        return [folder.name], [(entry, 0) for entry in entries]
    files: list[tuple[Path, int | None]] = [(entry, None) for entry in entries if not entry.is_dir()]
    for label, sub_folder in enumerate(sub_folders):
        files += [(path, label) for path in sorted(sub_folder.rglob("*")) if not path.is_dir()]
    return [sub_folder.name for sub_folder in sub_folders], files


def _complaint(path: Path, label: int | None) -> str | None:
    """Why this file cannot be a training picture, judged by its place and its header; None if it can."""
    if label is None:
        return f"{path}: it lies beside the folders of the classes, in none of them"
    try:
        with Image.open(path) as image:
            return f"{path}: it has no pixels" if 0 in image.size else None
    except Exception as error:  # Pillow's parsers raise errors of many types on files that are no pictures.
        return f"{path}: {error}"
