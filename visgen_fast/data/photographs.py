"""Small colour crops of the photographs that scikit-image comes with: real images that need no download."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..errors import UserError
from .images import ImagesInMemory

# A crop is cut so many times as large and shrunk: at full resolution, 32×32 pixels of these photographs are all smooth.
_SHRINK = 2
# The photographs inside scikit-image's wheel; those held out show nothing that the others show.
_FILES = {
    "train": ("astronaut.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "rocket.jpg"),
    "held out": ("chelsea.png", "coffee.png"),
}
_COUNTS = {"train": 20_000, "held out": 2_000}
_SEED = 0


def photographs(size: int = 32, *, part: Literal["train", "held out"] = "train") -> ImagesInMemory:
    """Crops of size×size colour pixels, 20 000 of five photographs for training and 2000 of two others, held out.

    Each call cuts the same ones. They are of one class. Source: van der Walt et al., "scikit-image: image processing in
    Python", 2014. Raises `UserError` where scikit-image is not installed, or the photographs are too small.
    """
    try:
        from skimage import data, io
    except ModuleNotFoundError as error:
        raise UserError("the photographs are scikit-image's: pip install scikit-image") from error
    files = _FILES[part]
    whole = [torch.from_numpy(io.imread(f"{data.data_dir}/{name}")[..., :3].copy()).permute(2, 0, 1) for name in files]
    largest = min(min(photograph.shape[1:]) for photograph in whole) // _SHRINK
    if size > largest:
        raise UserError(f"size must be at most {largest} for crops of these photographs, got {size}")
    crops = [_crops(photograph, size, _COUNTS[part] // len(files) + 1, step) for step, photograph in enumerate(whole)]
    # Interleaved, so that the first few show all of them.
    pixels = torch.stack(crops, 1).flatten(0, 1)[: _COUNTS[part]].contiguous()
    return ImagesInMemory(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("photograph",))


def _crops(photograph: Tensor, size: int, count: int, step: int) -> Tensor:
    """uint8 [count, 3, size, size] of uint8 [3, H, W], cut at places drawn from uniform numbers."""
    cut = _SHRINK * size
    seeds = ops.derive_seeds(_SEED, torch.arange(count), step=step, purpose=ops.Purpose.AUGMENTATION)
    # 1 − u lies in [0, 1).
    corners = (1 - ops.uniform(seeds, (2,), dtype=torch.float64)) * torch.tensor(
        [side - cut + 1 for side in photograph.shape[1:]]
    )
    cuts = (photograph[:, top : top + cut, left : left + cut].float() for top, left in corners.long().tolist())
    return torch.stack([F.avg_pool2d(crop, _SHRINK).round().to(torch.uint8) for crop in cuts])
