"""What is trained when the autoencoder of clips is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.images import Images, to_range
from .kl_autoencoder import KLSystem

_CLIPS = 5  # of the figure


class VideoTokenizerSystem(KLSystem):
    """A `KLAutoencoder` of clips: features and the adversary see frame by frame."""

    @torch.no_grad()
    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """Some clips, each as a row of frames, with its reconstruction below it."""
        shown = to_range(images.read(range(min(_CLIPS, len(images))))[0].to(device))
        rows = torch.stack((shown, self.tokenizer(shown).images), 1).flatten(0, 1)
        return rows.transpose(1, 2), ["input", "reconstruction"] * len(shown)
