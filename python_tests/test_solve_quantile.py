"""The quantile of the denoised image's magnitudes: torch.quantile's, to the bit, of what the step makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from case import random
from torch import Tensor

from visgen_fast import ops, reference

QS = [0.0, 0.001, 0.3, 0.5, 0.995, 1.0]
WEIGHTS = torch.tensor([3.0, -2.0])


def table(device: torch.device, rows: int = 1) -> Tensor:
    """Rows with different ways to x̂, and a clamp, which is not the quantile's."""
    made = torch.zeros(rows, 32, dtype=torch.float64)
    made[:, 1], made[:, 2] = torch.linspace(0.5, 1.5, rows), torch.linspace(2.0, -1.0, rows)
    made[:, 6:8], made[:, 9] = -1, 1.0
    return made.to(device)


def expected(x: Tensor, outputs, numbers: Tensor, step, q: float, weights: Tensor | None) -> Tensor:
    """torch.quantile of the step's own x̂, in the arithmetic's type."""
    state = x if x.dtype == torch.float64 else x.float()
    denoised, _ = ops.solver_step(state, outputs, numbers, step, weights=weights)
    return torch.quantile(denoised.abs().flatten(1), q, dim=1)


def assert_equal(found: Tensor, wanted: Tensor) -> None:
    assert torch.equal(found.isnan(), wanted.isnan()) and torch.equal(found.nan_to_num(-1), wanted.nan_to_num(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 7), (9, 513), (5, 3, 33, 31), (2, 35001)], ids=str)
def test_it_is_torch_s_to_the_bit(shape, dtype, backend, device) -> None:
    x, *outputs = (random(shape, dtype, device, key) for key in range(3))
    weights = WEIGHTS.to(device)
    for q in QS:
        found = ops.denoised_quantile(x, outputs, table(device), 0, q, weights)
        assert_equal(found, expected(x, outputs, table(device), 0, q, weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_numbers_of_any_size_and_equal_ones_are_in_order(dtype, backend, device) -> None:
    """Their first digits differ, or only the last ones; zeros, the smallest and infinite ones; NaN in one sample."""
    x = random((8, 257), dtype, device, 5)
    x[0] *= torch.exp2(torch.linspace(-120, 120, 257, device=device)).to(dtype)
    x[1] = torch.finfo(dtype).tiny * torch.linspace(-0.5, 0.5, 257, dtype=dtype, device=device)  # subnormal
    x[2] = torch.nextafter(torch.ones(257, dtype=dtype, device=device), x[2])  # one of two neighbours
    x[3] = 0.0
    x[4, ::2] = math.inf
    x[5, 200] = math.nan
    x[6, 0], x[6, 1] = math.inf, math.nan
    x[7] = torch.where(x[7] > 0, 0.75, -0.75)
    made = table(device)
    made[0, 1:3] = torch.tensor([1.0, 0.0])
    for q in [*QS, 0.25, 0.7501]:
        found = ops.denoised_quantile(x, x, made, 0, q)
        assert_equal(found, torch.quantile(x.abs(), q, dim=1))
        assert_equal(found, reference.denoised_quantile(x, x, made, 0, q))


def test_every_rank_is_found(backend, device) -> None:
    x = random((2, 61), torch.float32, device, 1)
    made = table(device)
    made[0, 1:3] = torch.tensor([1.0, 0.0])
    for rank in range(61):
        assert torch.equal(ops.denoised_quantile(x, x, made, 0, rank / 60), torch.quantile(x.abs(), rank / 60, dim=1))


def test_a_sample_is_the_same_in_any_batch_layout_and_run(backend, device) -> None:
    made = table(device, 3)
    x, output = (random((3, 5, 61, 53), torch.float32, device, key) for key in (1, 2))
    steps = torch.tensor([2, 0, 1], device=device)
    found = ops.denoised_quantile(x, output, made, steps, 0.995)
    assert torch.equal(found, ops.denoised_quantile(x, output, made, steps, 0.995))
    for layout in (lambda t: t.to(memory_format=torch.channels_last), lambda t: t.mT.contiguous().mT):
        assert torch.equal(found, ops.denoised_quantile(layout(x), layout(output), made, steps, 0.995))
    for b in range(3):
        alone = ops.denoised_quantile(x[b : b + 1], output[b : b + 1], made, int(steps[b]), 0.995)
        assert torch.equal(found[b : b + 1], alone)


def test_a_row_for_each_token_counts_for_its_elements(backend, device) -> None:
    made, x = table(device, 3), random((2, 7, 3), torch.float32, device, 1)
    steps = torch.arange(14, device=device).view(2, 7) % 3
    denoised, _ = ops.solver_step(x, x, made, steps)
    found = ops.denoised_quantile(x, x, made, steps, 0.6)
    assert_equal(found, torch.quantile(denoised.abs().flatten(1), 0.6, dim=1))


def test_the_row_s_clamp_does_not_count(backend, device) -> None:
    made, x = table(device), random((2, 50), torch.float32, device, 1)
    free = ops.denoised_quantile(x, x, made, 0, 0.9)
    made[0, 3] = 0.1
    assert torch.equal(ops.denoised_quantile(x, x, made, 0, 0.9), free)


def test_a_sample_may_be_one_number(backend, device) -> None:
    x = torch.tensor([1.0, -2.0, 3.0], device=device)
    made = table(device)
    made[0, 1:3] = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(ops.denoised_quantile(x, x, made, 0, 0.5), x.abs())


def test_gradients_are_the_definition_s() -> None:
    made, x = table(torch.device("cpu")), random((2, 9), torch.float64, torch.device("cpu"), 1).requires_grad_()
    output = random((2, 9), torch.float64, torch.device("cpu"), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, o: ops.denoised_quantile(x, o, made, 0, 0.4), (x, output))


def test_the_operation_itself_refuses_what_it_cannot_do(library, device) -> None:
    quantile = torch.ops.visgen_fast.denoised_quantile.default
    x, made = torch.ones(2, 3, device=device), table(device)
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(RuntimeError, match=r"q must lie in \[0, 1\], got"):
            quantile(x, x, None, None, made, None, 0, None, q)
    with pytest.raises(RuntimeError, match="x must have elements in each sample"):
        quantile(x[:, :0], x[:, :0], None, None, made, None, 0, None, 0.5)
    with pytest.raises(RuntimeError, match=r"step must lie in \[0, 1\)"):
        quantile(x, x, None, None, made, None, 1, None, 0.5)
    assert quantile(x[:0], x[:0], None, None, made, None, 0, None, 0.5).shape == (3, 0)
