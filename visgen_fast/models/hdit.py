"""HDiT, the hourglass diffusion transformer: attention within windows at high resolutions, over all at the lowest.

Crowson et al., "Scalable high-resolution pixel-space image synthesis with hourglass diffusion transformers", 2024.
Each level merges squares of four tokens into one of the next; on the way back a token is split into four, and mixed
with what it was made of in a proportion that is learned. Twice the resolution is one level more, and costs as much as
its tokens do. The condition scales RMS norms; branches and output begin at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..nn.modulated import FeedForward, GatedResidualNorm, ResidualStream
from .layers.checks import check_images, check_sizes
from .layers.embeddings import TimeEmbedding
from .layers.labels import ClassEmbedding
from .layers.modulation import Modulation
from .layers.patches import patchify, unpatchify
from .layers.transformer import initialize
from .layers.windows import Pair, WindowAttention, to_grid, to_windows, window_of

_MERGED: Pair = (2, 2)


class HDiT(nn.Module):
    """A class-conditional hourglass diffusion transformer.

    image_size: pixels, one number or (height, width); channels: of input and output; patch_size: pixels along the side
    of a token of the first level; widths, depths, heads: of each level, the finest first, with half the tokens a side
    in the next: features of a token, blocks (on the way down, and as many on the way up; at the lowest once), attention
    heads; classes: number of labels, to which `null_label` = classes is added as "no class"; window: tokens along the
    side of a window of attention, at most, in all levels but the lowest; mlp_ratio: hidden width of a gated MLP over
    that of the level; dropout: on the output of each branch; conditioning: what `t` is, a time or the level λ, as the
    objective's `conditioning` says; given: channels that the network reads behind those of x_t.

    ValueError where a size is below 1, the levels' sequences differ in length, patch_size, doubled for each level after
    the first, does not divide the image, heads does not divide a width, a head's features are no multiple of 4, or no
    window fits a level.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        patch_size: int,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        classes: int,
        window: int = 8,
        mlp_ratio: float = 3.0,
        dropout: float = 0.0,
        conditioning: Literal["time", "log_snr"] = "time",
        given: int = 0,
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = height, breadth
        sizes = {"channels": channels, "patch_size": patch_size, "window": window}
        check_sizes(image_size=self.image_size, widths=widths, depths=depths, heads=heads, **sizes)
        if not len(widths) == len(depths) == len(heads) > 0:
            raise ValueError(
                "widths, depths and heads must have a number for each level, got "
                f"{len(widths)}, {len(depths)} and {len(heads)}"
            )
        for width, count in zip(widths, heads, strict=True):
            if width % (4 * count):
                raise ValueError(
                    f"heads must divide a level's width into parts of a multiple of 4, got {count} for {width}"
                )
        reduction = patch_size * 2 ** (len(widths) - 1)
        if height % reduction or breadth % reduction:
            raise ValueError(
                f"patch_size, doubled for each level after the first, must divide image_size {self.image_size}, "
                f"got {reduction}"
            )
        self.channels, self.patch_size, self.null_label, self.given = channels, patch_size, classes, given

        self.embed_time = TimeEmbedding(widths[-1], conditioning=conditioning)
        self.embed_label = ClassEmbedding(classes, widths[-1])
        self.embed_patch = nn.Linear((channels + given) * patch_size**2, widths[0])
        self.grid = height // patch_size, breadth // patch_size
        grids = [(self.grid[0] >> level, self.grid[1] >> level) for level in range(len(widths))]
        options: dict[str, Any] = {"told": widths[-1], "mlp_ratio": mlp_ratio, "dropout": dropout}
        body: Blocks | Level = Blocks(grids[-1], widths[-1], depths[-1], heads[-1], grids[-1], **options)
        for level in reversed(range(len(widths) - 1)):
            own = widths[level], depths[level], heads[level], window_of(grids[level], window)
            body = Level(grids[level], *own, width_below=widths[level + 1], below=body, **options)
        self.body = body
        self.norm = GatedResidualNorm(widths[0], norm="rms", affine=True)
        self.output = nn.Linear(widths[0], channels * patch_size**2)
        initialize(self, (self.embed_label, self.embed_time.input, self.embed_time.output))
        nn.init.zeros_(self.output.weight)
        for module in self.modules():
            if isinstance(module, Block):
                for last in (module.attention.project, module.mlp[-1]):
                    assert isinstance(last, nn.Linear)
                    nn.init.zeros_(last.weight)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The prediction [B, channels, height, width].

        x_t: [B, channels + given, height, width]; t: times in [0, 1], or levels λ, [B]; labels: int64 [B], `null_label`
        for no class. ValueError for images of another size.
        """
        check_images(x_t, self.channels + self.given, self.image_size)
        condition = self.embed_time(t) + self.embed_label(labels)
        tokens = self.embed_patch(patchify(x_t, self.patch_size)).unflatten(1, self.grid)
        _, h = self.norm(*self.body(tokens, condition))
        return unpatchify(self.output(h).flatten(1, 2), self.patch_size, self.image_size)


class Level(nn.Module):
    """Blocks over a grid around `below`, which works on squares of four tokens as one."""

    def __init__(
        self,
        grid: Pair,
        width: int,
        depth: int,
        heads: int,
        window: Pair,
        *,
        width_below: int,
        below: nn.Module,
        told: int,
        mlp_ratio: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.grid, sizes = grid, (grid, width, depth, heads, window)
        options: dict[str, Any] = {"told": told, "mlp_ratio": mlp_ratio, "dropout": dropout}
        self.down = Blocks(*sizes, **options)
        self.merge = nn.Linear(4 * width, width_below, bias=False)
        self.below = below
        self.split = nn.Linear(width_below, 4 * width, bias=False)
        self.share = nn.Parameter(torch.tensor(0.5))
        self.up = Blocks(*sizes, **options, after=depth)

    def forward(self, x: Tensor, condition: Tensor) -> ResidualStream:
        """x: [B, height, width, features]; condition: [B, told]."""
        x = self.down(x, condition).total()
        merged = self.merge(to_windows(x, _MERGED).flatten(2)).unflatten(1, (self.grid[0] // 2, -1))
        low = self.split(self.below(merged, condition).total()).flatten(1, 2).unflatten(2, (4, -1))
        return self.up(x + self.share * (to_grid(low, self.grid, _MERGED) - x), condition)


class Blocks(nn.Module):
    """Blocks over one grid, every other of them with shifted windows; `after` counts those before them."""

    def __init__(
        self,
        grid: Pair,
        width: int,
        depth: int,
        heads: int,
        window: Pair,
        *,
        told: int,
        mlp_ratio: float,
        dropout: float,
        after: int = 0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(WindowAttention(grid, width, heads, window, shifted=place % 2 == 1), width, told, mlp_ratio, dropout)
            for place in range(after, after + depth)
        )

    def forward(self, x: Tensor, condition: Tensor) -> ResidualStream:
        """x: [B, height, width, features]; condition: [B, told]."""
        stream = ResidualStream(x)
        for block in self.blocks:
            stream = block(stream, condition)
        return stream


class Block(nn.Module):
    """Attention and a gated MLP, each of an RMS norm that the condition scales."""

    def __init__(self, attention: WindowAttention, width: int, told: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.norm = GatedResidualNorm(width, norm="rms")
        self.attention = attention
        self.mlp = FeedForward(width, max(1, int(width * mlp_ratio)), "geglu", bias=False)
        self.dropout = nn.Dropout(dropout)
        self.modulation = Modulation(told, 2, width)

    def forward(self, stream: ResidualStream, condition: Tensor) -> ResidualStream:
        """stream: [B, height, width, features]; condition: [B, told]."""
        scale_1, scale_2 = self.modulation(condition)
        x, h = self.norm(*stream, scale_1)
        x, h = self.norm(x, self.dropout(self.attention(h)), None, scale_2)
        return ResidualStream(x, self.dropout(self.mlp(h)))
