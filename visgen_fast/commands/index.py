"""`visgen-fast index`: makes tar files of images readable in any order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import UserError
from .options import parse


@dataclass(frozen=True)
class IndexOptions:
    """Write the index of a folder of tar files, in WebDataset's format, so that training can read any image of them.

    A sample is KEY.jpg, or another kind of image, and KEY.cls with the number of its class. The index is a file in that
    folder, or of tar files elsewhere in --out; `visgen-fast train RECIPE --dataset FOLDER` reads it.
    """

    shards: tyro.conf.Positional[str]
    """Folder of the tar files, or its URL, for example s3://bucket/folder, if fsspec has what reads that."""
    out: Path | None = None
    """Of tar files elsewhere: the folder for the index, and for images that were read."""
    cache_gb: float = 10.0
    """Of tar files elsewhere: how many GB of images that were read are kept; those used longest ago go first."""


def index(arguments: list[str]) -> int:
    make(parse(IndexOptions, arguments, "visgen-fast index"))
    return 0


def make(options: IndexOptions) -> None:
    """Makes the index that the options of `index` ask for."""
    from ..data.tar_index import make_index
    from ..data.tar_shards import INDEX

    elsewhere = options.shards if "://" in options.shards else None
    if elsewhere is None and not Path(options.shards).is_dir():
        raise UserError(f"{options.shards} is not a folder")
    if (elsewhere is None) != (options.out is None):
        raise UserError("--out goes with the URL of tar files elsewhere, and no URL goes without it")
    if not 0 <= options.cache_gb < 10**9:
        raise UserError(f"--cache-gb must be a number of GB, got {options.cache_gb}")
    folder = options.out or Path(options.shards)
    images, skipped = make_index(folder, elsewhere, int(options.cache_gb * 1e9))
    beside = f", {skipped} skipped" if skipped else ""
    print(f"{images} images{beside}: {folder / INDEX}")
