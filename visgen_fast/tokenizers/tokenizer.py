"""What a tokenizer is: images to codes and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from ..nn.quantized import Quantized
from ..nn.quantizer import Quantizer
from ..nn.state import Freezable


class Reconstruction(NamedTuple):
    """What was made of images: the images decoded again [B, C, H, W], and what the quantizer did to the latents."""

    images: Tensor
    quantized: Quantized


class Reconstructor(Freezable, ABC):
    """Takes images [B, C, H, W] in [−1, 1] apart and puts them together again."""

    @abstractmethod
    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        """Images encoded, quantized and decoded, differentiable. `seeds` int64 [B] drive what the quantizer drops."""

    @property
    @abstractmethod
    def last_layer(self) -> Tensor:
        """The decoder's last weight, where an adversarial loss is balanced against the reconstruction's."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the parts of a prior's sequence of latents that differ in spread; () where all places are alike."""
        return ()

    def encode_posterior(self, images: Tensor) -> Tensor:
        """What the encoder says of an image's latents, [B, P, h, w]: what `draw_latents` needs, and a cache keeps.

        The latents themselves, or the means and log-variances of a distribution. ValueError where there is no single
        grid of them.
        """
        raise ValueError(f"{type(self).__name__} has no single grid of latents that a prior could model")

    def draw_latents(self, posterior: Tensor, seeds: Tensor | None) -> Tensor:
        """The latents [B, D, h, w] as a prior models them, of what `encode_posterior` says.

        They are as they are before quantization; `seeds` int64 [B] draw them where that is a distribution, and without
        seeds they are its mean.
        """
        return posterior

    def encode_latents(self, images: Tensor, seeds: Tensor | None) -> Tensor:
        """`draw_latents` of `encode_posterior`."""
        return self.draw_latents(self.encode_posterior(images), seeds)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """The images [B, C, H, W] of latents as `encode_latents` makes them, quantized first where they are."""
        raise ValueError(f"{type(self).__name__} has no single grid of latents that a prior could model")

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """Reconstructions from ever more of the latents, each under its name; the last is from all of them."""
        return {"reconstruction": self(images).images}


class Tokenizer(Reconstructor):
    """Images to codes int64 [B, *grid, Q] and back, Q the depth of `quantizer`.

    The grid is (h, w), or (L,) for a sequence of tokens. Codes are meant to be made in evaluation mode: in training
    mode quantizers learn from what they see, and drop depths.
    """

    quantizer: Quantizer

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """The codes of images [B, C, H, W]: int64 [B, *grid, Q], without gradient."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """The images [B, C, H, W] of codes [B, *grid, Q], or of their first depths [B, *grid, ≤ Q]."""

    def vectors(self, codes: Tensor) -> Tensor:
        """What the quantizer decodes codes to, in the decoder's type: quantizers are float32 where that has 16 bits."""
        return self.quantizer.decode(codes).to(self.last_layer.dtype)

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """Reconstructions from one depth, from two, and so on."""
        codes = self.encode(images)
        if codes.shape[-1] == 1:
            return {"reconstruction": self.decode(codes)}
        return {f"depth {d}": self.decode(codes[..., :d]) for d in range(1, codes.shape[-1] + 1)}
