"""VAR's quantizer: a feature map as codes at rising resolutions, coarse to fine.

Tian et al., "Visual autoregressive modeling: scalable image generation via next-scale prediction", 2024, algorithms 1
and 2. What the scales before leave is averaged down to the next scale's grid, quantized, enlarged and convolved:

    r_0 = f,   k_s = nearest codes to down_s(r_s),   h_s = φ_s(up(e(k_s))),   r_{s+1} = r_s − h_s,   f̂_s = h_0 + … + h_s

down averages areas, up is bicubic, the last scale has the map's own size, and φ(h) = h/2 + conv3×3(h)/2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops.quantize import checked_active_depths
from .codebook import Codebook
from .collective import sum_over_ranks
from .dropout import draw_active_depths
from .quantized import Quantized
from .quantizer import Quantizer, check_weights
from .side_effects import is_recomputation, may_have_side_effects
from .state import state_dtype

PATCH_NUMBERS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # the paper's scales for a map of 16×16
_HITS_DECAY = 0.99


class MultiscaleQuantizer(Quantizer):
    """Feature maps [B, C, H, W] as one code for each patch of each scale, all of one codebook.

    Args:
        size: codes of the codebook.
        dimensions: C.
        patch_numbers: the grids of the scales, coarse to fine, each a number of patches along both sides or
            (rows, columns); the last is the map's own (H, W).
        metric: what is nearest, as in `ops.nearest_code`; "cosine" is VAR's option `using_znorm`.
        commitment_weight: β of the loss.
        phi_count: convolutions φ, by default 4 or as many as there are scales. Scale s of S has the one nearest to
            s/(S−1) where they stand evenly spread over [0, 1]; 1 is shared by all scales, S gives each its own, 0
            leaves φ out.
        phi_share: of the convolution in φ, the rest being the identity.
        learning: "gradient", the codebook is a parameter that the loss trains, as in VAR; or "ema", it follows the
            averaged residuals assigned to it at all scales, and the loss trains the φ alone.
        decay, epsilon, dead_below, kmeans_iterations: see `Codebook`; VAR has no revival (dead_below=0). The k-means
            start is that of the first batch's features, averaged down to all scales.
        commit: as in `ResidualQuantizer`.
        dropout: the share of samples that use only their first scales while training, a random number of them.

    Besides the codebook's, its state has `hits` [S, size]: how often a step uses each code at each scale on all ranks,
    an average over the last hundred steps of training, by a collective a forward. `usage` is by scale too.

    ValueError where an argument does not fit the above.
    """

    hits: Tensor

    def __init__(
        self,
        size: int,
        dimensions: int,
        patch_numbers: Sequence[int | tuple[int, int]] = PATCH_NUMBERS,
        *,
        metric: str = "l2",
        commitment_weight: float = 0.25,
        phi_count: int | None = None,
        phi_share: float = 0.5,
        learning: str = "gradient",
        decay: float = 0.99,
        epsilon: float = 1e-5,
        dead_below: float = 1.0,
        kmeans_iterations: int = 0,
        commit: str = "forward",
        dropout: float = 0.0,
    ) -> None:
        self.scales = len(patch_numbers)
        super().__init__(dimensions, 1, size)
        self.grids = [(n, n) if isinstance(n, int) else (n[0], n[1]) for n in patch_numbers]
        phi_count = min(4, len(self.grids)) if phi_count is None else phi_count
        _check(self.grids, phi_count, metric, commit, dropout)
        check_weights(commitment_weight=commitment_weight)
        self.lengths = [rows * columns for rows, columns in self.grids]
        self.metric, self.commitment_weight, self.dropout = metric, commitment_weight, dropout
        self.commits_in_forward = commit == "forward"
        self.codebook = Codebook(
            size,
            dimensions,
            depth=1,
            shared=True,
            learning=learning,
            decay=decay,
            epsilon=epsilon,
            dead_below=dead_below,
            kmeans_iterations=kmeans_iterations,
        )
        self.phi = nn.ModuleList(Phi(dimensions, phi_share) for _ in range(phi_count))
        self.phi_of_scale = phis_of_scales(self.scales, phi_count)
        self.register_buffer("hits", torch.zeros(self.scales, size, dtype=state_dtype()))
        if not self.commits_in_forward:
            self.codebook.make_room()

    @property
    def usage_depth(self) -> int:
        return self.scales

    def forward(self, x: Tensor, *, seeds: Tensor | None = None, active_depths: Tensor | None = None) -> Quantized:
        """The quantized map with the gradient straight through to x, its codes and the loss.

        Args:
            x: features [B, C, H, W], floating-point; the arithmetic is in the codebook's type.
            seeds: int64 [B], for dropout; by default drawn from torch's random state.
            active_depths: int64 [B], how many scales each sample uses; by default all but for dropout.

        Returns:
            quantized: f̂ [B, C, H, W], type of x.
            codes: int64 [B, L, 1], the scales one after the other, each row by row; −1 at scales that are not used.
            loss: [B, H, W], the mean over scales and channels of β(sg f̂_s − f)² + (f̂_s − sg f)², 0 at unused scales.

        ValueError for maps of another size and for active_depths that do not fit.
        """
        self.check(x)
        active = self._active_scales(x, seeds, active_depths)
        with torch.autocast(x.device.type, enabled=False):
            f = x.to(self.codebook.embedding.dtype)
            target = f.detach()
            if self.training and not self.codebook.started:
                self.codebook.start(torch.cat([_as_rows(_down(target, grid)).flatten(0, 1) for grid in self.grids]))
            vectors = self.codebook.vectors()
            total, loss, found = torch.zeros_like(target), target.new_zeros(()), []
            for scale, step in enumerate(self._quantize(target, active, vectors)):
                total = total + step.part
                commitment = (f - total.detach()).square().mean(1)
                codebook_error = (total - target).square().mean(1)
                used = (active > scale)[:, None, None]
                loss = loss + torch.where(used, self.commitment_weight * commitment + codebook_error, 0)
                found.append(step)
            quantized = total.detach() + (f - target)
        codes = torch.cat([step.codes for step in found], 1)[..., None]
        self._learn(torch.cat([step.vectors for step in found], 1), codes, vectors)
        return Quantized(quantized.to(x.dtype), codes, loss / self.scales)

    def to_codes(self, features: Tensor) -> list[Tensor]:
        """The codes of each scale, int64 [B, rows·columns], of features [B, C, H, W]; nothing learns from them."""
        self.check(features)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            active = self._active_scales(features, None, None, dropout=False)
            f, vectors = features.to(self.codebook.embedding.dtype), self.codebook.embedding
            return [step.codes for step in self._quantize(f, active, vectors)]

    def split(self, codes: Tensor) -> list[Tensor]:
        """Codes [B, L, 1] by scale, each [B, rows·columns]; those of the first scales only where L is shorter.

        ValueError for an L that is no sum of the first scales' lengths.
        """
        sums = [sum(self.lengths[: scale + 1]) for scale in range(self.scales)]
        if codes.dim() != 3 or codes.shape[2] != 1 or codes.shape[1] not in sums:
            raise ValueError(f"codes must be [B, L, 1] with L one of {sums}, got {list(codes.shape)}")
        return list(codes[..., 0].split(self.lengths[: sums.index(codes.shape[1]) + 1], 1))

    def decode(self, codes: Tensor) -> Tensor:
        """f̂ [B, C, H, W] of codes [B, L, 1], or f̂_s where they are those of the first scales only."""
        return self.prefix_features(codes)[-1]

    def prefix_features(self, codes: Tensor) -> list[Tensor]:
        """f̂_s [B, C, H, W] after each scale s that codes [B, L, 1] have."""
        totals: list[Tensor] = []
        for scale, scale_codes in enumerate(self.split(codes)):
            totals.append(self.add_scale(totals[-1] if totals else None, scale_codes, scale))
        return totals

    def add_scale(self, features: Tensor | None, codes: Tensor, scale: int) -> Tensor:
        """f̂ [B, C, H, W] of the scales before, None before the first, with what this scale's codes add to it.

        codes: int64 [B, rows·columns].
        """
        with torch.autocast(codes.device.type, enabled=False):
            part = self._part(codes, scale, self.codebook.vectors())
            return part if features is None else features + part

    def to_scale(self, features: Tensor, scale: int) -> Tensor:
        """Features [B, C, H, W] averaged down to the scale's grid, row by row: [B, rows·columns, C]."""
        return _as_rows(_down(features, self.grids[scale]))

    def to_next_scale_inputs(self, codes: Tensor) -> Tensor:
        """What a next-scale transformer sees in training: for each scale but the first, f̂ of those before it.

        codes: [B, L, 1]. Returns [B, L − (first scale's length), C]: f̂_s averaged down to the grid of scale s + 1,
        row by row, the scales one after the other.
        """
        prefixes = self.prefix_features(codes)[: self.scales - 1]
        return torch.cat([self.to_scale(features, scale) for scale, features in enumerate(prefixes, 1)], 1)

    def commit(self) -> None:
        if not self.commits_in_forward and self.codebook.learns_from_statistics:
            self.codebook.commit()

    def check(self, x: Tensor) -> None:
        expected = (self.dimensions, *self.grids[-1])
        if x.dim() != 4 or x.shape[1:] != expected:
            raise ValueError(f"x must be [B, {', '.join(map(str, expected))}], got {list(x.shape)}")

    def _active_scales(
        self, x: Tensor, seeds: Tensor | None, active_depths: Tensor | None, *, dropout: bool = True
    ) -> Tensor:
        """How many scales each sample uses, int64 [B]."""
        if active_depths is not None:
            return checked_active_depths(active_depths, x[:, :, 0, 0])
        if dropout and self.training and self.dropout > 0:
            seeds = ops.draw_seeds(x.shape[0], device=x.device) if seeds is None else seeds
            return draw_active_depths(seeds, self.scales, probability=self.dropout)
        return torch.full((x.shape[0],), self.scales, device=x.device)

    def _quantize(self, features: Tensor, active: Tensor, codebook: Tensor) -> Iterator[_Step]:
        """Scale by scale what is quantized, its codes, and what they add to f̂; codebook: [K, C]."""
        rest = features
        for scale, grid in enumerate(self.grids):
            vectors = _as_rows(_down(rest, grid))
            codes = ops.nearest_code(vectors, codebook, metric=self.metric)
            codes = torch.where((active > scale)[:, None], codes, -1)
            part = self._part(codes, scale, codebook)
            yield _Step(vectors, codes, part)
            rest = rest - part.detach()

    def _part(self, codes: Tensor, scale: int, codebook: Tensor) -> Tensor:
        """h_s [B, C, H, W] of the scale's codes [B, rows·columns]; 0 for samples that do not use it."""
        embeddings = ops.decode_codes(codes[..., None], codebook)
        part = embeddings.transpose(1, 2).unflatten(2, self.grids[scale])
        if self.grids[scale] != self.grids[-1]:
            part = F.interpolate(part, size=self.grids[-1], mode="bicubic")
        if len(self.phi):
            part = self.phi[self.phi_of_scale[scale]](part)
        return torch.where((codes[:, 0] >= 0)[:, None, None, None], part, 0)  # φ has a bias

    @torch.no_grad()
    def _learn(self, x: Tensor, codes: Tensor, codebook: Tensor) -> None:
        """Counts the codes [B, L, 1] and, in training, lets the codebook learn from x [B, L, C], quantized with it."""
        if self.training and self.codebook.learns and not is_recomputation():
            learn = self.codebook.learn if self.commits_in_forward else self.codebook.observe
            learn(x.flatten(0, 1), codes.flatten(0, 1), codebook)
        if not may_have_side_effects():
            return
        counts = self.hits.new_zeros(self.hits.shape)
        for row, scale_codes in zip(counts, self.split(codes), strict=True):
            flat = scale_codes.flatten()
            row.scatter_add_(0, flat.clamp_min(0), (flat >= 0).to(row.dtype))
        if self.training and not self.codebook.frozen:
            (counts,) = sum_over_ranks([counts])
            self.hits.copy_(torch.where(self.hits.any(), self.hits.lerp(counts, 1 - _HITS_DECAY), counts))
        self.code_counts.add_(counts[:, : self.code_counts.shape[1]].to(torch.int64))


