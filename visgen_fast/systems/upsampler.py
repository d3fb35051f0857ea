"""What is trained when an upsampler is: large images, given the same ones small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..data.images import AT_A_TIME, ImageFormat, Images, in_chunks, to_range
from ..data.order import Batch
from ..diffusion.prior import DiffusionPrior
from ..evaluation import pixel_errors, psnr
from ..nn.class_condition import Labels
from ..training.system import System
from .cascade import shrunk
from .classes import check_labels

_COLUMNS = 10


class UpsamplerSystem(System):
    """A diffusion prior of large images that reads the small one beside x_t, with noise of a level that it is told.

    Ho et al., "Cascaded diffusion models for high fidelity image generation", 2022, section 4.2. A model that draws
    small images makes mistakes, which an upsampler that never saw any would enlarge with care. With noise on what it
    is given it learns to trust no detail, and how much it can trust the rest.

    prior: whose network reads channels + 1 more channels: the small image, enlarged, and its level. images: the format
    of large images, whose sides `factor` divides. noise: the largest deviation of the noise on small images in
    training, where it is uniform from 0; drawing_noise: that of drawing, at most the former.

    ValueError for a factor or a drawing_noise that doesn't fit.
    """

    figure = "upsampled"
    examined = AT_A_TIME

    def __init__(
        self,
        prior: DiffusionPrior,
        condition: Labels,
        images: ImageFormat,
        *,
        factor: int,
        noise: float,
        drawing_noise: float,
    ) -> None:
        super().__init__()
        if images.height % factor or images.width % factor:
            raise ValueError(f"factor must divide the sides of the images {images.shape}, got {factor}")
        if not 0 <= drawing_noise <= noise:
            raise ValueError(f"drawing_noise must lie in [0, {noise:g}], as the noise of training, got {drawing_noise}")
        self.prior, self.condition, self.class_names = prior, condition, images.class_names
        self.shape = images.shape
        self.small_shape = images.channels, images.height // factor, images.width // factor
        self.factor, self.noise, self.drawing_noise = factor, noise, drawing_noise

    def forward(self, batch: Batch) -> Tensor:
        small = shrunk(to_range(batch.images), self.factor)
        level = self.noise * ops.uniform(batch.seeds, (1,), stream=ops.Purpose.CONDITION.stream(1)).squeeze(1)
        labels = self.condition(self.condition.dropped(batch.labels, batch.seeds))
        prior = self._beside(self.given(small, level, batch.seeds))
        return prior.loss(batch.images, labels, batch.seeds, batch.positions)

    def given(self, small: Tensor, level: Tensor, seeds: Tensor) -> Tensor:
        """What the network reads beside x_t: small images with noise of deviation `level` [B], enlarged; the level."""
        nothing = torch.zeros_like(level)
        rows = torch.stack((torch.ones_like(level), level, nothing, nothing), 1)
        noised = ops.add_noise(small, rows, seeds, stream=ops.Purpose.CONDITION.stream())
        enlarged = F.interpolate(noised, self.shape[1:], mode="bicubic")
        return torch.cat((enlarged, level.view(-1, 1, 1, 1).expand(-1, 1, *self.shape[1:])), 1)

    @torch.no_grad()
    def enlarge(self, small: Tensor, labels: Tensor, seeds: Tensor, **options: Any) -> Tensor:
        """Large images [B, *shape] of small ones [B, *small_shape] in [−1, 1], drawn from `seeds` int64 [B].

        labels: int64 [B], the number of classes for none; options: as of the prior. ValueError for images of another
        shape, and for labels that are no classes.
        """
        if small.shape[1:] != self.small_shape:
            raise ValueError(f"small images must have shape {self.small_shape}, got {tuple(small.shape[1:])}")
        check_labels(labels, self.condition.null_label + 1)
        drawn = []
        for some, own, seed in zip(*(whole.split(AT_A_TIME) for whole in (small, labels, seeds)), strict=True):
            prior = self._beside(self.given(some, torch.full_like(seed, self.drawing_noise, dtype=some.dtype), seed))
            drawn.append(prior.draw(self.shape, own, seed, null=self.condition.null_label, **options))
        return torch.cat(drawn)

    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """Small images, each pixel as a square; what is made of them; the images that they were."""
        shown, labels, _ = images.read(range(min(_COLUMNS, len(images))))
        large = to_range(shown.to(device))
        small, seeds = shrunk(large, self.factor), ops.derive_seeds(seed, torch.arange(len(shown))).to(device)
        squares = small.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)
        rows = {"small": squares, "upsampled": self.enlarge(small, labels.to(device), seeds), "image": large}
        return torch.stack(list(rows.values())), list(rows)

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """PSNR of the first images, `examined` at most, upsampled, to what they were; and of both at the small size."""
        large, labels = next(in_chunks(images, device))
        small, seeds = shrunk(large, self.factor), ops.derive_seeds(0, torch.arange(len(large))).to(device)
        made = self.enlarge(small, labels, seeds)
        pairs = {"psnr": (made, large), "psnr_small": (shrunk(made.clamp(-1, 1), self.factor), small)}
        return {name: float(psnr(pixel_errors(*pair)).mean()) for name, pair in pairs.items()}

    def _beside(self, given: Tensor) -> DiffusionPrior:
        return DiffusionPrior(_Beside(self.prior.model, given), self.prior.objective, self.prior.sampler)


class _Beside(nn.Module):
    """The network on x_t and what it is given, whose samples come again for every condition that guidance asks for."""

    def __init__(self, network: nn.Module, given: Tensor) -> None:
        super().__init__()
        self.network, self.given = network, given

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        given = self.given.to(x_t.dtype).repeat(len(x_t) // len(self.given), 1, 1, 1)
        return self.network(torch.cat((x_t, given), 1), t, labels)
