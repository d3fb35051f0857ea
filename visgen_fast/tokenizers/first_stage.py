"""The first stage of a latent model: a trained autoencoder or tokenizer, frozen, whose latents a prior models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..data.images import Images, at_a_time, to_range
from ..data.latents import cached_latents, digest
from .tokenizer import Reconstructor

# Training images whose latents say what their channels' mean and deviation are.
_MEASURED = 2048
_LEAST_DEVIATION = 1e-6


class FirstStage(nn.Module):
    """Images [B, C, H, W] in [−1, 1] to latents [B, D, h, w], of mean 0 and deviation 1 in each channel, and back.

    Clips [B, C, T, H, W] have latents [B, D, t, h, w].

    The latents of a tokenizer are its vectors before they are quantized; decoding quantizes them first. A sequence of L
    vectors is 1×L. Everything is float32 whatever the autocast around it: half precision overflows in many decoders.

    shape: of an image's latents. `mean` and `deviation` of the channels [D] are buffers, which `measure` fills; until
    then latents are what the encoder says. Where a sequence has several parts they are [D, parts], and each part has
    mean 0 and deviation 1. The reconstructor is kept in evaluation mode, without gradients of its own;
    gradients pass through `decode`. cache: the folder in which latents are kept (`data.latents`), None for none.

    ValueError for a reconstructor that has no single grid of latents.
    """

    mean: Tensor
    deviation: Tensor
    cache: Path | None = None

    def __init__(self, reconstructor: Reconstructor, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.reconstructor = reconstructor.eval().requires_grad_(False)
        weight = reconstructor.last_layer
        with torch.no_grad():
            blank = weight.new_zeros(1, *image_shape)
            latents = reconstructor.encode_latents(blank, torch.zeros(1, dtype=torch.int64, device=weight.device))
        self.shape = tuple(latents.shape[1:])
        self.lengths = reconstructor.lengths
        parts = (self.shape[0], len(self.lengths)) if self.lengths else self.shape[:1]
        self.register_buffer("mean", torch.zeros(parts, device=weight.device))
        self.register_buffer("deviation", torch.ones(parts, device=weight.device))

    def train(self, mode: bool = True) -> FirstStage:
        """Evaluation mode always: quantizers would learn."""
        return super().train(False)

    def encode(self, images: Tensor, seeds: Tensor) -> Tensor:
        """The latents of images, or of uint8 pixels; `seeds` draw them where the encoder says a distribution."""
        return self._drawn(self._posterior(images), seeds)

    def encode_read(self, read: Tensor, seeds: Tensor) -> Tensor:
        """The latents of what training reads of its `source`: pixels uint8, or what the cache has of them, float32."""
        return self.encode(read, seeds) if read.dtype == torch.uint8 else self._drawn(read, seeds)

    def source(self, images: Images, *, mirrored: bool, **how: Any) -> Images:
        """What training reads: the images, or with a cache what the encoder says of them, and of mirrored ones too.

        how: `workers` and `told`, as of `data.latents.cached_latents`.
        """
        if self.cache is None:
            return images

        def said(pixels: Tensor) -> Tensor:
            return self._posterior(pixels.to(self.mean.device))

        weights = digest(self.reconstructor.state_dict())
        return cached_latents(images, self.cache, said, weights, mirrored=mirrored, **how)

    @torch.no_grad()
    def _posterior(self, images: Tensor) -> Tensor:
        shown = to_range(images) if images.dtype == torch.uint8 else images.float()
        with torch.autocast(images.device.type, enabled=False):
            return self.reconstructor.encode_posterior(shown)

    @torch.no_grad()
    def _drawn(self, posterior: Tensor, seeds: Tensor) -> Tensor:
        with torch.autocast(posterior.device.type, enabled=False):
            latents = self.reconstructor.draw_latents(posterior, seeds).float()
        return (latents - self._everywhere(self.mean)) / self._everywhere(self.deviation)

    def decode(self, latents: Tensor) -> Tensor:
        """The images of latents [B, D, h, w]."""
        with torch.autocast(latents.device.type, enabled=False):
            raw = latents.float() * self._everywhere(self.deviation) + self._everywhere(self.mean)
            return self.reconstructor.decode_latents(raw)

    @torch.no_grad()
    def measure(self, images: Images) -> None:
        """Takes mean and deviation of the channels from the first 2,048 images: the same on every rank."""
        self.mean.zero_()
        self.deviation.fill_(1)
        mean, deviation = channel_moments(self.encode, images, self.mean.device, self.lengths)
        self.mean.copy_(mean.view_as(self.mean))
        self.deviation.copy_(deviation.view_as(self.deviation))

    def _everywhere(self, values: Tensor) -> Tensor:
        """Values [D], or [D, parts], for latents [B, D, h, w]."""
        if not self.lengths:
            return values.view(-1, *[1] * (len(self.shape) - 1))
        return values.repeat_interleave(torch.tensor(self.lengths, device=values.device), 1)[:, None]


class Pixels(nn.Module):
    """The place of a first stage where there is none: images of `shape` as they are."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def encode(self, images: Tensor, seeds: Tensor) -> Tensor:
        return images

    def encode_read(self, read: Tensor, seeds: Tensor) -> Tensor:
        return read

    def source(self, images: Images, *, mirrored: bool) -> Images:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def measure(self, images: Images) -> None:
        """Pixels are modelled with the mean and the deviation that they have."""


@torch.no_grad()
def channel_moments(
    encode: Callable[[Tensor, Tensor], Tensor], images: Images, device: torch.device, lengths: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Mean and deviation, float64 [D, parts], of the first 2,048 images' latents, in each channel of each part.

    encode: of images in [−1, 1] and their seeds to [B, D, h, w]; lengths: of the parts of all places, by default one.
    """
    count, totals = min(len(images), _MEASURED), []
    for places in torch.arange(count).split(at_a_time(images.format)):
        pixels = images.read(places.tolist())[0].to(device)
        seeds = ops.derive_seeds(0, places.to(device), purpose=ops.Purpose.CODE)
        latents = encode(to_range(pixels), seeds).double().flatten(2)
        parts = latents.split(list(lengths) or latents.shape[2], 2)
        totals.append(torch.stack([torch.stack((part.sum((0, 2)), part.square().sum((0, 2))), 1) for part in parts], 2))
    sizes = torch.tensor([part.shape[2] for part in parts], device=device)
    mean, square = (torch.stack(totals).sum(0) / (count * sizes)).unbind(1)
    return mean, (square - mean.square()).clamp_min(_LEAST_DEVIATION**2).sqrt()
