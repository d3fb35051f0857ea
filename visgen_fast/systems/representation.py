"""What is trained when the decoder of a representation autoencoder is."""

from __future__ import annotations

from typing import Any

import torch

from ..data.images import Images
from ..tokenizers.representation import RepresentationAutoencoder
from .tokenizer import ReconstructionLoss, TokenizerSystem


class RepresentationSystem(TokenizerSystem):
    """A `RepresentationAutoencoder` with the losses of a tokenizer. A new run first measures its features."""

    tokenizer: RepresentationAutoencoder

    def __init__(self, tokenizer: RepresentationAutoencoder, loss: ReconstructionLoss, **networks: Any) -> None:
        super().__init__(tokenizer, loss, **networks)
        self.frozen = (*self.frozen, "tokenizer.encoder")

    def begin(self, images: Images, *, device: torch.device) -> None:
        self.tokenizer.encoder.measure(images)
