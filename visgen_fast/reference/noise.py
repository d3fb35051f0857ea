"""Counter-based random numbers, in plain PyTorch: the definition the compiled kernels are held to.

Every value is a pure function of (seed, stream, element index). Nothing depends on memory layout, batch size, device or
the order of calls. Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps

    key     = (seed low, seed high)
    counter = (block low, block high, stream low, stream high),   block = element index // 4

to four 32-bit words, one per element of the block. `stream` keeps apart what one sample needs several of: its upper
32 bits are a `Purpose`, its lower 32 bits a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

__all__ = ["Purpose", "derive_seeds", "gaussian", "gumbel", "uniform"]

_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_REST = -(2**63)  # added to a stream: the one, which nothing else reads, of the bits that only a few numbers need


class Purpose(IntEnum):
    """What a stream of random numbers is for: the upper half of `stream`, so that no two uses share numbers."""

    NOISE = 0
    TIME = 1
    LABEL_DROP = 2
    AUGMENTATION = 3
    DATA_ORDER = 4
    INITIAL_STATE = 5
    LABEL = 6
    DROPOUT = 7
    CODEBOOK = 8
    SAMPLER = 9
    LIKELIHOOD = 10
    CODE = 11
    COUPLING = 12
    ORDER = 13
    CONDITION = 14

    def stream(self, step: int = 0) -> int:
        """The stream of this purpose at `step` (0 to 2³² − 1)."""
        if not isinstance(step, int):
            raise TypeError(f"step must be an integer, got {type(step).__name__}")
        if not 0 <= step <= _MASK:
            raise ValueError(f"step must lie in [0, 2**32), got {step}")
        return (int(self) << 32) | step


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32: four counter words and two key words (int64 tensors holding 32 bits) to four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The 64-bit products wrap around like unsigned ones; only their two 32-bit halves are read.
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product_1 >> 32 & _MASK) ^ c1 ^ k0,
            product_1 & _MASK,
            (product_0 >> 32 & _MASK) ^ c3 ^ k1,
            product_0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


def _halves(value: Tensor) -> tuple[Tensor, Tensor]:
    return value & _MASK, value >> 32 & _MASK


def derive_seeds(seed: int | Tensor, index: Tensor, *, step: int = 0, purpose: int = 0) -> Tensor:
    """Seeds for the samples `index` [B] of run `seed`: two words of Philox at key `seed`, counter (index, stream)."""
    seed = torch.as_tensor(seed, dtype=torch.int64, device=index.device)
    stream = torch.as_tensor(purpose << 32 | step, dtype=torch.int64, device=index.device)
    low, high, _, _ = philox4x32((*_halves(index), *_halves(stream)), _halves(seed))
    return (low | high << 32).expand(torch.broadcast_shapes(seed.shape, index.shape)).clone()


def random_words(seeds: Tensor, count: int, *, stream: int = 0) -> Tensor:
    """The first `count` 32-bit words of each seed's `stream`: [B] to int64 [B, count]."""
    block = torch.arange(-(-count // 4), dtype=torch.int64, device=seeds.device)
    stream_words = _halves(torch.as_tensor(stream, dtype=torch.int64, device=seeds.device))
    words = philox4x32((*_halves(block), *stream_words), [half[:, None] for half in _halves(seeds)])
    return torch.stack(torch.broadcast_tensors(*words), -1).flatten(1)[:, :count]


def uniform(
    seeds: Tensor, shape: Sequence[int], *, stream: int = 0, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """Numbers in (0, 1]: (word + 1)·2⁻³², rounded to `dtype` but never to 0."""
    dtype = _dtype(dtype, out)
    value = (random_words(seeds, math.prod(shape), stream=stream) + 1).double() * 2.0**-32
    value = value.to(dtype).clamp_min(2.0**-24 if dtype == torch.float16 else 2.0**-32)
    return _deliver(value.view(seeds.shape[0], *shape), out)


def gaussian(
    seeds: Tensor, shape: Sequence[int], *, stream: int = 0, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """Standard normal numbers by Box and Muller (1958), on words (0, 1) and (2, 3) of each block, in float64."""
    dtype = _dtype(dtype, out)
    count = math.prod(shape)
    words = random_words(seeds, -(-count // 2) * 2, stream=stream).double()
    radius = (-2 * ((words[:, 0::2] + 1) * 2.0**-32).log()).sqrt()
    angle = words[:, 1::2] * (2 * math.pi * 2.0**-32)
    value = torch.stack((radius * angle.cos(), radius * angle.sin()), -1).flatten(1)[:, :count]
    return _deliver(value.to(dtype).view(seeds.shape[0], *shape), out)


def gumbel(
    seeds: Tensor, shape: Sequence[int], *, stream: int = 0, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """Numbers −ln(−ln u) of Gumbel's distribution, in float64, from 48 bits each: u = (bits + ½)·2⁻⁴⁸.

    The 16 leading bits of element i are half i mod 2 (the low one first) of word i // 2; from them alone most codes are
    seen to lose a draw. The 32 others are word i of the stream 2⁶³ + `stream`. u is exact in float64, and neither 0
    nor 1: the numbers lie in [−3.53, 33.97].
    """
    dtype = _dtype(dtype, out)
    count = math.prod(shape)
    pairs = random_words(seeds, -(-count // 2), stream=stream)
    leading = torch.stack((pairs & 0xFFFF, pairs >> 16), -1).flatten(1)[:, :count]
    bits = leading << 32 | random_words(seeds, count, stream=stream + _REST)
    value = -(-((bits.double() + 0.5) * 2.0**-48).log()).log()
    return _deliver(value.to(dtype).view(seeds.shape[0], *shape), out)


def _dtype(dtype: torch.dtype | None, out: Tensor | None) -> torch.dtype:
    return out.dtype if out is not None else dtype or torch.float32


def _deliver(value: Tensor, out: Tensor | None) -> Tensor:
    return value if out is None else out.copy_(value)
