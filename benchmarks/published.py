"""The block of a diffusion transformer in the lines of its authors, over the parameters of ours.

What the families `modulate` and `activate` are measured and trained against: the same mathematics, eager.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from visgen_fast.models.dit import Output
from visgen_fast.models.layers.transformer import Block
from visgen_fast.nn import ResidualStream


def as_published(model: nn.Module) -> nn.Module:
    """A copy of a network with blocks of ours, which has these lines in their place and the same state dict."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if type(module) in _PUBLISHED:
            module.__class__ = _PUBLISHED[type(module)]
    return copied


class PublishedBlock(Block):
    """Every sum is added up at once, and the norm takes it from memory."""

    def forward(self, stream: ResidualStream, condition: Tensor) -> ResidualStream:
        x, _, _ = stream
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition)
        x = x + gate_1 * self.dropout(self.attention(_modulate(_norm(x), shift_1, scale_1)))
        return ResidualStream(x + gate_2 * self.dropout(self._mlp(_modulate(_norm(x), shift_2, scale_2))))

    def _mlp(self, h: Tensor) -> Tensor:
        first, _, last = self.mlp
        return last(F.gelu(first(h), approximate="tanh"))


class PublishedOutput(Output):
    def forward(self, stream: ResidualStream, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)
        return self.linear(_modulate(_norm(stream.x), shift, scale))


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


_PUBLISHED: dict[type, type] = {Block: PublishedBlock, Output: PublishedOutput}
