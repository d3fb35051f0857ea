"""The generator of StyleGAN, whose latent vector becomes a style for every layer, and a residual discriminator.

Karras, Laine and Aila, "A style-based generator architecture for generative adversarial networks", 2019. The
discriminator is the residual one of Karras et al., "Analyzing and improving the image quality of StyleGAN", 2020,
without statistics of a batch, so that a verdict does not depend on the images beside it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .layers.checks import check_sizes
from .layers.equalized import RECTIFIED, EqualizedConv, EqualizedLinear
from .layers.labels import LabelEmbedding
from .layers.resolutions import resolutions, widths_of

_SLOPE = 0.2
# The mapping network learns so much slower than the rest.
_MAPPING_RATE = 0.01
# Latents whose mean style stands for all.
_OF_THE_MEAN = 1024


class StyleGenerator(nn.Module):
    """z [B, latents] and labels int64 [B], or None, to images [B, channels, H, W], about in [−1, 1].

    A mapping network of `depth` layers turns z into w. From a learned constant, two convolutions for each resolution
    make the image; after each, noise is added, features are normalised, and w scales and shifts them.

    latents: features of z, and of w; width: features at the finest resolution, each coarser one has twice as many, up
    to eight times; mixing: share of the images that have two styles in training, one for the coarse layers and one for
    the fine ones; classes: 0 for none.

    ValueError for sizes below 1, and for images that cannot be halved.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        channels: int,
        latents: int = 128,
        depth: int = 8,
        width: int = 32,
        mixing: float = 0.9,
        classes: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, latents=latents, depth=depth, width=width)
        self.sizes = resolutions(image_size)
        widths = widths_of(len(self.sizes), width)
        self.latents, self.mixing, self.classes = latents, mixing, classes
        self.labels = LabelEmbedding(classes, latents, 1.0)
        inputs = [latents * (2 if classes else 1), *[latents] * (depth - 1)]
        self.map = nn.ModuleList(
            EqualizedLinear(count, latents, gain=RECTIFIED, rate=_MAPPING_RATE) for count in inputs
        )
        self.constant = nn.Parameter(torch.randn(1, widths[0], *self.sizes[0]))
        pairs = [(_Styled(None, widths[0], latents), _Styled(widths[0], widths[0], latents))]
        for wide, narrow in zip(widths, widths[1:], strict=False):
            pairs.append((_Styled(wide, narrow, latents), _Styled(narrow, narrow, latents)))
        self.layers = nn.ModuleList(layer for pair in pairs for layer in pair)
        self.output = EqualizedConv(widths[-1], channels, 1)

    def forward(self, z: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """Images of z, with noise, and in training styles to mix, by `seeds` int64 [B]."""
        w = self.mapping(z, labels)
        if self.training and self.mixing > 0:
            other = self.mapping(self.draw(seeds, 1), labels)
            w = torch.where(self._mixed(seeds), other[:, None], w[:, None])
        return self.synthesis(w, seeds)

    def draw(self, seeds: Tensor, number: int = 0) -> Tensor:
        """The latents [B, latents] of `seeds` int64 [B]; those of another number are independent of them."""
        return ops.gaussian(seeds, (self.latents,), stream=ops.Purpose.INITIAL_STATE.stream(number))

    def mapping(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Styles w [B, latents] of z; lengths of z don't count."""
        embedded = self.labels(labels)
        parts = [z] if embedded is None else [z, embedded]
        w = torch.cat([part * torch.rsqrt(part.square().mean(1, keepdim=True) + 1e-8) for part in parts], 1)
        for layer in self.map:
            w = F.leaky_relu(layer(w), _SLOPE)
        return w

    def synthesis(self, w: Tensor, seeds: Tensor) -> Tensor:
        """Images of styles [B, latents], or [B, layers, latents] with one for each layer, with noise by `seeds`."""
        styles = w.expand(-1, len(self.layers), -1) if w.dim() == 3 else w[:, None].expand(-1, len(self.layers), -1)
        x = self.constant.expand(len(w), -1, -1, -1)
        for place, (layer, style) in enumerate(zip(self.layers, styles.unbind(1), strict=True)):
            if place and place % 2 == 0:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            noise = ops.gaussian(seeds, (1, *self.sizes[place // 2]), stream=ops.Purpose.NOISE.stream(place))
            x = layer(x, style, noise)
        return self.output(x)

    @torch.no_grad()
    def mean_style(self, labels: Tensor | None) -> Tensor:
        """The mean style of each of `labels` int64 [B], [B, latents]; [1, latents] without classes.

        It is the mean of 1024 latents, always the same; the paper keeps a running mean over the training's.
        """
        device = self.constant.device
        z = self.draw(ops.derive_seeds(0, torch.arange(_OF_THE_MEAN, device=device)))
        if labels is None:
            return self.mapping(z, None).mean(0, keepdim=True)
        distinct, places = labels.unique(return_inverse=True)
        return torch.stack([self.mapping(z, label.expand(len(z))).mean(0) for label in distinct])[places]

    def truncated(self, w: Tensor, labels: Tensor | None, factor: float) -> Tensor:
        """Styles [B, latents] moved towards the mean: w̄ + factor·(w − w̄); 1 leaves them, 0 is the mean."""
        return w if factor == 1 else torch.lerp(self.mean_style(labels).to(w.dtype).expand_as(w), w, factor)

    def _mixed(self, seeds: Tensor) -> Tensor:
        """Where an image takes its second style: bool [B, layers, 1], the last of its layers or none."""
        draws = ops.uniform(seeds, (2,), stream=ops.Purpose.AUGMENTATION.stream(1))
        count = len(self.layers)
        # Uniform in 1 … count − 1, for draws lie in (0, 1].
        first = (draws[:, 0].double() * (count - 1)).ceil().long()
        first = torch.where(draws[:, 1] <= self.mixing, first, count)
        return (torch.arange(count, device=seeds.device) >= first[:, None])[..., None]


class _Styled(nn.Module):
    """A convolution, or nothing before the first layer; noise of a learned strength; the style."""

    def __init__(self, inputs: int | None, outputs: int, latents: int) -> None:
        super().__init__()
        self.convolution = nn.Identity() if inputs is None else EqualizedConv(inputs, outputs, 3, gain=RECTIFIED)
        self.strength = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.style = EqualizedLinear(latents, 2 * outputs)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        x = F.leaky_relu(self.convolution(x) + self.strength * noise, _SLOPE)
        scale, shift = self.style(w).chunk(2, 1)
        return ops.adaptive_instance_norm(x, scale, shift)


class StyleDiscriminator(nn.Module):
    """Images [B, channels, H, W] and labels int64 [B], or None, to logits [B], high where they look real.

    Residual blocks halve the image down to a few positions; width, classes and errors are as of `StyleGenerator`. Of
    classes it is asked whether the image is a real one of that class (Miyato and Koyama, 2018).
    """

    def __init__(self, *, image_size: tuple[int, int], channels: int, width: int = 32, classes: int = 0) -> None:
        super().__init__()
        check_sizes(channels=channels, width=width)
        sizes = resolutions(image_size)
        widths = widths_of(len(sizes), width)[::-1]
        self.input = EqualizedConv(channels, widths[0], 1, gain=RECTIFIED)
        self.blocks = nn.ModuleList(_Block(*pair) for pair in zip(widths, widths[1:], strict=False))
        self.last = EqualizedConv(widths[-1], widths[-1], 3, gain=RECTIFIED)
        self.dense = EqualizedLinear(widths[-1] * sizes[0][0] * sizes[0][1], widths[-1], gain=RECTIFIED)
        self.output = EqualizedLinear(widths[-1], 1)
        self.labels = LabelEmbedding(classes, widths[-1], widths[-1] ** -0.5)

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """[B, channels, H, W] to [B]."""
        x = F.leaky_relu(self.input(images), _SLOPE)
        for block in self.blocks:
            x = block(x)
        features = F.leaky_relu(self.dense(F.leaky_relu(self.last(x), _SLOPE).flatten(1)), _SLOPE)
        logits, embedded = self.output(features)[:, 0], self.labels(labels)
        return logits if embedded is None else logits + (embedded * features).sum(1)


class _Block(nn.Module):
    """Two convolutions beside one of kernel 1, at half the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualizedConv(inputs, inputs, 3, gain=RECTIFIED)
        self.second = EqualizedConv(inputs, outputs, 3, gain=RECTIFIED)
        self.shortcut = EqualizedConv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.leaky_relu(self.second(F.leaky_relu(self.first(x), _SLOPE)), _SLOPE)
        return (F.avg_pool2d(branch, 2) + self.shortcut(F.avg_pool2d(x, 2))) / math.sqrt(2)
