"""Real NVP: couplings that scale and shift a part of the image by functions of the rest.

Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017. Where the paper normalizes over a batch,
the networks here normalize within an image, so that an image's likelihood is its own.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.layers.checks import check_sizes
from ..models.layers.residual import ModulatedResidualBlock, group_norm, zeroed
from ..nn.conditions import AnyCondition
from ..nn.state import RefilledBuffers
from .flow import Flow


class RealNVP(Flow):
    """A multi-scale flow of affine couplings.

    image_size: pixels, one number or (height, width). levels: resolutions, each half of the one before, where half of
    the values leave. couplings: of a level, as many with a checkerboard's mask as with one of channels; the last level
    has the former alone, and one more. width, depth: features and residual blocks of each coupling's network. classes:
    number of labels, to which `null_label` = classes is added as "no class".

    ValueError where a size is below 1, or the image cannot be halved once for each level but the first.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        width: int,
        depth: int,
        levels: int,
        couplings: int = 3,
        classes: int = 0,
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        check_sizes(image_size=(height, breadth), channels=channels, width=width, depth=depth)
        check_sizes(levels=levels, couplings=couplings)
        factor = 2 ** (levels - 1)
        if height % factor or breadth % factor:
            raise ValueError(f"2^(levels − 1) must divide image_size {(height, breadth)}, got {factor}")
        self.shape, self.null_label = (channels, height, breadth), classes
        self.embed_label = nn.Embedding(classes + 1, width)
        shape, made = self.shape, []
        for level in range(levels):
            last = level == levels - 1
            made.append(Level(shape, width, depth, couplings, last))
            shape = (2 * shape[0], shape[1] // 2, shape[2] // 2)
        self.levels = nn.ModuleList(made)

    def forward(self, x: Tensor, condition: AnyCondition = None) -> tuple[Tensor, Tensor]:
        label = self.embed_label(self.labels_for(x, condition))
        rest, total, parts = x, x.new_zeros(len(x)), []
        for level in self.levels:
            rest, left, log_determinant = level(rest, label)
            parts.append(left.flatten(1))
            total = total + log_determinant
        return torch.cat(parts, 1).view_as(x), total

    def inverse(self, z: Tensor, condition: AnyCondition = None, *, guidance: float = 1.0) -> Tensor:
        if guidance != 1:
            raise ValueError(f"guidance must be 1 for Real NVP, which has none, got {guidance}")
        label = self.embed_label(self.labels_for(z, condition, "z"))
        shapes = [cast(Level, level).leaves for level in self.levels]
        parts = z.flatten(1).split([channels * height * width for channels, height, width in shapes], 1)
        rest: Tensor | None = None
        for level, left, shape in reversed(list(zip(self.levels, parts, shapes, strict=True))):
            rest = cast(Level, level).inverse(rest, left.unflatten(1, shape), label)
        assert rest is not None  # there is a level
        return rest


class Level(nn.Module):
    """The couplings of one resolution. `leaves` is the shape of the values that go no further."""

    def __init__(self, shape: tuple[int, int, int], width: int, depth: int, couplings: int, last: bool) -> None:
        super().__init__()
        channels, height, breadth = shape
        board = (torch.arange(height, device="cpu")[:, None] + torch.arange(breadth, device="cpu")) % 2
        halves = torch.arange(4 * channels, device="cpu")[:, None, None] // (2 * channels)
        squeezed = 0 if last else couplings
        self.checkered = nn.ModuleList(
            Coupling(channels, board[None] == number % 2, width, depth) for number in range(couplings + last)
        )
        self.squeezed = nn.ModuleList(
            Coupling(4 * channels, halves == number % 2, width, depth) for number in range(squeezed)
        )
        self.leaves = shape if last else (2 * channels, height // 2, breadth // 2)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What goes on, what leaves, and the logarithm of the determinant [B]. On the last level nothing goes on."""
        total = x.new_zeros(len(x))
        for coupling in self.checkered:
            x, log_determinant = coupling(x, label)
            total = total + log_determinant
        if not self.squeezed:
            return x[:, :0], x, total
        x = F.pixel_unshuffle(x, 2)
        for coupling in self.squeezed:
            x, log_determinant = coupling(x, label)
            total = total + log_determinant
        rest, left = x.chunk(2, 1)
        return rest, left, total

    def inverse(self, rest: Tensor | None, left: Tensor, label: Tensor) -> Tensor:
        x = left if rest is None else torch.cat((rest, left), 1)
        if self.squeezed:
            for coupling in reversed(self.squeezed):
                x = cast(Coupling, coupling).inverse(x, label)
            x = F.pixel_shuffle(x, 2)
        for coupling in reversed(self.checkered):
            x = cast(Coupling, coupling).inverse(x, label)
        return x


class Coupling(RefilledBuffers):
    """x where the mask is 1; elsewhere x·exp(s) + t, with s and t functions of x where the mask is 1.

    mask: bool, broadcastable to an image.
    """

    mask: Tensor

    def __init__(self, channels: int, mask: Tensor, width: int, depth: int) -> None:
        super().__init__()
        self._mask = mask
        self.register_fresh_buffers()
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(ModulatedResidualBlock(width, width, width) for _ in range(depth))
        last = zeroed(nn.Conv2d(width, 2 * channels, 3, padding=1))
        self.leave = nn.Sequential(group_norm(width), nn.SiLU(), last)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def fresh_buffers(self) -> dict[str, Tensor]:
        return {"mask": self._mask.to(torch.get_default_device(), torch.get_default_dtype())}

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._terms(x, label)
        return x * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse(self, x: Tensor, label: Tensor) -> Tensor:
        log_scale, shift = self._terms(x, label)
        return (x - shift) * (-log_scale).exp()

    def _terms(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """s and t, 0 where the mask is 1: from what the coupling leaves as it is, hence the same both ways."""
        features = self.enter(self.mask * x)
        for block in self.blocks:
            features = block(features, label)
        log_scale, shift = self.leave(features).to(x.dtype).chunk(2, 1)
        free = 1 - self.mask
        return free * self.scale * log_scale.tanh(), free * shift
