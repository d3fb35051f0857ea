"""DiT, the diffusion transformer of Peebles and Xie, "Scalable diffusion models with transformers", 2023.

An image becomes a sequence of patches; a plain transformer works on it. Time and class enter each block as a shift, a
scale and a gate of its normalised activations (AdaLN-Zero). Gates and output start at zero: the network begins as the
zero function with an identity inside.

Beyond the paper: a condition of a vector and tokens, which blocks attend to; rotary positions; normalised queries and
keys; gated MLPs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..nn.conditions import AnyCondition
from ..nn.modulated import GatedResidualNorm, ResidualStream
from ..nn.recompute import Recompute, check_recompute, run_recomputing
from ..nn.state import RefilledBuffers
from .layers.checks import check_images, check_sizes, check_transformer
from .layers.embeddings import TimeEmbedding, frame_positions, sincos_positions
from .layers.labels import ClassEmbedding, PooledEmbedding, TokenEmbedding
from .layers.modulation import Modulation
from .layers.patches import patchify, unpatchify
from .layers.rotary import rotary_angles
from .layers.transformer import Block, initialize

State = tuple[ResidualStream, ...]


class DiT(RefilledBuffers):
    """A diffusion transformer, told a class, or the parts of a `Condition`.

    image_size: pixels, one number or (height, width), or (frames, height, width) for clips, in which each frame may
    have a time of its own; causal: whether the frames of clips see earlier ones alone; channels: of input and output;
    patch_size: pixels along the side of a patch; width, depth, heads: of the transformer; classes: number of labels, to
    which `null_label` = classes is added as "no class"; mlp_ratio: hidden width of a block's MLP over `width`; dropout:
    on the output of each branch; bottleneck: features that a patch is squeezed through on its way to `width`, by two
    linear layers (Li and He, "Back to basics: let denoising generative models denoise", 2025); None is one layer;
    conditioning: what `t` is, a time or the level λ, as the objective's `conditioning` says; time_scale: what the
    fastest wave of t turns by for 1 of it, low where a loss differentiates t (`diffusion.FlowMap`); destination:
    whether the network is told the time that a step leads to, and told_guidance: the guidance that it stands for, both
    by embeddings that start at zero; recompute: "cheap" keeps of each block the results of matrix products and
    attention for the backward pass, about half of the bytes, and computes the rest again.

    In the place of classes, pooled: features of a condition's pooled part; tokens: of its tokens, to which all blocks
    attend, by default none. mlp: activation of the MLPs, as of `nn.FeedForward`, for example "swiglu". normalized:
    whether queries and keys are, by an RMS norm of each head. rotary: whether positions turn queries and keys, and are
    not added to the patches.

    ValueError where one of the sizes is below 1, patch_size does not divide the image, heads does not divide width,
    width is no multiple of 4, or one of a head with rotary positions, conditioning, mlp or recompute is unknown, and
    unless either classes or pooled is given.
    """

    angles: Tensor

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...],
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        classes: int | None = None,
        pooled: int | None = None,
        tokens: int | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        bottleneck: int | None = None,
        conditioning: Literal["time", "log_snr"] = "time",
        time_scale: float = 1000.0,
        destination: bool = False,
        told_guidance: bool = False,
        mlp: str = "gelu_tanh",
        normalized: bool = False,
        rotary: bool = False,
        causal: bool = False,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        *frames, height, breadth = self.image_size
        sizes = {"channels": channels, "patch_size": patch_size, "width": width, "depth": depth, "heads": heads}
        check_sizes(image_size=self.image_size, bottleneck=() if bottleneck is None else bottleneck, **sizes)
        if len(frames) > 1 or (causal and not frames):
            raise ValueError(
                "image_size must be (height, width), or (frames, height, width), as causal needs it, got "
                f"{self.image_size}"
            )
        if height % patch_size or breadth % patch_size:
            raise ValueError(f"patch_size must divide image_size {self.image_size}, got {patch_size}")
        check_transformer(width, heads)
        if (classes is None) == (pooled is None) or (pooled is None and tokens is not None):
            raise ValueError("either classes or pooled must be given, and tokens beside pooled alone")
        features, of_clips = width // heads, ", and at least 8 for clips" if frames else ""
        if rotary and (features % 4 or (frames and features < 8)):  # a pair for each axis
            raise ValueError(f"rotary positions need heads of a multiple of 4 features{of_clips}, got {features}")
        check_recompute(recompute)
        self.recompute: Recompute = recompute
        self.channels, self.patch_size = channels, patch_size

        self.grid, self.width = (*frames, height // patch_size, breadth // patch_size), width
        self.frames = frames[0] if frames else None
        self.head_features = width // heads if rotary else None
        self.register_fresh_buffers()
        self.embed_patch = _patch_embedding(channels * patch_size**2, width, bottleneck)
        self.time_scale = time_scale
        self.embed_time = TimeEmbedding(width, conditioning=conditioning, scale=time_scale)
        self.embed_destination = TimeEmbedding(width, scale=time_scale) if destination else None
        self.embed_guidance = TimeEmbedding(width, scale=1.0) if told_guidance else None
        self.embed_label: nn.Module
        if classes is not None:
            self.embed_label, self.null_label = ClassEmbedding(classes, width), classes
        elif pooled is not None:
            self.embed_label = PooledEmbedding(pooled, width)
        self.embed_tokens = None if tokens is None else TokenEmbedding(tokens, width)
        options: dict[str, Any] = {"mlp": mlp, "normalized": normalized}
        if causal:
            options["causal"] = True
        self.blocks = self.make_blocks(depth, (width, heads, mlp_ratio, dropout), options)
        self.output = Output(width, channels * patch_size**2)
        self.initialize()

    def fresh_buffers(self) -> dict[str, Tensor]:
        height, width = self.grid[-2:]
        if self.head_features is not None:
            return {"angles": rotary_angles(height, width, self.head_features, self.frames)}
        if self.frames is None:
            return {"positions": sincos_positions(height, width, self.width)}
        return {"positions": frame_positions(self.frames, height, width, self.width)}

    def make_blocks(self, depth: int, sizes: tuple[Any, ...], options: dict[str, Any]) -> nn.ModuleList:
        cross = self.embed_tokens is not None
        return nn.ModuleList(Block(*sizes, **options, cross=cross) for _ in range(depth))

    def initialize(self) -> None:
        """The paper's initial weights."""
        labels = (self.embed_label,) if isinstance(self.embed_label, nn.Embedding) else ()
        initialize(self, (*labels, self.embed_time.input, self.embed_time.output))
        nn.init.zeros_(self.output.linear.weight)
        for told in (self.embed_destination, self.embed_guidance):
            if told is not None:
                nn.init.normal_(told.input.weight, std=0.02)
                nn.init.zeros_(told.output.weight)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: AnyCondition,
        destination: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """The prediction [B, channels, height, width], or [B, channels, frames, height, width].

        x_t: of this shape; t: times in [0, 1], or levels λ, [B], or [B, frames]; labels: int64 [B], `null_label` for no
        class, or a `Condition`; destination: the times that steps lead to, as t, by default t itself; guidance: the
        scales that the prediction stands for, [B], by default 1. With rotary positions the sides of images may be any
        multiples of a patch's. ValueError for images of another size, for a condition of another kind, and where a
        network is given what it was not made to be told.
        """
        condition = self._condition(t, labels, destination, guidance)
        state, given = self.begin(self._tokens(x_t), condition, labels, self._angles(x_t))
        for block in self.blocks:
            state = self.advance(block, state, given)
        return self._image(self.output(state[0], condition), tuple(x_t.shape[-2:]))

    def features(self, x_t: Tensor, t: Tensor, labels: AnyCondition) -> list[Tensor]:
        """The tokens [B, N, width] after each block, [B, frames, N, width] of clips; arguments as of `forward`."""
        condition, found = self._condition(t, labels, None, None), []
        state, given = self.begin(self._tokens(x_t), condition, labels, self._angles(x_t))
        for block in self.blocks:
            state = self.advance(block, state, given)
            found.append(state[0].total())
        return found

    @property
    def factor(self) -> int | None:
        """What the sides of images must be multiples of, where rotary positions take any; else None."""
        return self.patch_size if self.head_features is not None and self.frames is None else None

    def begin(
        self, stream: ResidualStream, condition: Tensor, labels: AnyCondition, angles: Tensor | None
    ) -> tuple[State, tuple[Any, ...]]:
        """The streams before the first block, the patches' first; and all else that every block is given."""
        if self.embed_tokens is not None:
            return (stream,), (condition, angles, *self.embed_tokens(labels))
        return (stream,), (condition,) if angles is None else (condition, angles)

    def advance(self, block: nn.Module, state: State, given: tuple[Any, ...]) -> State:
        """The streams after a block."""
        return (run_recomputing(self.recompute, block, *state, *given),)

    def _tokens(self, x_t: Tensor) -> ResidualStream:
        check_images(x_t, self.channels, self.image_size, self.factor)
        if self.frames is None:
            patches = patchify(x_t, self.patch_size)
        else:
            patches = patchify(x_t.transpose(1, 2).flatten(0, 1), self.patch_size).unflatten(0, (-1, self.frames))
        tokens = self.embed_patch(patches)
        return ResidualStream(tokens if self.head_features else tokens + self.positions.to(tokens.dtype))

    def _angles(self, x_t: Tensor) -> Tensor | None:
        """Those of the rotary positions of images of this size."""
        if self.head_features is None or x_t.shape[2:] == self.image_size:
            return None if self.head_features is None else self.angles
        height, width = (side // self.patch_size for side in x_t.shape[2:])
        return rotary_angles(height, width, self.head_features).to(x_t.device, non_blocking=True)

    def _image(self, patches: Tensor, size: tuple[int, ...]) -> Tensor:
        """The inverse of `patchify`, for clips of each frame; size: (height, width) of the image."""
        if self.frames is None:
            return unpatchify(patches, self.patch_size, size)
        frames = unpatchify(patches.flatten(0, 1), self.patch_size, size)
        return frames.unflatten(0, (-1, self.frames)).transpose(1, 2)

    def _condition(
        self, t: Tensor, labels: AnyCondition, destination: Tensor | None, guidance: Tensor | None
    ) -> Tensor:
        """All that the network is told beside the image, [B, 1, width], or [B, frames, 1, width]."""
        if destination is not None and self.embed_destination is None:
            raise ValueError("destination must be left out for a DiT without destination=True")
        if guidance is not None and self.embed_guidance is None:
            raise ValueError("guidance must be left out for a DiT without told_guidance=True")
        label = self.embed_label(labels)
        if self.frames is not None:  # one time for all frames goes the way of many, and so gives the same bits
            t, destination, guidance = (self._of_frames(told) for told in (t, destination, guidance))
            label = label[:, None]
        condition = self.embed_time(t) + label
        if self.embed_destination is not None:
            condition = condition + self.embed_destination(t - (t if destination is None else destination))
        if self.embed_guidance is not None:
            condition = condition + self.embed_guidance(torch.ones_like(t) if guidance is None else guidance)
        return condition[..., None, :]

    def _of_frames(self, told: Any) -> Any:
        """[B] or [B, frames] as [B, frames]."""
        return told[:, None].expand(-1, self.frames) if told is not None and told.dim() == 1 else told


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
