"""Images in tar files, as WebDataset writes them, read by an index that is made once.

A sample is the files of one name up to its first dot: KEY.jpg, or another kind of image, and KEY.cls, the number of its
class. Without any .cls file all images are of one class. `visgen-fast index` makes the index.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError, writing
from ..untrusted import MOST_CLASSES, MOST_STATE_BYTES, escaped
from .image_file import decode
from .images import ImageFormat, readable_ones

logger = logging.getLogger(__name__)

INDEX = "visgen-fast-index.safetensors"
_FORMAT = "visgen_fast index 1"
_IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "tif", "tiff"}
_COLUMNS = {"shard": torch.int32, "start": torch.int64, "size": torch.int64, "label": torch.int64}
_MOST_OPEN = 2048
_MOST_NAMED = 100
_MOST_DIGITS = 20


class TarShards:
    """The images of the tar files in `folder`, resized and centre-cropped to `size`×`size` RGB when they are read.

    Of the index each image takes 28 bytes of memory, which loading processes share. An image that cannot be decoded, or
    that a shard no longer holds, stands back for the next one, always the same. Raises `UserError` where there is no
    index, or a shard of it is gone; a shard that has changed since is named in the log.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        shards, columns = _load(folder / INDEX)
        self.shards = [folder / name for name in shards]
        self.labels = columns["label"]
        # Of arrays, a number costs a tenth of what it costs of tensors.
        self.shard, self.start, self.size = (columns[name].numpy() for name in ("shard", "start", "size"))
        for path, expected in zip(self.shards, shards.values(), strict=True):
            if not path.is_file():
                raise UserError(f"the shard {path} is gone: visgen-fast index {folder} makes an index without it")
            if path.stat().st_size != expected:
                logger.warning("%s has %d bytes, not the %d of its index", path, path.stat().st_size, expected)
        count = int(self.labels.max()) + 1
        names = [str(label) for label in range(count)] if count > 1 else [folder.name]
        self.format = ImageFormat(height=size, width=size, channels=3, class_names=tuple(names))
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        images, chosen, complaints = readable_ones(len(self), indices, self._image, str(self.folder))
        return images, self.labels[torch.tensor(chosen)], complaints

    def _image(self, index: int) -> Tensor:
        shard, start, size = self.shard.item(index), self.start.item(index), self.size.item(index)
        try:
            content = os.pread(self._descriptor(shard), size, start)
            if len(content) < size:
                raise ValueError("the shard ends inside it")
            return decode(content, self.format.size)
        except Exception as error:  # Pillow's decoders raise errors of many types on damaged images.
            raise ValueError(f"{self.shards[shard]}, the image at byte {start}: {error}") from error

    def _descriptor(self, shard: int) -> int:
        """Of an open shard; the last ones used stay open."""
        if shard not in self._open:
            self._open[shard] = os.open(self.shards[shard], os.O_RDONLY | os.O_CLOEXEC)
            if len(self._open) > _most_open():
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]


def _most_open() -> int:
    """How many shards may be open: half of the files that a process may have."""
    return min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


def make_index(folder: Path) -> tuple[int, int]:
    """Writes the index of the tar files in `folder`. Returns how many images they have, and what was skipped.

    Raises `UserError` if there are no tar files, or no images in them.
    """
    shards = sorted(path for path in folder.glob("*.tar") if path.is_file())
    if not shards:
        raise UserError(f"{folder} has no tar files")
    found, skipped = _Found(), _Skipped()
    for number, path in enumerate(shards):
        for sample in _samples(path, skipped):
            found.add(number, sample)
    labelled = [label >= 0 for label in found.columns["label"]]
    if not labelled:
        raise UserError(f"the tar files in {folder} have no images")
    kept = torch.tensor(labelled) if any(labelled) else torch.ones(len(labelled), dtype=torch.bool)
    if int((~kept).sum()):
        skipped.note(f"{int((~kept).sum())} images", "they have no .cls file, as others have", int((~kept).sum()))
    columns = {name: torch.tensor(found.columns[name], dtype=dtype)[kept] for name, dtype in _COLUMNS.items()}
    columns["label"] = columns["label"].clamp(min=0)
    described = {"format": _FORMAT, "shards": {path.name: path.stat().st_size for path in shards}}
    with writing(folder / INDEX) as path:
        unfinished = path.with_name(f".{path.name}")
        save_file(columns, unfinished, metadata={"index": json.dumps(described)})
        unfinished.replace(path)
    return int(kept.sum()), skipped.count


