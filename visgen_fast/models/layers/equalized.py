"""Layers whose weights all learn alike, whatever their number of inputs (Karras et al., "Progressive growing of GANs",
2018, section 4.1): weights are drawn from N(0, 1) and scaled when they are used."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Before an activation that lets half of the variance through.
RECTIFIED = math.sqrt(2)


class EqualizedLinear(nn.Module):
    """[..., inputs] to [..., outputs]. gain: of the outputs' spread; rate: the layer's learning rate over others'."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = 1.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale, self.rate = gain * rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class EqualizedConv(nn.Module):
    """[B, inputs, H, W] to [B, outputs, H, W] with an odd kernel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale, self.padding = gain / math.sqrt(inputs * kernel**2), kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)
