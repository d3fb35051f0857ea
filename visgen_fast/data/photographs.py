"""Small colour crops of the photographs that scikit-image comes with: real images that need no download."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..errors import UserError
from .images import ImagesInMemory

SIZE = 32
# A crop is cut twice as large and shrunk: at full resolution, 32×32 pixels of these photographs are all smooth.
_CUT = 2 * SIZE
# The photographs inside scikit-image's wheel; those held out show nothing that the others show.
_FILES = {
    "train": ("astronaut.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "rocket.jpg"),
    "held out": ("chelsea.png", "coffee.png"),
}
_COUNTS = {"train": 20_000, "held out": 2_000}
_SEED = 0


def photographs(*, part: Literal["train", "held out"] = "train") -> ImagesInMemory:
    """Crops of 32×32 colour pixels, 20 000 of five photographs for training and 2000 of two others, held out.

    Each call cuts the same ones. They are of one class. Source: van der Walt et al., "scikit-image: image processing in
    Python", 2014. Raises `UserError` where scikit-image is not installed.
    """
    try:
        from skimage import data, io
    except ModuleNotFoundError as error:
        raise UserError("the photographs are scikit-image's: pip install scikit-image") from error
    files = _FILES[part]
    crops = [
        _crops(io.imread(f"{data.data_dir}/{name}"), _COUNTS[part] // len(files) + 1, step)
        for step, name in enumerate(files)
    ]
    # Interleaved, so that the first few show all of them.
    pixels = torch.stack(crops, 1).flatten(0, 1)[: _COUNTS[part]].contiguous()
    return ImagesInMemory(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("photograph",))


def _crops(photograph: np.ndarray, count: int, step: int) -> Tensor:
    """uint8 [count, 3, SIZE, SIZE], cut at places drawn from uniform numbers."""
    whole = torch.from_numpy(photograph[..., :3].copy()).permute(2, 0, 1)
    seeds = ops.derive_seeds(_SEED, torch.arange(count), step=step, purpose=ops.Purpose.AUGMENTATION)
    # 1 − u lies in [0, 1).
    corners = (1 - ops.uniform(seeds, (2,), dtype=torch.float64)) * torch.tensor(
        [side - _CUT + 1 for side in whole.shape[1:]]
    )
    cuts = [whole[:, top : top + _CUT, left : left + _CUT] for top, left in corners.long().tolist()]
    return F.avg_pool2d(torch.stack(cuts).float(), 2).round().to(torch.uint8)
