"""How far a reconstruction is from the image, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_errors(reconstructions: Tensor, images: Tensor) -> Tensor:
    """The mean square error of each image, float64 [B], after both are clamped to [−1, 1], as they are when shown.

    `reconstructions` and `images` are [B, C, H, W] with pixels in [−1, 1].
    """
    difference = reconstructions.clamp(-1, 1).double() - images.clamp(-1, 1).double()
    return difference.square().flatten(1).mean(1)


def psnr(errors: Tensor) -> Tensor:
    """The peak signal-to-noise ratio in dB of mean square errors of pixels in [−1, 1]: 10·log₁₀(4 / error).

    An error below 1e-12, which pixels of 8 bits cannot show, counts as that: 126 dB.
    """
    return 10 * torch.log10(4 / errors.clamp_min(1e-12))
