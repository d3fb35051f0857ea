"""What is trained when a prior of clips is, and how clips are drawn, continued, and made longer than a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..data.images import Images
from ..diffusion.forcing_prior import ForcingPrior
from ..diffusion.sampling import Callback
from ..nn.class_condition import Labels
from ..tokenizers.first_stage import FirstStage, Pixels
from .classes import check_labels
from .generative import draw_samples
from .prior import PriorSystem

_CLIPS = 10  # of the figure


class ClipSystem(PriorSystem):
    """A `PriorSystem` of clips.

    clip_shape: [C, T, H, W], of those that it is trained on. frame_reduction: f, the frames of one latent after the
    first; 1 for pixels.
    """

    prior: ForcingPrior

    def __init__(
        self,
        prior: ForcingPrior,
        condition: Labels,
        first_stage: FirstStage | Pixels,
        *,
        clip_shape: tuple[int, ...],
        frame_reduction: int = 1,
    ) -> None:
        super().__init__(prior, condition, first_stage)
        self.clip_shape, self.frame_reduction = tuple(clip_shape), frame_reduction

    @property
    def frames(self) -> int:
        """Of a clip that it is trained on."""
        return self.clip_shape[1]

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        seeds: Tensor,
        *,
        callback: Callback | None = None,
        frames: int | None = None,
        context: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Clips of classes `labels` int64 [B], drawn from `seeds` int64 [B]: float [B, C, frames, H, W] in [−1, 1].

        frames: by default those of the clips it was trained on. Longer clips are drawn piece by piece: each piece but
        the first goes on from about half of the one before. context: the frames that all clips begin with,
        [1, C, n, H, W], or those of each, [B, C, n, H, W]. callback and options are as of `PriorSystem`.

        ValueError for frames or a context of other than 1 + k·f frames, and a context of all frames or more.
        """
        check_labels(labels, self.condition.null_label)
        wanted = self.frames if frames is None else frames
        self.check_frames(wanted, "frames")
        clip = None if context is None else context.expand(len(labels), -1, -1, -1, -1)
        if clip is not None:
            self.check_frames(clip.shape[2], "frames of context")
            if clip.shape[2] >= wanted:
                raise ValueError(f"context must be shorter than the clip's {wanted} frames, got {clip.shape[2]}")
        guided = self._guided(options)
        told, null, piece = self.condition(labels), self._null(labels), 0
        while clip is None or clip.shape[2] < wanted:
            own = seeds if piece == 0 else _seeds_of_piece(seeds, piece)
            given = clip if clip is None or clip.shape[2] < self.frames else clip[:, :, -self._kept :]
            known = None if given is None else self.first_stage.encode(given.clamp(-1, 1), own)
            drawn = self.prior.draw(self.shape, told, own, null=null, callback=callback, context=known, **guided)
            shown = self.first_stage.decode(drawn)
            clip = shown if clip is None or given is None else torch.cat((clip, shown[:, :, given.shape[2] :]), 2)
            piece += 1
        return clip[:, :, :wanted]

    def check_frames(self, frames: int, name: str) -> None:
        """ValueError unless so many frames are a whole number of latents."""
        f = self.frame_reduction
        if frames < 1 or frames % f != 1 % f:
            raise ValueError(f"{name} must be 1 + k·{f}, got {frames}")

    @property
    def _kept(self) -> int:
        """Frames that the next piece of a long clip goes on from: 1 + k·f, about half of a piece."""
        latents = (self.frames - 1) // self.frame_reduction
        return 1 + latents // 2 * self.frame_reduction

    def rebuild(self, pixels: Tensor, seeds: Tensor) -> Tensor | None:
        return None

    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """A clip of each of some classes or captions, as a row of frames."""
        labels = images.format.some_labels(_CLIPS)
        drawn = draw_samples(self, labels, 1, seed=seed, device=device)[:, 0]
        return drawn.transpose(1, 2), [images.format.class_names[label] for label in labels]


def _seeds_of_piece(seeds: Tensor, piece: int) -> Tensor:
    """The seeds of the pieces of this number, which go on from others."""
    return ops.derive_seeds(seeds, torch.full_like(seeds, piece), purpose=ops.Purpose.INITIAL_STATE)
