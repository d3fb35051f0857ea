"""What kernels give at the ends of their types' ranges."""

from __future__ import annotations

import pytest
import torch
from cases import random
from tolerances import unit_in_last_place

from visgen_fast import ops, reference


@pytest.mark.parametrize("gradient", ["rotation", "rotation_per_depth"])
@pytest.mark.parametrize("exponents", [(-1030, -1030), (-1030, -700), (-700, 10), (700, 700), (1000, 800)], ids=str)
@pytest.mark.parametrize("family", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize("dimensions", [1, 4, 133])
def test_a_rotation_is_the_same_at_any_length(dimensions, family, exponents, gradient, backend, device):
    """The gradient of x turned into e is that of 2^a·x turned into 2^b·e, times 2^(b − a)."""
    signs = random((dimensions,), torch.float64, device).sign()
    source = signs * (torch.arange(dimensions, dtype=torch.float64, device=device) % 5 + 1)  # exact when subnormal, too
    target = signs.flip(0) * (torch.arange(dimensions, dtype=torch.float64, device=device) % 3 + 2)
    incoming = random((1, dimensions), torch.float64, device, 1)

    def gradient_of(a, b):
        x = torch.ldexp(source, torch.tensor(a, device=device))[None].requires_grad_()
        book = torch.ldexp(target, torch.tensor(b, device=device))[None]
        return torch.autograd.grad(family.residual_quantize(x, book, gradient=gradient)[0], x, incoming)[0]

    a, b = exponents
    expected = torch.ldexp(gradient_of(0, 0), torch.tensor(b - a, device=device))
    torch.testing.assert_close(gradient_of(a, b), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("inverse_temperature", [1.0, 1e3, 1e4])
@pytest.mark.parametrize("dimensions", [2, 9])
def test_entropies_on_the_sphere_are_exact_in_small_batches(dimensions, inverse_temperature, backend, device):
    """A large batch hides an error: PyTorch then has one as large somewhere."""
    for key in range(60):
        x = random((4, dimensions), torch.float32, device, key)
        truth = reference.binary_spherical_quantize(x.double(), inverse_temperature=inverse_temperature)[2]
        pytorch = reference.binary_spherical_quantize(x, inverse_temperature=inverse_temperature)[2]
        ours = ops.binary_spherical_quantize(x, inverse_temperature=inverse_temperature)[2]
        allowed = 2 * (pytorch - truth).abs().max() + unit_in_last_place(truth, torch.float32)
        assert ((ours - truth).abs() <= allowed).all(), f"key {key}: {ours} where {truth} is right"
