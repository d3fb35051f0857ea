"""An autoencoder whose encoder is a trained network of features, which stays as it is: only the decoder learns.

Zheng et al., "Diffusion transformers with representation autoencoders", 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..data.images import Images
from ..models.autoencoder import Decoder
from ..nn.quantized import Quantized
from .first_stage import channel_moments
from .tokenizer import Reconstruction, Reconstructor


class FeatureEncoder(nn.Module):
    """Images [B, C, H, W] to the last level of a frozen network's features on a grid [B, D, H/f, W/f], f = `reduction`.

    Images are resized first until the network's own reduction leads to that grid. Each channel has mean 0 and deviation
    1 on the images that `measure` was given.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, channels: int, reduction: int) -> None:
        super().__init__()
        self.network, self.reduction = network.eval().requires_grad_(False), reduction
        side = 64
        with torch.no_grad():
            blank = next(network.parameters()).new_zeros(1, channels, side, side)
            last = self.network.features(blank)[-1]  # type: ignore[operator]
        self.dimensions, self.own = last.shape[1], side // last.shape[2]
        self.register_buffer("mean", last.new_zeros(self.dimensions))
        self.register_buffer("deviation", last.new_ones(self.dimensions))

    def train(self, mode: bool = True) -> FeatureEncoder:
        """Evaluation mode always."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self._standardised(images.float())

    def _standardised(self, images: Tensor) -> Tensor:
        size = tuple(side // self.reduction * self.own for side in images.shape[2:])
        if size != tuple(images.shape[2:]):
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        features = self.network.features(images)[-1]  # type: ignore[operator]
        return (features - self.mean[:, None, None]) / self.deviation[:, None, None]

    def measure(self, images: Images) -> None:
        """Takes mean and deviation of the channels from the first 2,048 images: the same on every rank."""
        self.mean.zero_()
        self.deviation.fill_(1)
        mean, deviation = channel_moments(lambda shown, seeds: self(shown), images, self.mean.device)
        self.mean.copy_(mean[:, 0])
        self.deviation.copy_(deviation[:, 0])


class RepresentationAutoencoder(Reconstructor):
    """A frozen encoder of features, and a decoder that learns to make images of them.

    In training, where there are seeds, features come with Gaussian noise, of a deviation between 0 and `noise` that is
    each image's own: what a prior draws is not exactly a feature either.
    """

    def __init__(self, encoder: FeatureEncoder, decoder: Decoder, noise: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.noise = encoder, decoder, noise

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    def encode_posterior(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.decoder(latents.to(self.last_layer.dtype))

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        latents = self.encoder(images)
        if self.training and seeds is not None:
            latents = latents + self._noise(latents, seeds)
        vectors = latents.permute(0, 2, 3, 1)
        codes = vectors.new_empty((*vectors.shape[:-1], 0)).long()
        nothing = Quantized(vectors, codes, vectors.new_zeros(vectors.shape[:-1]))
        return Reconstruction(self.decode_latents(latents), nothing)

    def _noise(self, latents: Tensor, seeds: Tensor) -> Tensor:
        share = ops.uniform(seeds, (1, 1, 1), stream=ops.Purpose.AUGMENTATION.stream(1))
        return self.noise * share * ops.gaussian(seeds, latents.shape[1:], stream=ops.Purpose.NOISE.stream())