class _Step(NamedTuple):
    """Of one scale: what is quantized [B, rows·columns, C], its codes [B, rows·columns], and h_s [B, C, H, W]."""

    vectors: Tensor
    codes: Tensor
    part: Tensor


class Phi(nn.Conv2d):
    """φ(h) = (1 − share)·h + share·conv3×3(h)."""

    def __init__(self, dimensions: int, share: float) -> None:
        super().__init__(dimensions, dimensions, 3, padding=1, dtype=state_dtype())
        self.share = share

    def forward(self, h: Tensor) -> Tensor:
        return h * (1 - self.share) + super().forward(h) * self.share


def phis_of_scales(scales: int, count: int) -> list[int]:
    """Which of `count` φ each scale has: the one whose place is nearest to the scale's in [0, 1].

    Four stand at 1/12, …, 11/12, any other number n at 1/2n, …, 1 − 1/2n. Scales 2 and 7 of the paper's ten are
    halfway between two of four. Which one is theirs, trained weights decided: that of the rounding of numpy's linspace.
    """
    if count == 0:
        return []
    margin = 1 / 3 / count if count == 4 else 1 / 2 / count
    places = np.linspace(margin, 1 - margin, count)
    return [int(np.abs(places - scale / max(scales - 1, 1)).argmin()) for scale in range(scales)]


def _down(features: Tensor, grid: tuple[int, int]) -> Tensor:
    return features if features.shape[2:] == grid else F.interpolate(features, size=grid, mode="area")


def _as_rows(features: Tensor) -> Tensor:
    """[B, C, H, W] as [B, H·W, C]."""
    return features.flatten(2).transpose(1, 2)


def _check(grids: list[tuple[int, int]], phi_count: int, metric: str, commit: str, dropout: float) -> None:
    if not grids or any(not 1 <= side <= last for grid in grids for side, last in zip(grid, grids[-1], strict=True)):
        raise ValueError(f"patch_numbers must be at least 1 and at most the last, got {grids}")
    if phi_count < 0 or set(phis_of_scales(len(grids), phi_count)) != set(range(phi_count)):
        raise ValueError(f"phi_count must give each φ one of the {len(grids)} scales, which {phi_count} does not")
    for name, value, names in (("metric", metric, ("l2", "cosine", "dot")), ("commit", commit, ("forward", "manual"))):
        if value not in names:
            raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must lie in [0, 1], got {dropout}")
