"""Any folder of images, or of files of another kind, optionally one sub-folder a class."""

from __future__ import annotations

import copy
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import UserError
from .image_file import complaints, decode
from .images import ImageFormat, of_files, readable_ones, sha256_of

logger = logging.getLogger(__name__)
_MOST_NAMED = 100

F = TypeVar("F", bound="ImageFolder")


class ImageFolder:
    """The images of a folder as RGB, resized and centre-cropped to `size`×`size` when they are read.

    Each sub-folder that has readable images, at any depth, is a class, and files beside these sub-folders are odd
    ones out; without such sub-folders, all images are of one class. Names that begin with a dot are ignored, links are
    followed, but to a folder only once. Files that aren't images and folders without any, or that may not be read, are
    skipped and counted, and the first hundred are named in the log. A file whose header is
    sound but whose content turns out damaged when it is read stands back for the next one, always the same, so that the
    order of the data stays a function of the position. Raises `UserError` if no image is left.
    """

    kind = "images"

    def __init__(self, folder: Path, size: int) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        classes, wrong = _find_images(folder, self._complaints, self.kind)
        # Captions (`captions.py`) are no odd ones out.
        captions = {path.with_suffix(".txt") for paths in classes.values() for path in paths}
        wrong = {path: why for path, why in wrong.items() if path not in captions}
        for path, why in sorted(wrong.items())[:_MOST_NAMED]:
            logger.warning("skipped %s: %s", path, why)
        self.skipped = len(wrong)
        if not classes:
            raise UserError(f"{folder} has no readable {self.kind} ({self.skipped} other files and sub-folders)")
        self.folder = folder
        self.paths = [str(path) for paths in classes.values() for path in paths]
        self.labels = torch.tensor([label for label, paths in enumerate(classes.values()) for _ in paths])
        self.format = ImageFormat(height=size, width=size, channels=3, class_names=tuple(classes))
        if self.skipped:
            found = len(self.paths), self.kind
            logger.warning("skipped %d files and sub-folders beside %d %s in %s", self.skipped, *found, folder)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        images, chosen, complaints = readable_ones(len(self), indices, self._image, str(self.folder))
        return images, self.labels[torch.tensor(chosen)], complaints

    def only(self: F, places: Sequence[int]) -> F:
        """Those at these places alone."""
        made = copy.copy(self)
        made.paths, made.labels = [self.paths[place] for place in places], self.labels[torch.tensor(places)]
        return made

    def content(self, index: int) -> str:
        """The file of an image, for its header."""
        return self.paths[index]

    def fingerprint(self) -> str:
        return sha256_of(of_files(self.paths), self.labels.tolist())

    def _complaints(self, paths: Sequence[Path]) -> dict[Path, str]:
        """Why some of the files cannot be read."""
        return complaints(paths)

    def _image(self, index: int) -> Tensor:
        try:
            return self._decoded(index)
        except Exception as error:  # Pillow's decoders raise errors of many types on damaged files.
            raise ValueError(f"{self.paths[index]}: {error}") from error

    def _decoded(self, index: int) -> Tensor:
        return decode(self.paths[index], self.format.shape[-2:])


def _find_images(
    folder: Path, complaints: Callable[[Sequence[Path]], dict[Path, str]], kind: str
) -> tuple[dict[str, list[Path]], dict[Path, str]]:
    """The readable files of every class by its name, sorted, and what is wrong with everything else."""
    wrong: dict[Path, str] = {}
    sub_folders, beside = _list(folder)
    files: dict[Path, list[Path]] = {}
    for sub_folder in sub_folders:
        files[sub_folder], found = _files_below(sub_folder, {_identity(folder)})
        wrong |= found
    wrong |= complaints([*beside, *itertools.chain.from_iterable(files.values())])
    readable = {name: [path for path in paths if path not in wrong] for name, paths in files.items()}
    empty = {sub_folder: f"it has no readable {kind}" for sub_folder, paths in readable.items() if not paths}
    wrong = empty | wrong
    classes = {sub_folder.name: paths for sub_folder, paths in readable.items() if paths}
    if classes:
        wrong |= dict.fromkeys(beside, "it lies beside the folders of the classes, in none of them")
        return classes, wrong
    images = [path for path in beside if path not in wrong]
    return ({folder.name: images} if images else {}), wrong


def _files_below(folder: Path, seen: set[tuple[int, int]]) -> tuple[list[Path], dict[Path, str]]:
    """The files in a folder at any depth, sorted, links followed, and what is wrong with the folders in it.

    `seen` are the folders that are not to be read again; a link that leads to one of them would never end.
    """
    files: list[Path] = []
    wrong: dict[Path, str] = {}
    folders = [folder]
    while folders:
        current = folders.pop()
        try:
            identity, (inside, found) = _identity(current), _list(current)
        except OSError as error:
            wrong[current] = error.strerror or str(error)
            continue
        if identity in seen:
            wrong[current] = "it is a link to a folder that is read already"
            continue
        seen.add(identity)
        folders += reversed(inside)
        files += found
    return sorted(files), wrong


def _list(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted, without those that a leading dot hides."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    are_folders = {path: os.path.isdir(path) for path in paths}
    return [path for path in paths if are_folders[path]], [path for path in paths if not are_folders[path]]


def _identity(folder: Path) -> tuple[int, int]:
    """What a folder is, by whatever name it is reached."""
    status = folder.stat()
    return status.st_dev, status.st_ino
