"""The family `modulate`: what its own mathematics promises, beyond the contract that every operation keeps."""

from __future__ import annotations

import pytest
import torch
from case import random
from torch import Tensor
from torch.nn import functional as F

from visgen_fast import reference

CPU = torch.device("cpu")


def normal(*shape: int, key: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return random(shape, dtype, CPU, key)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_the_definition_is_pytorchs_norm_then_modulation(norm):
    x, branch = normal(2, 3, 7, dtype=torch.float64), normal(2, 3, 7, key=1, dtype=torch.float64)
    gate, scale, shift = normal(2, 21, key=2, dtype=torch.float64).chunk(3, -1)
    weight, bias = normal(7, key=3, dtype=torch.float64), normal(7, key=4, dtype=torch.float64)
    residual, y = reference.gated_residual_norm(
        x, branch, gate, scale, shift, norm=norm, weight=weight, bias=bias, eps=1e-3
    )
    expected = x + gate[:, None] * branch
    normed = F.layer_norm(expected, (7,), eps=1e-3) if norm == "layer" else F.rms_norm(expected, (7,), eps=1e-3)
    torch.testing.assert_close(residual, expected)
    torch.testing.assert_close(y, (normed * weight + bias) * (1 + scale[:, None]) + shift[:, None])


def test_the_definition_of_instances_is_pytorchs_instance_norm():
    x, rows = normal(2, 3, 5, 4, dtype=torch.float64), normal(2, 6, key=1, dtype=torch.float64)
    scale, shift = rows.chunk(2, -1)
    expected = F.instance_norm(x) * (1 + scale[..., None, None]) + shift[..., None, None]
    torch.testing.assert_close(reference.adaptive_instance_norm(x, scale, shift), expected)
