"""What is trained when a pyramid autoencoder is."""

from __future__ import annotations

import torch

from ..data.images import Images, in_chunks
from ..evaluation import pixel_errors, psnr
from ..tokenizers.pyramid import PyramidAutoencoder
from .tokenizer import TokenizerSystem


class PyramidSystem(TokenizerSystem):
    """A `PyramidAutoencoder` with the losses of a tokenizer; metrics.json has the PSNR of every coarse prefix."""

    tokenizer: PyramidAutoencoder

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        found = super().evaluate(images, device=device)
        errors: dict[str, list[torch.Tensor]] = {}
        for shown, _ in in_chunks(images, device):
            for name, made in self.tokenizer.stages(shown).items():
                errors.setdefault(name, []).append(psnr(pixel_errors(made, shown)))
        return {**found, **{f"psnr_{name}": float(torch.cat(values).mean()) for name, values in errors.items()}}
