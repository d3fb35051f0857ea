"""Several quantizers side by side, for tokenizers whose codes come from more than one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .quantized import Quantized
from .quantizer import Quantizer


class QuantizerSequence(Quantizer):
    """Vectors [B, L, D] cut into stretches of `lengths`, each for the quantizer in `parts` at its place.

    The usage has the parts' depths one after the other. ValueError where the parts differ in dimensions or depth.
    """

    parts: Sequence[Quantizer]

    def __init__(self, parts: Sequence[Quantizer], lengths: Sequence[int]) -> None:
        shapes = {(part.dimensions, part.depth) for part in parts}
        if len(shapes) != 1 or len(lengths) != len(parts):
            raise ValueError(
                f"parts must agree in dimensions and depth and have a length each, got {shapes}, {lengths}"
            )
        super().__init__(*shapes.pop(), size=max(part.size for part in parts))
        self.parts = cast(Sequence[Quantizer], nn.ModuleList(parts))
        self.lengths = list(lengths)

    def forward(self, x: Tensor, *, seeds: Tensor | None = None, active_depths: Tensor | None = None) -> Quantized:
        """x [B, L, D]; every part has the same seeds."""
        self.check(x)
        found = [
            part(some, seeds=seeds, active_depths=active_depths)
            for part, some in zip(self.parts, x.split(self.lengths, 1), strict=True)
        ]
        return Quantized(*(torch.cat(pieces, 1) for pieces in zip(*found, strict=True)))

    def decode(self, codes: Tensor) -> Tensor:
        stretches = zip(self.parts, codes.split(self.lengths, 1), strict=True)
        return torch.cat([part.decode(some) for part, some in stretches], 1)

    def commit(self) -> None:
        for part in self.parts:
            part.commit()

    def usage(self) -> tuple[Tensor, Tensor]:
        shares, perplexities = zip(*(part.usage() for part in self.parts), strict=True)
        return torch.cat(shares), torch.cat(perplexities)

    def sum_usage_over_ranks(self) -> None:
        for part in self.parts:
            part.sum_usage_over_ranks()

    def reset_usage(self) -> None:
        for part in self.parts:
            part.reset_usage()
