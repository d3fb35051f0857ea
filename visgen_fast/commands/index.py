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
    folder; `visgen-fast train RECIPE --dataset FOLDER` reads it.
    """

    shards: tyro.conf.Positional[Path]
    """Folder of the tar files."""


def index(arguments: list[str]) -> int:
    from ..data.tar_shards import INDEX, make_index

    options = parse(IndexOptions, arguments, "visgen-fast index")
    if not options.shards.is_dir():
        raise UserError(f"{options.shards} is not a folder")
    images, skipped = make_index(options.shards)
    beside = f", {skipped} skipped" if skipped else ""
    print(f"{images} images{beside}: {options.shards / INDEX}")
    return 0
