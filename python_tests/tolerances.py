"""How far a result may be from the truth: the one policy that every test applies.

Operations promise an error against float64 of at most twice plain PyTorch's in the same dtype, plus one unit in the
last place. Random numbers have tolerances of their own, between any two devices or instruction sets: 1e-6 for normal
ones; for Gumbel's, 4 units in the last place of float64 before they are rounded to their type.
"""

from __future__ import annotations

import torch
from torch import Tensor

NORMAL_NUMBERS = 1e-6


def unit_in_last_place(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of `dtype` at |value|, as float64."""
    info = torch.finfo(dtype)
    magnitude = value.double().abs().clamp_min(info.smallest_normal)
    return torch.exp2(torch.floor(torch.log2(magnitude))) * info.eps


def assert_as_exact_as_pytorch(actual: Tensor, pytorch: Tensor, truth: Tensor, name: str = "result") -> None:
    """|actual − truth| ≤ 2·max|pytorch − truth| + 1 ulp for each element; NaN and infinities where PyTorch has them."""
    assert actual.dtype == pytorch.dtype and actual.shape == pytorch.shape, f"{name}: {actual.dtype} {actual.shape}"
    if actual.numel() == 0:
        return
    actual, pytorch, truth = actual.detach().cpu(), pytorch.detach().cpu(), truth.detach().cpu().double()
    finite = torch.isfinite(pytorch)
    assert torch.equal(torch.isnan(actual), torch.isnan(pytorch)), f"{name}: NaN in other places than PyTorch's"
    unbounded = ~finite & ~torch.isnan(pytorch)
    assert torch.equal(actual[unbounded], pytorch[unbounded]), f"{name}: other infinities than PyTorch's"
    if not finite.any():
        return
    if actual.dtype == torch.float64:  # no wider type to judge by: both were rounded, a few times each
        allowed = 4 * torch.finfo(torch.float64).eps * truth[finite].abs().max() + 0 * truth[finite]
        assert ((actual[finite] - truth[finite]).abs() <= allowed).all(), f"{name}: differs by more than rounding"
        return
    allowed = 2 * (pytorch[finite].double() - truth[finite]).abs().max() + unit_in_last_place(
        truth[finite], actual.dtype
    )
    error = (actual[finite].double() - truth[finite]).abs()
    worst = (error - allowed).argmax()
    assert (error <= allowed).all(), f"{name}: error {error[worst]:.3g} where {allowed[worst]:.3g} is allowed"


def assert_gumbel_numbers(actual: Tensor, expected: Tensor) -> None:
    """Rounded from numbers within 4 units in the last place of `expected`, which are float64: rounding is monotonic."""
    assert expected.dtype == torch.float64 and actual.shape == expected.shape
    allowed = 4 * torch.finfo(torch.float64).eps * expected.abs().clamp_min(1)
    least, most = (expected - allowed).to(actual.dtype), (expected + allowed).to(actual.dtype)
    assert ((least <= actual) & (actual <= most)).all(), f"differs by up to {(actual.double() - expected).abs().max()}"


def assert_same_bits(actual: Tensor, expected: Tensor, name: str = "result") -> None:
    """Equal in type, shape and every element; NaN equals NaN and nothing else."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True, msg=lambda why: f"{name}: {why}")
