"""How a condition enters a transformer: shifts, scales and gates (Peebles and Xie, "DiT", 2023)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Modulation(nn.Module):
    """Shifts, scales and gates as a linear function of the condition."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """[..., width] to `parts` tensors of that shape."""
        return self.linear(F.silu(condition)).chunk(self.parts, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x·(1 + scale) + shift."""
    return x * (1 + scale) + shift
