"""How a condition enters a network: shifts, scales and gates (Peebles and Xie, "DiT", 2023)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Modulation(nn.Module):
    """Shifts, scales and gates, of `features` each, as a linear function of a condition of `width`, as many as that."""

    def __init__(self, width: int, parts: int, features: int | None = None) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * (width if features is None else features))

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """[..., width] to `parts` tensors [..., features]."""
        return self.linear(F.silu(condition)).chunk(self.parts, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x·(1 + scale) + shift."""
    return x * (1 + scale) + shift
