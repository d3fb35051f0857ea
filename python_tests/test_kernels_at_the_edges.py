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


NOT_A_NUMBER = {torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}  # bits; of either sign


def assert_converted(x, result, expected, backend):
    """Bit by bit, but that NaN need not have PyTorch's bits: those that it makes depend on the processor."""
    bits, expected_bits = (
        values.view(torch.int16 if values.element_size() == 2 else torch.int32) for values in (result, expected)
    )
    is_right = bits == expected_bits
    if result.dtype == torch.float32 or "cuda" in backend:
        is_right |= result.isnan() & expected.isnan()
    else:
        is_right |= expected.isnan() & (bits & 0x7FFF == NOT_A_NUMBER[result.dtype])
    assert is_right.all(), f"{x[~is_right][:5]} became {result[~is_right][:5]}, not {expected[~is_right][:5]}"


@pytest.mark.parametrize("dtype", list(NOT_A_NUMBER), ids=str)
def test_16_bit_floats_are_those_of_pytorch(dtype, backend, device):
    """Ties, subnormal numbers, infinities and NaN of either sign, into the type and out of it."""
    stored = torch.arange(-(2**15), 2**15, dtype=torch.int16, device=device)
    lower = torch.tensor([0, 0x1000, 0x3000, 0x7FFF, 0x8000, 0x8001], dtype=torch.int32, device=device)
    wide = ((stored.int() << 16)[:, None] | lower).view(torch.float32).reshape(1, -1)
    unchanged = torch.tensor([[1.0, 0.0, 1.0, 0.0]], device=device)
    for x, to in ((wide[:, :: 61 if "cuda" in backend else 1], dtype), (stored.view(dtype)[None], torch.float32)):
        result = ops.add_noise(x, unchanged, noise=torch.zeros_like(x), out_dtype=to)
        assert_converted(x, result, (x.float() + 0.0).to(to), backend)


@pytest.mark.parametrize("scale", [1.0, 2.0**-9], ids=str)
def test_noised_bfloat16_is_rounded_as_pytorch_does(scale, backend, device):
    """The same where numbers go from registers to memory, many of them subnormal."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16, device=device).view(torch.bfloat16)[None]
    coefficients, seeds = torch.tensor([[scale, 0.0, 1.0, 0.0]], device=device), torch.tensor([5], device=device)
    result = ops.diffuse(x, coefficients, seeds)[0]
    expected = torch.where(x == 0, result, scale * x.float()).bfloat16()  # 0·z may be −0
    assert_converted(x, result, expected, backend)


@pytest.mark.parametrize("noise", [0.5, 1e-30, 0.0], ids=str)
@pytest.mark.parametrize("scale", [1.0, 2.0**-120, float("nan")], ids=str)
def test_bfloat16_noised_in_registers_is_that_noised_beside_given_noise(scale, noise, backend, device):
    """Whatever x is, subnormal and NaN, and however small the coefficients."""
    bits = torch.arange(2**14, dtype=torch.int16, device=device) * 4
    x = torch.stack((bits.view(torch.bfloat16), random((2**14,), torch.bfloat16, device)))
    coefficients = torch.tensor([[scale, noise, -scale, noise]], device=device).expand(2, 4)
    seeds = torch.tensor([5, 6], device=device)
    given = ops.gaussian(seeds, (2**14,))
    for result, expected in zip(
        ops.diffuse(x, coefficients, seeds), ops.diffuse(x, coefficients, noise=given), strict=True
    ):
        assert_converted(x, result, expected, backend)
