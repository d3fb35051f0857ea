"""Images in tar files, as WebDataset writes them, read by the index that `tar_index.make_index` makes once."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError
from ..untrusted import MOST_CLASSES, MOST_STATE_BYTES
from .image_file import decode
from .images import ImageFormat, of_files, readable_ones
from .ranges import LocalRanges, RemoteRanges

logger = logging.getLogger(__name__)

INDEX = "visgen-fast-index.safetensors"
FORMAT = "visgen_fast index 1"
COLUMNS = {"shard": torch.int32, "start": torch.int64, "size": torch.int64, "label": torch.int64}


class TarShards:
    """The images of the tar files that `folder` has an index of, resized and centre-cropped to `size`×`size` RGB.

    Of the index each image takes 28 bytes of memory, which loading processes share. An image that cannot be decoded, or
    that a shard no longer holds, stands back for the next one, always the same. Raises `UserError` where there is no
    index, or a shard of it is gone; a shard that has changed since is named in the log. Shards that lie elsewhere are
    looked at when they are read.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        described, columns = _load(folder / INDEX)
        shards: dict[str, int] = described["shards"]
        self.labels = columns["label"]
        # Of arrays, a number costs a tenth of what it costs of tensors.
        self.shard, self.start, self.size = (columns[name].numpy() for name in ("shard", "start", "size"))
        elsewhere = described.get("elsewhere")
        self.paths = [folder / name for name in shards] if elsewhere is None else []
        self._check(list(shards.values()) if elsewhere is None else [])
        self.files: LocalRanges | RemoteRanges = LocalRanges(self.paths)
        if elsewhere is not None:
            self.files = RemoteRanges(elsewhere, list(shards), folder / "cache", described["cache_bytes"])
        count = int(self.labels.max()) + 1
        names = [str(label) for label in range(count)] if count > 1 else [folder.name]
        self.format = ImageFormat(height=size, width=size, channels=3, class_names=tuple(names))

    def _check(self, sizes: Sequence[int]) -> None:
        for path, expected in zip(self.paths, sizes, strict=True):
            if not path.is_file():
                raise UserError(f"the shard {path} is gone: visgen-fast index {self.folder} makes an index without it")
            if path.stat().st_size != expected:
                logger.warning("%s has %d bytes, not the %d of its index", path, path.stat().st_size, expected)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        # Together, since each answer of a distant machine takes a while.
        there = dict(zip(indices, self.files.read([self._range(index) for index in indices]), strict=True))

        def image(index: int) -> Tensor:
            content = there[index] if index in there else self.files.read([self._range(index)])[0]
            shard, start, size = self._range(index)
            try:
                if len(content) < size:
                    raise ValueError("the shard ends inside it")
                return decode(content, self.format.shape[-2:])
            except Exception as error:  # Pillow's decoders raise errors of many types on damaged images.
                raise ValueError(f"{self.files.names[shard]}, the image at byte {start}: {error}") from error

        images, chosen, complaints = readable_ones(len(self), indices, image, str(self.folder))
        return images, torch.from_numpy(self.labels.numpy()[chosen]), complaints

    def content(self, index: int) -> bytes:
        """The file of an image, for its header."""
        return self.files.read([self._range(index)])[0]

    def fingerprint(self) -> str:
        return of_files([self.folder / INDEX, *self.paths])

    def _range(self, index: int) -> tuple[int, int, int]:
        """The number of an image's shard, its first byte there, and how many it has."""
        return self.shard.item(index), self.start.item(index), self.size.item(index)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What an index says of its shards, and its columns; `UserError` where it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("index", "")
        described = json.loads(text) if len(text) <= MOST_STATE_BYTES else {}
        shards, columns = dict(described["shards"]), load_file(path)
        of_one_length = len({columns[name].shape for name in COLUMNS}) == 1
        right = all(columns[name].dtype == dtype and columns[name].dim() == 1 for name, dtype in COLUMNS.items())
        names = all(Path(name).name == name and isinstance(size, int) for name, size in shards.items())
        in_bounds = len(columns["label"]) > 0 and all(int(columns[name].min()) >= 0 for name in COLUMNS)
        known = int(columns["shard"].max()) < len(shards) and int(columns["label"].max()) < MOST_CLASSES
        place = described.get("elsewhere")
        placed = place is None or isinstance(place, str) and type(described["cache_bytes"]) is int
        if described["format"] != FORMAT or not (of_one_length and right and names and in_bounds and known and placed):
            raise ValueError("it says other things than an index does")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise UserError(f"{path} is no index that can be read ({error}): visgen-fast index makes a new one") from error
    return described, columns
