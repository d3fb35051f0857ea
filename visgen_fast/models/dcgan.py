"""The convolutional generator and discriminator of DCGAN, for images of classes or without.

Radford, Metz and Chintala, "Unsupervised representation learning with deep convolutional generative adversarial
networks", 2016. Group normalisation stands in for the paper's batch normalisation: an image, and the verdict on it, do
not depend on those beside it. Classes enter as in Miyato and Koyama, "cGANs with projection discriminator", 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from .layers.checks import check_sizes
from .layers.labels import LabelEmbedding
from .layers.residual import group_norm
from .layers.resolutions import resolutions, widths_of

_LATENT_OF_A_CLASS = 32
_SLOPE = 0.2


class DCGANGenerator(nn.Module):
    """z [B, latents] and labels int64 [B], or None, to images [B, channels, H, W] in [−1, 1].

    A linear layer makes a small image of features, which transposed convolutions double up to `image_size`. width:
    features at the finest resolution; each coarser one has twice as many, up to eight times. classes: 0 for none.

    ValueError for sizes below 1, and for images that cannot be halved.
    """

    def __init__(
        self, *, image_size: tuple[int, int], channels: int, latents: int = 100, width: int = 64, classes: int = 0
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, latents=latents, width=width)
        sizes = resolutions(image_size)
        widths = widths_of(len(sizes) - 1, width)
        self.latents, self.classes = latents, classes
        self.labels = LabelEmbedding(classes, _LATENT_OF_A_CLASS, 1.0)
        self.start = widths[0], *sizes[0]
        inputs = latents + (_LATENT_OF_A_CLASS if classes else 0)
        self.input = nn.Linear(inputs, widths[0] * sizes[0][0] * sizes[0][1])
        layers: list[nn.Module] = [group_norm(widths[0]), nn.ReLU()]
        for wide, narrow in zip(widths, widths[1:], strict=False):
            layers += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False), group_norm(narrow), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor, labels: Tensor | None, seeds: Tensor | None = None) -> Tensor:
        """Images of z. `seeds` are there for generators with noise of their own, which this one has not."""
        embedded = self.labels(labels)
        inputs = z if embedded is None else torch.cat((z, embedded), 1)
        return self.layers(self.input(inputs).view(len(z), *self.start))

    def draw(self, seeds: Tensor) -> Tensor:
        """The latents [B, latents] of `seeds` int64 [B]."""
        return ops.gaussian(seeds, (self.latents,), stream=ops.Purpose.INITIAL_STATE.stream())


class DCGANDiscriminator(nn.Module):
    """Images [B, channels, H, W] and labels int64 [B], or None, to logits [B], high where they look real.

    Convolutions halve the image down to a few positions; width, classes and errors are as of `DCGANGenerator`. Of
    classes it is asked whether the image is a real one of that class.
    """

    def __init__(self, *, image_size: tuple[int, int], channels: int, width: int = 64, classes: int = 0) -> None:
        super().__init__()
        check_sizes(channels=channels, width=width)
        sizes = resolutions(image_size)
        widths = widths_of(len(sizes) - 1, width)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(_SLOPE)]
        for narrow, wide in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), group_norm(wide), nn.LeakyReLU(_SLOPE)]
        # One more than in the paper, whose images are halved more often.
        wide = widths[-1]
        layers += [nn.Conv2d(wide, wide, 3, 1, 1, bias=False), group_norm(wide), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1] * sizes[0][0] * sizes[0][1], 1)
        self.labels = LabelEmbedding(classes, widths[-1], widths[-1] ** -0.5)

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """[B, channels, H, W] to [B]."""
        features = self.layers(images)
        logits = self.output(features.flatten(1))[:, 0]
        embedded = self.labels(labels)
        return logits if embedded is None else logits + (embedded * features.mean((2, 3))).sum(1)
