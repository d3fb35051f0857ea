"""The first stage of a latent model: a trained autoencoder or tokenizer, frozen, whose latents a prior models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..data.images import AT_A_TIME, Images, to_range
from .tokenizer import Reconstructor

# Training images whose latents say what their channels' mean and deviation are.
_MEASURED = 2048
_LEAST_DEVIATION = 1e-6


class FirstStage(nn.Module):
    """Images [B, C, H, W] in [−1, 1] to latents [B, D, h, w], of mean 0 and deviation 1 in each channel, and back.

    The latents of a tokenizer are its vectors before they are quantized; decoding quantizes them first. A sequence of L
    vectors is 1×L. Everything is float32 whatever the autocast around it: half precision overflows in many decoders.

    shape: of an image's latents. `mean` and `deviation` of the channels are buffers, which `measure` fills; until then
    latents are what the encoder says. The reconstructor is kept in evaluation mode, without gradients of its own;
    gradients pass through `decode`.

    ValueError for a reconstructor that has no single grid of latents.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, reconstructor: Reconstructor, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.reconstructor = reconstructor.eval().requires_grad_(False)
        weight = reconstructor.last_layer
        with torch.no_grad():
            blank = weight.new_zeros(1, *image_shape)
            latents = reconstructor.encode_latents(blank, torch.zeros(1, dtype=torch.int64, device=weight.device))
        self.shape = tuple(latents.shape[1:])
        self.register_buffer("mean", torch.zeros(self.shape[0], device=weight.device))
        self.register_buffer("deviation", torch.ones(self.shape[0], device=weight.device))

    def train(self, mode: bool = True) -> FirstStage:
        """Evaluation mode always: quantizers would learn."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, images: Tensor, seeds: Tensor) -> Tensor:
        """The latents of images, or of uint8 pixels; `seeds` draw them where the encoder says a distribution."""
        shown = to_range(images) if images.dtype == torch.uint8 else images.float()
        with torch.autocast(images.device.type, enabled=False):
            latents = self.reconstructor.encode_latents(shown, seeds).float()
        return (latents - _of_channels(self.mean)) / _of_channels(self.deviation)

    def decode(self, latents: Tensor) -> Tensor:
        """The images of latents [B, D, h, w]."""
        with torch.autocast(latents.device.type, enabled=False):
            raw = latents.float() * _of_channels(self.deviation) + _of_channels(self.mean)
            return self.reconstructor.decode_latents(raw)

    @torch.no_grad()
    def measure(self, images: Images) -> None:
        """Takes mean and deviation of the channels from the first 2,048 images: the same on every rank."""
        device, count = self.mean.device, min(len(images), _MEASURED)
        sums = torch.zeros(2, self.shape[0], dtype=torch.float64, device=device)
        self.mean.zero_()
        self.deviation.fill_(1)
        for places in torch.arange(count).split(AT_A_TIME):
            pixels = images.read(places.tolist())[0].to(device)
            seeds = ops.derive_seeds(0, places.to(device), purpose=ops.Purpose.CODE)
            latents = self.encode(pixels, seeds).double().flatten(2)
            sums += torch.stack((latents.sum((0, 2)), latents.square().sum((0, 2))))
        mean, square = sums / (count * self.shape[1] * self.shape[2])
        self.mean.copy_(mean)
        self.deviation.copy_((square - mean.square()).clamp_min(_LEAST_DEVIATION**2).sqrt())


class Pixels(nn.Module):
    """The place of a first stage where there is none: images of `shape` as they are."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def encode(self, images: Tensor, seeds: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def measure(self, images: Images) -> None:
        """Pixels are modelled with the mean and the deviation that they have."""


def _of_channels(values: Tensor) -> Tensor:
    return values[:, None, None]
