"""The 5/3 wavelet of LeGall and Tabatabai (1988), computed by lifting, which its inverse undoes step by step.

Along an axis, an odd sample becomes what its even neighbours do not say of it, an even sample a mean of five:

    high[i] = x[2i + 1] − (x[2i] + x[2i + 2])/2        low[i] = x[2i] + (high[i − 1] + high[i])/4

Beyond the ends x goes on as its mirror image about the last sample, as in JPEG 2000. Then low is multiplied by √2 and
high divided by it, the scale of an orthonormal transform, which this one nearly is: its determinant is 1, and white
noise stays nearly white, with a variance of 1.44 in low and 0.75 in high. So a network sees no band of a noised image
much larger than the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_ROOT = math.sqrt(2)


def wavelet(x: Tensor, levels: int) -> Tensor:
    """Images [B, C, H, W] to bands [B, C·4^l, H/2^l, W/2^l] of l levels, each the transform of the last one's low band.

    The C channels of the lowest band come first; then from coarse to fine, for each level, 3·C channels of what is high
    along the width, along the height, along both. Bands finer than the lowest have several places where that has one,
    which become channels. ValueError unless 2^l divides both sides.
    """
    if any(side % 2**levels for side in x.shape[2:]):
        raise ValueError(f"a wavelet of {levels} levels needs sides that {2**levels} divides, got {list(x.shape)}")
    if levels == 0:
        return x
    bands = [part for half in _split(x, 2) for part in _split(half, 3)]
    return torch.cat((wavelet(bands[0], levels - 1), F.pixel_unshuffle(torch.cat(bands[1:], 1), 2 ** (levels - 1))), 1)


def inverse_wavelet(bands: Tensor, levels: int) -> Tensor:
    """The images [B, C, H, W] whose `wavelet` is `bands` [B, C·4^l, H/2^l, W/2^l]."""
    if levels == 0:
        return bands
    below = bands.shape[1] // 4
    low = inverse_wavelet(bands[:, :below], levels - 1)
    high = F.pixel_shuffle(bands[:, below:], 2 ** (levels - 1)).chunk(3, 1)
    return _join(_join(low, high[0], 3), _join(high[1], high[2], 3), 2)


def _split(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The low and the high band along an axis."""
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    high = odd - (even + _next(even, dim)) / 2
    low = even + (_previous(high, dim) + high) / 4
    return low * _ROOT, high / _ROOT


def _join(low: Tensor, high: Tensor, dim: int) -> Tensor:
    """What `_split` took apart."""
    low, high = low / _ROOT, high * _ROOT
    even = low - (_previous(high, dim) + high) / 4
    odd = high + (even + _next(even, dim)) / 2
    return torch.stack((even, odd), dim + 1).flatten(dim, dim + 1)


def _next(x: Tensor, dim: int) -> Tensor:
    """x[i + 1]; the last of an axis is its own next, its mirror image."""
    size = x.shape[dim]
    return torch.cat((x.narrow(dim, 1, size - 1), x.narrow(dim, size - 1, 1)), dim)


def _previous(x: Tensor, dim: int) -> Tensor:
    """x[i − 1]; the first of an axis is its own previous."""
    return torch.cat((x.narrow(dim, 0, 1), x.narrow(dim, 0, x.shape[dim] - 1)), dim)
