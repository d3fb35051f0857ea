"""Invalid codes: how often a shorter prefix of a residual code reconstructs at least as well as all of it.

A residual quantizer writes a latent z as a sum of codes, S_d = e_1 + … + e_d after d of Q depths. More depths ought to
be better, and often are not. A reason, where the decoder D is linear and every prefix is asked to reconstruct the
image x (Gu, arXiv 2407.18290, 2024): with weights w_d of sum W,

    Σ_d w_d ‖x − D(S_d)‖²  =  W ‖x − D(S̄)‖² + Σ_d w_d ‖D(S_d − S̄)‖²,
    S̄ = Σ_d w_d S_d / W = Σ_k a_k e_k,   a_k = Σ_{d≥k} w_d / W,

so training moves S̄, not S_Q, to the image. Where the codes of all depths are alike, the prefix nearest to S̄ is that
of median length under the weights (`expected_errors`): half of the depths if all prefixes weigh the same, and all of
them once the last prefix has half of the weight. Here it is measured what becomes of that, image by image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..nn.quantizer import Quantizer
from .metrics import pixel_errors

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class InvalidCodes:
    """What each depth of a residual code is worth, over many items (images, or latent vectors), in one space.

    The prefix of length d is the first d codes, 0 ≤ d ≤ Q; that of length 0 is the latent 0.

    Attributes:
        items: how many.
        mean: mean error of the prefixes of length 0 … Q.
        quantiles: the same for the quantiles named by the keys, "0.1", "0.5" and "0.9".
        invalid_share: share of items for which some shorter prefix is at least as good: error_d ≤ error_Q for a d < Q.
        harmful_share: the same with error_d < error_Q. A last code that is 0 makes its item invalid without any harm.
        non_improving_by_depth: of each depth 1 … Q, the share of items it does not improve: error_d ≥ error_{d−1}.
        non_improving_share: its mean over depths.
        best_prefix: the share of items whose least error is that of the prefix of length 0 … Q, the shortest of equals.
        excess: what all codes lose against the best prefix, the mean of (error_Q − min_d error_d) / error_Q.
    """

    items: int
    mean: tuple[float, ...]
    quantiles: dict[str, tuple[float, ...]]
    invalid_share: float
    harmful_share: float
    non_improving_by_depth: tuple[float, ...]
    non_improving_share: float
    best_prefix: tuple[float, ...]
    excess: float


def invalid_codes(errors: Tensor) -> InvalidCodes:
    """The summary of `errors` [items, Q + 1], the error of each item's prefixes of length 0 … Q.

    Raises ValueError unless there are an item and a depth, and every error is a number of at least 0.
    """
    if errors.dim() != 2 or len(errors) == 0 or errors.shape[1] < 2:
        raise ValueError(f"errors must be [items, depths + 1] with an item and a depth, got {list(errors.shape)}")
    errors = errors.double()
    if not (errors.isfinite() & (errors >= 0)).all():
        raise ValueError("errors must be finite and at least 0")
    full = errors[:, -1]
    stale = (errors[:, 1:] >= errors[:, :-1]).double().mean(0)
    # argmin promises no order among equals; the first of the equal ones is the shortest.
    best = (errors == errors.amin(1, keepdim=True)).double().argmax(1)
    excess = torch.where(full > 0, 1 - errors.amin(1) / full, 0.0)
    return InvalidCodes(
        items=len(errors),
        mean=_floats(errors.mean(0)),
        quantiles={str(q): _floats(errors.quantile(q, 0)) for q in QUANTILES},
        invalid_share=float((errors[:, :-1] <= full[:, None]).any(1).double().mean()),
        harmful_share=float((errors[:, :-1] < full[:, None]).any(1).double().mean()),
        non_improving_by_depth=_floats(stale),
        non_improving_share=float(stale.mean()),
        best_prefix=_floats(torch.bincount(best, minlength=errors.shape[1]) / len(errors)),
        excess=float(excess.mean()),
    )


class LatentTokenizer(Protocol):
    """A tokenizer that can be opened between encoder, quantizer and decoder, as `tokenizers.GridTokenizer` can."""

    quantizer: Quantizer

    def latents(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to vectors [B, ..., D]."""

    def images_of(self, latents: Tensor) -> Tensor:
        """Quantized vectors [B, ..., D] to images [B, C, H, W]."""


@dataclass(frozen=True)
class PrefixErrors:
    """Mean square errors of the prefixes of length 0 … Q, float64.

    Attributes:
        vector: of each latent vector against its prefix sum, [vectors, Q + 1].
        latent: the same over all vectors of an image, [B, Q + 1].
        pixel: of each image against its decoded prefix, clamped to [−1, 1], [B, Q + 1].
    """

    vector: Tensor
    latent: Tensor
    pixel: Tensor


@torch.no_grad()
def prefix_errors(tokenizer: LatentTokenizer, images: Tensor) -> PrefixErrors:
    """The errors of all prefixes of the codes that `tokenizer`, in evaluation mode, has for images [B, C, H, W]."""
    latents = tokenizer.latents(images)
    codes = tokenizer.quantizer(latents).codes
    vector, pixel = [], []
    for depth in range(codes.shape[-1] + 1):
        prefix = tokenizer.quantizer.decode(codes[..., :depth]) if depth else torch.zeros_like(latents)
        vector.append((latents.double() - prefix.double()).square().mean(-1))
        pixel.append(pixel_errors(tokenizer.images_of(prefix), images))
    by_vector = torch.stack(vector, -1).cpu()
    return PrefixErrors(
        vector=by_vector.flatten(0, -2),
        latent=by_vector.flatten(1, -2).mean(1),
        pixel=torch.stack(pixel, -1).cpu(),
    )


def minimizer_weights(depth_weights: Sequence[float] | Tensor) -> Tensor:
    """The a_k of S̄ = Σ_k a_k e_k, to which prefix losses weighted by `depth_weights` [Q] lead: float64 [Q].

    a_k is the share of the weight on prefixes that contain code k: (Q + 1 − k)/Q for equal weights.
    """
    weights = torch.as_tensor(depth_weights, dtype=torch.float64)
    return weights.flip(0).cumsum(0).flip(0) / weights.sum()


def expected_errors(depth_weights: Sequence[float] | Tensor) -> Tensor:
    """E‖S_d − S̄‖² of the prefixes of length 1 … Q if codes are independent with mean 0 and variance 1: float64 [Q].

    For four equal weights 0.875, 0.375, 0.375, 0.875: the full code is as far from the optimum as the first code alone.
    Code k takes a_k² from the error and adds (1 − a_k)², so it helps where a_k > ½, and the least error is that of the
    median length.
    """
    a = minimizer_weights(depth_weights)
    inside = (1 - a).square().cumsum(0)
    outside = a.square().flip(0).cumsum(0).flip(0) - a.square()
    return inside + outside


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())
