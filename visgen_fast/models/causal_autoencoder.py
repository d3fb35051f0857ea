"""Convolutional encoder and decoder between clips and latents, in which no frame sees a later one.

`autoencoder` with convolutions over time: Yu et al., "Language model beats diffusion: tokenizer is key to visual
generation" (MAGVIT-2), 2024, section 3.2. The first frame is by itself, an image like any other, and each latent after
it stands for f frames: 1 + k·f frames are 1 + k latents, and the decoder gives 1 + k·f frames back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from .autoencoder import check_levels, reduction
from .layers.attention import SpatialAttention
from .layers.causal import (
    CausalConv,
    CausalDoubling,
    CausalHalving,
    CausalResidualBlock,
    CausalSequential,
    PerFrame,
    State,
)
from .layers.residual import group_norm


class CausalEncoder(nn.Module):
    """Clips [B, channels, 1 + k·f, H, W] to latents [B, dimensions, 1 + k, H/r, W/r], r = `reduction(widths, …)`.

    frame_reduction: f, a power of two; time is halved together with the sides, between the coarsest levels. All other
    arguments are those of `Encoder`, and so are the errors; ValueError too where levels are too few for f.
    """

    def __init__(
        self,
        *,
        channels: int,
        widths: Sequence[int],
        dimensions: int,
        frame_reduction: int = 4,
        patch_size: int = 1,
        blocks: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
        shortcuts: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "dimensions": dimensions, "patch_size": patch_size, "blocks": blocks}
        check_levels(widths=widths, shortcuts=shortcuts, **sizes)
        self.channels, self.reduction, self.frame_reduction = channels, reduction(widths, patch_size), frame_reduction
        frames = _frames_between(widths, frame_reduction)
        layers: list[nn.Module] = [CausalConv(channels, widths[0])]
        if patch_size > 1:
            layers = [PerFrame(nn.Conv2d(channels, widths[0], patch_size, stride=patch_size))]
        for level, width in enumerate(widths):
            if level:
                layers.append(CausalHalving(widths[level - 1], width, frames=frames[level - 1], shortcut=shortcuts))
            layers += [CausalResidualBlock(width, dropout) for _ in range(blocks)]
        layers += _bottom(widths[-1], attention, dropout)
        layers.append(PerFrame(group_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], dimensions, 1)))
        self.layers = CausalSequential(*layers)

    def forward(self, clips: Tensor) -> Tensor:
        """[B, channels, 1 + k·f, H, W] to [B, dimensions, 1 + k, H/r, W/r]."""
        self._check(clips, first=True)
        return self.layers(clips)

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The latents of a clip that comes in chunks, as `forward` makes them of the whole.

        The first chunk has 1 + k·f frames, each other one a multiple of f. What is kept between them has one size,
        however long the clip.
        """
        state: State = {}
        for number, chunk in enumerate(chunks):
            self._check(chunk, first=number == 0)
            yield self.layers(chunk, state)

    def _check(self, clips: Tensor, first: bool) -> None:
        f, r = self.frame_reduction, self.reduction
        fits = clips.dim() == 5 and clips.shape[1] == self.channels and not any(n % r for n in clips.shape[3:])
        if not fits or clips.shape[2] < 1 or clips.shape[2] % f != (1 % f if first else 0):
            frames = f"1 + k·{f}" if first else f"after the first chunk k·{f}"
            raise ValueError(
                f"clips must be [B, {self.channels}, T, H, W] with sides that {r} divides, of {frames} frames, "
                f"got {list(clips.shape)}"
            )


class CausalDecoder(nn.Module):
    """Latents [B, dimensions, 1 + k, h, w] to clips [B, channels, 1 + k·f, h·r, w·r]: mirrors `CausalEncoder`."""

    def __init__(
        self,
        *,
        channels: int,
        widths: Sequence[int],
        dimensions: int,
        frame_reduction: int = 4,
        patch_size: int = 1,
        blocks: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
        shortcuts: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "dimensions": dimensions, "patch_size": patch_size, "blocks": blocks}
        check_levels(widths=widths, shortcuts=shortcuts, **sizes)
        self.dimensions = dimensions
        frames = _frames_between(widths, frame_reduction)
        layers: list[nn.Module] = [CausalConv(dimensions, widths[-1])]
        layers += _bottom(widths[-1], attention, dropout)
        for level in reversed(range(len(widths))):
            layers += [CausalResidualBlock(widths[level], dropout) for _ in range(blocks)]
            if level:
                options: dict[str, Any] = {"frames": frames[level - 1], "shortcut": shortcuts}
                layers.append(CausalDoubling(widths[level], widths[level - 1], **options))
        layers.append(PerFrame(group_norm(widths[0]), nn.SiLU()))
        self.layers = CausalSequential(*layers)
        self.output = CausalConv(widths[0], channels * patch_size**2)
        self.to_pixels = PerFrame(nn.PixelShuffle(patch_size))

    @property
    def last_layer(self) -> Tensor:
        """The weight where the gradients of several losses of the clip are compared."""
        return self.output.weight

    def forward(self, latents: Tensor) -> Tensor:
        """[B, dimensions, 1 + k, h, w] to [B, channels, 1 + k·f, h·r, w·r]."""
        return self._decode(latents, None)

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The frames of latents that come in chunks, of any number each, as `forward` makes them of the whole."""
        state: State = {}
        for chunk in chunks:
            yield self._decode(chunk, state)

    def _decode(self, latents: Tensor, state: State | None) -> Tensor:
        if latents.dim() != 5 or latents.shape[1] != self.dimensions or latents.shape[2] < 1:
            raise ValueError(f"latents must be [B, {self.dimensions}, T, h, w], got {list(latents.shape)}")
        return self.to_pixels(self.output(self.layers(latents, state), state))


def _frames_between(widths: Sequence[int], frame_reduction: int) -> list[int]:
    """How many frames become one between each two levels, the finest first."""
    times, most = frame_reduction.bit_length() - 1, len(widths) - 1
    if frame_reduction < 1 or frame_reduction != 2**times or times > most:
        raise ValueError(
            f"frame_reduction must be a power of two of at most {2**most}, for {len(widths)} levels, "
            f"got {frame_reduction}"
        )
    return [1] * (most - times) + [2] * times


def _bottom(width: int, attention: bool, dropout: float) -> list[nn.Module]:
    """What encoder and decoder do at the coarsest resolution."""
    if not attention:
        return [CausalResidualBlock(width, dropout)]
    middle = PerFrame(SpatialAttention(width))
    return [CausalResidualBlock(width, dropout), middle, CausalResidualBlock(width, dropout)]
