"""Makes the index by which images in tar files, as WebDataset writes them, are read in any order.

A sample is the files of one name up to its first dot: KEY.jpg, or another kind of image, and KEY.cls, the number of its
class. Without any .cls file all images are of one class.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save_file

from ..errors import UserError, writing
from ..untrusted import MOST_CLASSES, escaped
from .ranges import file_system
from .tar_shards import COLUMNS, FORMAT, INDEX

logger = logging.getLogger(__name__)

_IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "tif", "tiff"}
_MOST_NAMED = 100
_MOST_DIGITS = 20

# A shard's name, its size in bytes, and what opens it.
Shard = tuple[str, int, Callable[[], Any]]


def make_index(folder: Path, elsewhere: str | None = None, cache_bytes: int = 0) -> tuple[int, int]:
    """Writes into `folder` the index of the tar files there, or of those `elsewhere`, the URL of a folder for fsspec.

    Of shards elsewhere, images that were read are kept in `folder`/cache, at most `cache_bytes` of them. Returns how
    many images there are, and what was skipped. Raises `UserError` if there are no tar files, or no images in them.
    """
    found, skipped, sizes = _Found(), _Skipped(), {}
    for number, (name, size, opened) in enumerate(_local(folder) if elsewhere is None else _remote(elsewhere)):
        sizes[name] = size
        with opened() as file:
            for sample in _samples(f"{elsewhere or folder}/{name}", size, file, skipped):
                found.add(number, sample)
    if not sizes:
        raise UserError(f"{elsewhere or folder} has no tar files")
    labelled = [label >= 0 for label in found.columns["label"]]
    if not labelled:
        raise UserError(f"the tar files in {elsewhere or folder} have no images")
    kept = torch.tensor(labelled) if any(labelled) else torch.ones(len(labelled), dtype=torch.bool)
    if int((~kept).sum()):
        skipped.note(f"{int((~kept).sum())} images", "they have no .cls file, as others have", int((~kept).sum()))
    columns = {name: torch.tensor(found.columns[name], dtype=dtype)[kept] for name, dtype in COLUMNS.items()}
    columns["label"] = columns["label"].clamp(min=0)
    place = {} if elsewhere is None else {"elsewhere": elsewhere, "cache_bytes": cache_bytes}
    described = {"format": FORMAT, "shards": sizes, **place}
    with writing(folder / INDEX) as path:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}")
        save_file(columns, unfinished, metadata={"index": json.dumps(described)})
        unfinished.replace(path)
    return int(kept.sum()), skipped.count


def _local(folder: Path) -> Iterator[Shard]:
    for path in sorted(path for path in folder.glob("*.tar") if path.is_file()):
        yield path.name, path.stat().st_size, partial(path.open, "rb")


def _remote(root: str) -> Iterator[Shard]:
    """Raises `UserError` where fsspec cannot list the folder."""
    files, path = file_system(root)
    try:
        found = sorted(files.glob(f"{path}/*.tar", detail=True).items())
    except Exception as error:  # of many types, by the kind of store
        raise UserError(f"the tar files in {root} cannot be listed: {escaped(error)}") from error
    for name, about in found:
        yield name.rpartition("/")[2], int(about["size"]), partial(files.open, name, "rb")


@dataclass
class _Sample:
    key: str
    start: int = -1
    size: int = 0
    label: int = -1


@dataclass
class _Found:
    columns: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    def add(self, shard: int, sample: _Sample) -> None:
        for name, value in zip(COLUMNS, (shard, sample.start, sample.size, sample.label), strict=True):
            self.columns[name].append(value)


@dataclass
class _Skipped:
    """Counts what is skipped, and names the first hundred."""

    count: int = 0

    def note(self, what: object, why: object, count: int = 1) -> None:
        if self.count < _MOST_NAMED:
            logger.warning("skipped %s: %s", escaped(what), escaped(why))
        self.count += count


def _samples(shard: str, size: int, file: BinaryIO, skipped: _Skipped) -> Iterator[_Sample]:
    """The samples of a shard that have an image; whatever is wrong with the others, or with the shard, is noted."""
    sample = _Sample("")
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # which would grow with every file
                folder, _, name = member.name.rpartition("/")
                key, _, kind = name.partition(".")
                key = f"{folder}/{key}"
                if not member.isreg():
                    continue
                if member.offset_data + member.size > size:
                    skipped.note(f"{shard}/{member.name}", "the shard ends inside it")
                    break
                if key != sample.key:
                    if sample.start >= 0:
                        yield sample
                    sample = _Sample(key)
                if kind.lower() in _IMAGES and sample.start < 0:
                    sample.start, sample.size = member.offset_data, member.size
                elif kind.lower() == "cls":
                    content = tar.extractfile(member)
                    assert content is not None  # of a regular file
                    sample.label = _label(content.read(_MOST_DIGITS))
                    if sample.label < 0:
                        skipped.note(f"{shard}/{member.name}", f"it has no class number below {MOST_CLASSES}")
    except (tarfile.TarError, OSError, EOFError) as error:
        skipped.note(shard, f"it is no uncompressed tar file, or is cut off ({error})")
    if sample.start >= 0:
        yield sample


def _label(content: bytes) -> int:
    """The class that a .cls file names, −1 where it names none."""
    text = content.strip()
    return int(text) if text.isdigit() and int(text) < MOST_CLASSES else -1