@dataclass
class _Sample:
    key: str
    start: int = -1
    size: int = 0
    label: int = -1


@dataclass
class _Found:
    columns: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})

    def add(self, shard: int, sample: _Sample) -> None:
        for name, value in zip(_COLUMNS, (shard, sample.start, sample.size, sample.label), strict=True):
            self.columns[name].append(value)


@dataclass
class _Skipped:
    """Counts what is skipped, and names the first hundred."""

    count: int = 0

    def note(self, what: object, why: object, count: int = 1) -> None:
        if self.count < _MOST_NAMED:
            logger.warning("skipped %s: %s", escaped(what), escaped(why))
        self.count += count


def _samples(path: Path, skipped: _Skipped) -> Iterator[_Sample]:
    """The samples of a shard that have an image; whatever is wrong with the others, or with the shard, is noted."""
    sample, bytes_there = _Sample(""), path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as content:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # which would grow with every file
                key, _, kind = member.name.rpartition("/")[2].partition(".")
                key = f"{member.name.rpartition('/')[0]}/{key}"
                if not member.isreg():
                    continue
                if member.offset_data + member.size > bytes_there:
                    skipped.note(f"{path}/{member.name}", "the shard ends inside it")
                    break
                if key != sample.key:
                    if sample.start >= 0:
                        yield sample
                    sample = _Sample(key)
                if kind.lower() in _IMAGES and sample.start < 0:
                    sample.start, sample.size = member.offset_data, member.size
                elif kind.lower() == "cls":
                    content.seek(member.offset_data)
                    sample.label = _label(content.read(min(member.size, _MOST_DIGITS)))
                    if sample.label < 0:
                        skipped.note(f"{path}/{member.name}", f"it has no class number below {MOST_CLASSES}")
    except (tarfile.TarError, OSError, EOFError) as error:
        skipped.note(path, f"it is no uncompressed tar file, or is cut off ({error})")
    if sample.start >= 0:
        yield sample


def _label(content: bytes) -> int:
    """The class that a .cls file names, −1 where it names none."""
    text = content.strip()
    return int(text) if text.isdigit() and int(text) < MOST_CLASSES else -1


def _load(path: Path) -> tuple[dict[str, int], dict[str, Tensor]]:
    """The names and sizes of an index's shards, and its columns; `UserError` where it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("index", "")
        described = json.loads(text) if len(text) <= MOST_STATE_BYTES else {}
        shards, columns = dict(described["shards"]), load_file(path)
        of_one_length = len({columns[name].shape for name in _COLUMNS}) == 1
        right = all(columns[name].dtype == dtype and columns[name].dim() == 1 for name, dtype in _COLUMNS.items())
        names = all(Path(name).name == name and isinstance(size, int) for name, size in shards.items())
        in_bounds = len(columns["label"]) > 0 and all(int(columns[name].min()) >= 0 for name in _COLUMNS)
        known = int(columns["shard"].max()) < len(shards) and int(columns["label"].max()) < MOST_CLASSES
        if described["format"] != _FORMAT or not (of_one_length and right and names and in_bounds and known):
            raise ValueError("it says other things than an index does")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise UserError(f"{path} is no index that can be read ({error}): visgen-fast index makes a new one") from error
    return shards, columns
