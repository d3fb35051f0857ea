"""The patch discriminator of Isola et al., "Image-to-image translation with conditional adversarial networks", 2017.

Its verdicts are local: one number for each patch that its convolutions see. Group normalisation stands in for the
paper's batch normalisation, so that the verdict on an image does not depend on the images beside it.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Images [B, channels, H, W] to logits [B, 1, h, w], high where a patch looks real.

    width: features after the first convolution, doubled by each of the `layers` − 1 next ones that halve the
    resolution, up to eight times `width`. ValueError where a size is below 1.
    """

    def __init__(self, *, channels: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        for name, value in {"channels": channels, "width": width, "layers": layers}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        features = width
        for layer in range(1, layers + 1):
            wider = width * min(2**layer, 8)
            # The last of these convolutions keeps the resolution.
            kernel, stride = (4, 2) if layer < layers else (3, 1)
            parts += [
                nn.Conv2d(features, wider, kernel, stride=stride, padding=1, bias=False),
                nn.GroupNorm(math.gcd(8, wider), wider),
                nn.LeakyReLU(0.2),
            ]
            features = wider
        self.layers = nn.Sequential(*parts, nn.Conv2d(features, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, 1, H/2^layers, W/2^layers]."""
        return self.layers(images)
