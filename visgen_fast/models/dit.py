"""DiT, the diffusion transformer of Peebles and Xie, "Scalable diffusion models with transformers", 2023.

An image becomes a sequence of patches; a plain transformer works on it. Time and class enter each block as a shift, a
scale and a gate of its normalised activations (AdaLN-Zero). Gates and output start at zero: the network begins as the
zero function with an identity inside.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..nn.modulated import GatedResidualNorm, ResidualStream
from ..nn.recompute import Recompute, check_recompute, run_recomputing
from ..nn.state import RefilledBuffers
from .layers.checks import check_images, check_sizes, check_transformer
from .layers.embeddings import TimeEmbedding, sincos_positions
from .layers.modulation import Modulation
from .layers.patches import patchify, unpatchify
from .layers.transformer import Block, initialize


class DiT(RefilledBuffers):
    """A class-conditional diffusion transformer.

    image_size: pixels, one number or (height, width); channels: of input and output; patch_size: pixels along the side
    of a patch; width, depth, heads: of the transformer; classes: number of labels, to which `null_label` = classes is
    added as "no class"; mlp_ratio: hidden width of a block's MLP over `width`; dropout: on the output of each branch;
    bottleneck: features that a patch is squeezed through on its way to `width`, by two linear layers (Li and He, "Back
    to basics: let denoising generative models denoise", 2025); None is one layer; conditioning: what `t` is, a time or
    the level λ, as the objective's `conditioning` says; recompute: "cheap" keeps of each block the results of matrix
    products and attention for the backward pass, about half of the bytes, and computes the rest again.

    ValueError where one of the sizes is below 1, patch_size does not divide the image, heads does not divide width,
    width is no multiple of 4, or conditioning or recompute is unknown.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        bottleneck: int | None = None,
        conditioning: Literal["time", "log_snr"] = "time",
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = height, breadth
        sizes = {"channels": channels, "patch_size": patch_size, "width": width, "depth": depth, "heads": heads}
        check_sizes(image_size=self.image_size, bottleneck=() if bottleneck is None else bottleneck, **sizes)
        if any(side % patch_size for side in self.image_size):
            raise ValueError(f"patch_size must divide image_size {self.image_size}, got {patch_size}")
        check_transformer(width, heads)
        check_recompute(recompute)
        self.recompute: Recompute = recompute
        self.channels, self.patch_size, self.null_label = channels, patch_size, classes

        self.grid, self.width = (height // patch_size, breadth // patch_size), width
        self.register_fresh_buffers()
        self.embed_patch = _patch_embedding(channels * patch_size**2, width, bottleneck)
        self.embed_time = TimeEmbedding(width, conditioning=conditioning)
        self.embed_label = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, dropout) for _ in range(depth))
        self.output = Output(width, channels * patch_size**2)
        self.initialize()

    def fresh_buffers(self) -> dict[str, Tensor]:
        return {"positions": sincos_positions(*self.grid, self.width)}

    def initialize(self) -> None:
        """The paper's initial weights."""
        initialize(self, (self.embed_label, self.embed_time.input, self.embed_time.output))
        nn.init.zeros_(self.output.linear.weight)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The prediction [B, channels, height, width].

        x_t: [B, channels, height, width]; t: times in [0, 1], or levels λ, [B]; labels: int64 [B], `null_label` for no
        class. ValueError for images of another size.
        """
        check_images(x_t, self.channels, self.image_size)
        condition = (self.embed_time(t) + self.embed_label(labels))[:, None]
        tokens = self.embed_patch(patchify(x_t, self.patch_size))
        stream = ResidualStream(tokens + self.positions.to(tokens.dtype))
        for block in self.blocks:
            stream = run_recomputing(self.recompute, block, stream, condition)
        return unpatchify(self.output(stream, condition), self.patch_size, self.image_size)


def _patch_embedding(pixels: int, width: int, bottleneck: int | None) -> nn.Module:
    if bottleneck is None:
        return nn.Linear(pixels, width)
    return nn.Sequential(nn.Linear(pixels, bottleneck, bias=False), nn.Linear(bottleneck, width))


class Output(nn.Module):
    """Normalise, modulate and map tokens to the pixels of their patch."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.norm = GatedResidualNorm(width)
        self.modulation = Modulation(width, 2)
        self.linear = nn.Linear(width, features)

    def forward(self, stream: ResidualStream, condition: Tensor) -> Tensor:
        """[B, N, width] to [B, N, features]."""
        shift, scale = self.modulation(condition)
        _, h = self.norm(*stream, scale, shift)
        return self.linear(h)
