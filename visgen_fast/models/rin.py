"""RIN, the recurrent interface network: a few latents do the work, and read and write the many tokens of an image.

Jabri, Fleet and Chen, "Scalable adaptive computation for iterative generation", 2023. Each block has three parts:
latents read the tokens by attention, work among themselves, and write to the tokens. Only reading and writing cost more
at a higher resolution. Time and class are latents too. Latents may begin where another pass left them, which
`diffusion.self_conditioning` trains.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..nn.modulated import FeedForward, GatedResidualNorm, ModulatedNorm, ResidualStream
from ..nn.state import RefilledBuffers
from .layers.attention import Attention, CrossAttention
from .layers.checks import check_images, check_sizes, check_transformer
from .layers.embeddings import TimeEmbedding, sincos_positions
from .layers.labels import ClassEmbedding
from .layers.patches import patchify, unpatchify
from .layers.transformer import feed_forward, initialize


class RIN(RefilledBuffers):
    """A class-conditional recurrent interface network.

    image_size: pixels, one number or (height, width); channels: of input and output; patch_size: pixels along the side
    of a patch, which is a token; interface: features of a token; latents: their number; width: features of a latent;
    blocks: how often latents read, work and write; depth: transformer layers of that work; heads: of all attention;
    classes: number of labels, to which `null_label` = classes is added as "no class"; mlp_ratio: hidden width of an MLP
    over that of its tokens or latents; dropout: on the output of each branch; conditioning: what `t` is, a time or the
    level λ, as the objective's `conditioning` says.

    ValueError where a size is below 1, patch_size does not divide the image, heads does not divide width and interface,
    or one of these is no multiple of 4.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        patch_size: int,
        interface: int,
        latents: int,
        width: int,
        blocks: int,
        depth: int,
        heads: int,
        classes: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        conditioning: Literal["time", "log_snr"] = "time",
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = height, breadth
        sizes = {"channels": channels, "patch_size": patch_size, "interface": interface, "latents": latents}
        check_sizes(image_size=self.image_size, width=width, blocks=blocks, depth=depth, heads=heads, **sizes)
        if height % patch_size or breadth % patch_size:
            raise ValueError(f"patch_size must divide image_size {self.image_size}, got {patch_size}")
        for features in (width, interface):
            check_transformer(features, heads)
        self.channels, self.patch_size, self.null_label = channels, patch_size, classes
        self.grid, self.interface = (height // patch_size, breadth // patch_size), interface
        self.register_fresh_buffers()

        self.embed_patch = nn.Linear(channels * patch_size**2, interface)
        self.embed_time = TimeEmbedding(width, conditioning=conditioning)
        self.embed_label = ClassEmbedding(classes, width)
        self.latents = nn.Parameter(torch.empty(latents, width))
        self.previous = Previous(width, mlp_ratio)
        self.blocks = nn.ModuleList(Block(width, interface, depth, heads, mlp_ratio, dropout) for _ in range(blocks))
        self.norm = GatedResidualNorm(interface, affine=True)
        self.output = nn.Linear(interface, channels * patch_size**2)
        initialize(self, (self.embed_label, self.embed_time.input, self.embed_time.output))
        nn.init.normal_(self.latents, std=0.02)
        nn.init.zeros_(self.output.weight)

    def fresh_buffers(self) -> dict[str, Tensor]:
        return {"positions": sincos_positions(*self.grid, self.interface)}

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor, latents: Tensor | None = None) -> Tensor:
        """The prediction [B, channels, height, width].

        x_t: of this shape; t: times in [0, 1], or levels λ, [B]; labels: int64 [B], `null_label` for no class; latents:
        as of `with_latents`. ValueError for images of another size.
        """
        return self.with_latents(x_t, t, labels, latents)[0]

    def with_latents(
        self, x_t: Tensor, t: Tensor, labels: Tensor, latents: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The prediction, and the latents [B, latents, width] that it leaves, with which another pass may begin.

        latents: those of a pass before; 0 for a sample without one, None for all of them.
        """
        check_images(x_t, self.channels, self.image_size)
        if latents is None:  # goes the same way, so that every weight has a gradient on every rank
            latents = x_t.new_zeros(len(x_t), *self.latents.shape)
        first = self.latents + self.previous(latents)
        told = torch.stack((self.embed_time(t), self.embed_label(labels)), 1)
        tokens = self.embed_patch(patchify(x_t, self.patch_size))
        interface = ResidualStream(tokens + self.positions.to(tokens.dtype))
        working = ResidualStream(torch.cat((first.to(told.dtype), told), 1))
        for block in self.blocks:
            interface, working = block(interface, working)
        _, h = self.norm(*interface)
        return unpatchify(self.output(h), self.patch_size, self.image_size), working.total()[:, : len(self.latents)]


class Previous(nn.Module):
    """What latents of a pass before add to the first ones: nothing before training, and nothing where they are 0."""

    def __init__(self, width: int, mlp_ratio: float) -> None:
        super().__init__()
        self.mlp = FeedForward(width, max(1, int(width * mlp_ratio)), bias=False)
        self.norm = ModulatedNorm(width, norm="rms", affine=True)
        assert self.norm.weight is not None
        nn.init.zeros_(self.norm.weight)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, latents, width] to the same shape."""
        return self.norm(latents + self.mlp(latents))


class Block(nn.Module):
    """Latents read the interface's tokens, work, and write to them."""

    def __init__(self, width: int, interface: int, depth: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.read_norm = GatedResidualNorm(interface, affine=True)
        self.read = Layer(CrossAttention(width, heads, context=interface), width, mlp_ratio, dropout)
        self.work = nn.ModuleList(Layer(Attention(width, heads), width, mlp_ratio, dropout) for _ in range(depth))
        self.write_norm = GatedResidualNorm(width, affine=True)
        self.write = Layer(CrossAttention(interface, heads, context=width), interface, mlp_ratio, dropout)

    def forward(self, interface: ResidualStream, latents: ResidualStream) -> tuple[ResidualStream, ResidualStream]:
        """interface: [B, N, interface]; latents: [B, latents + 2, width]."""
        tokens, seen = self.read_norm(*interface)
        latents = self.read(latents, seen)
        for layer in self.work:
            latents = layer(latents)
        z, said = self.write_norm(*latents)
        return self.write(ResidualStream(tokens), said), ResidualStream(z)


class Layer(nn.Module):
    """Attention, to the tokens themselves or to others, and an MLP, each of a norm."""

    def __init__(self, attention: nn.Module, width: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.norm, self.mlp_norm = (GatedResidualNorm(width, affine=True) for _ in range(2))
        self.attention, self.mlp = attention, feed_forward(width, mlp_ratio, "gelu_tanh")
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: ResidualStream, *others: Tensor) -> ResidualStream:
        """stream: [B, N, width]; others: the tokens that cross attention is to."""
        x, h = self.norm(*stream)
        x, h = self.mlp_norm(x, self.dropout(self.attention(h, *others)), None)
        return ResidualStream(x, self.dropout(self.mlp(h)))
