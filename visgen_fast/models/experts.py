"""Several networks in the place of one, each for an interval of noise levels.

Balaji et al., "eDiff-I: text-to-image diffusion models with an ensemble of expert denoisers", 2022, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..nn.conditions import AnyCondition, apply_to_parts


class Experts(nn.Module):
    """Networks `model(x_t, t, condition)` as one: each sample is seen by the one in whose interval its t lies.

    edges: the times, rising, at which one expert's interval ends and the next one's begins; an edge belongs to the
    interval below it. They have meaning for what the networks are told, λ where that is not t.

    Whose turn it is must be known on the host: a call waits for the device, once for each expert. ValueError unless
    the edges rise and are one fewer than the experts.
    """

    def __init__(self, experts: Sequence[nn.Module], edges: Sequence[float]) -> None:
        super().__init__()
        if any(low >= high for low, high in zip(edges, edges[1:], strict=False)):
            raise ValueError(f"edges must rise, got {tuple(edges)}")
        if len(edges) != len(experts) - 1:
            raise ValueError(f"edges must be one fewer than the {len(experts)} experts, got {len(edges)}")
        self.experts, self.edges = nn.ModuleList(experts), tuple(edges)

    def forward(self, x_t: Tensor, t: Tensor, condition: AnyCondition) -> Tensor:
        """x_t: [B, ...]; t: [B]; condition: of B samples. Returns what the experts say, in the samples' order."""
        place = sum(((t > edge).long() for edge in self.edges), torch.zeros_like(t, dtype=torch.int64))
        samples = [(place == number).nonzero().squeeze(1) for number in range(len(self.experts))]
        for expert, some in zip(self.experts, samples, strict=True):
            if len(some) == len(t):
                return expert(x_t, t, condition)
        said = [
            expert(x_t[some], t[some], apply_to_parts(condition, partial(torch.index_select, dim=0, index=some)))
            for expert, some in zip(self.experts, samples, strict=True)
            if len(some)
        ]
        return torch.cat(said)[torch.cat(samples).argsort()]
