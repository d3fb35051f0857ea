"""Any folder of images, optionally one sub-folder a class."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import UserError
from .images import ImageFormat

logger = logging.getLogger(__name__)


class ImageFolder:
    """The images of a folder as RGB, resized and centre-cropped to `size`×`size` when they are read.

    Each sub-folder that has readable images, at any depth, is a class, and files beside these sub-folders are odd
    ones out; without such sub-folders, all images are of one class. Names that begin with a dot are ignored. Files
    that aren't images and sub-folders without any are named in the log, skipped and counted. A file whose header is
    sound but whose content turns out damaged when it is read stands back for the next one, always the same, so that the
    order of the data stays a function of the position. Raises `UserError` if no image is left.
    """

    def __init__(self, folder: Path, size: int) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        classes, complaints = _find_images(folder)
        for path, complaint in sorted(complaints.items()):
            logger.warning("skipped %s: %s", path, complaint)
        self.skipped = len(complaints)
        if not classes:
            raise UserError(f"{folder} has no readable images ({self.skipped} other files and sub-folders)")
        self.folder = folder
        self.paths = [str(path) for paths in classes.values() for path in paths]
        self.labels = torch.tensor([label for label, paths in enumerate(classes.values()) for _ in paths])
        self.format = ImageFormat(height=size, width=size, channels=3, class_names=tuple(classes))
        if self.skipped:
            logger.warning("skipped %d files and sub-folders beside %d images in %s", self.skipped, len(self), folder)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        pixels, labels = [], []
        complaints: list[str] = []
        for index in indices:
            image, label = self._read_one(index, complaints)
            pixels.append(image)
            labels.append(label)
        return torch.stack(pixels), torch.stack(labels), tuple(complaints)

    def _read_one(self, index: int, complaints: list[str]) -> tuple[Tensor, Tensor]:
        for candidate in range(index, index + len(self)):
            candidate %= len(self)
            try:
                return decode(self.paths[candidate], self.format.size), self.labels[candidate]
            except Exception as error:  # Pillow's decoders raise errors of many types on damaged files.
                complaints.append(f"{self.paths[candidate]}: {error}")
        raise UserError(f"none of the images in {self.folder} can be decoded any more")


def decode(path: str | os.PathLike[str], size: int) -> Tensor:
    """A file's image as uint8 [3, size, size]: upright, on white where transparent, resized and centre-cropped."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I;16"):
            # Pillow would clip 16-bit values at 255 instead of scaling them.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = ImageOps.fit(image.convert("RGB"), (size, size), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _find_images(folder: Path) -> tuple[dict[str, list[Path]], dict[Path, str]]:
    """The readable images of every class by its name, sorted, and what is wrong with everything else."""
    entries = _visible(folder, folder.iterdir())
    beside = [entry for entry in entries if not entry.is_dir()]
    files = {entry: _visible(entry, entry.rglob("*")) for entry in entries if entry.is_dir()}
    files = {sub_folder: [path for path in paths if not path.is_dir()] for sub_folder, paths in files.items()}
    candidates = [*beside, *itertools.chain.from_iterable(files.values())]
    with ThreadPoolExecutor() as threads:
        judged = zip(candidates, threads.map(_complaint, candidates), strict=True)
        complaints = {path: complaint for path, complaint in judged if complaint}
    readable = {name: [path for path in paths if path not in complaints] for name, paths in files.items()}
    complaints |= {sub_folder: "it has no readable images" for sub_folder, paths in readable.items() if not paths}
    classes = {sub_folder.name: paths for sub_folder, paths in readable.items() if paths}
    if classes:
        complaints |= dict.fromkeys(beside, "it lies beside the folders of the classes, in none of them")
        return classes, complaints
    images = [path for path in beside if path not in complaints]
    return ({folder.name: images} if images else {}), complaints


def _visible(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Those of the paths below `folder` that no name on the way hides with a leading dot, sorted."""
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _complaint(path: Path) -> str | None:
    """Why this file cannot be a training image, judged by its header; None if it can."""
    try:
        with Image.open(path) as image:
            return "it has no pixels" if 0 in image.size else None
    except Exception as error:  # Pillow's parsers raise errors of many types on files that are no images.
        return str(error)
