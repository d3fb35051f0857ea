"""The mathematics of the family `finite_scalar`: levels, codes and their vectors."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import random
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen_fast import ops, reference

BOUNDS = ("atanh", "tan", "symmetric")
LEVELS = [(8, 6, 5), (7, 5, 5), (3,), (4, 2, 9), (2, 2, 2, 2)]
each_bound = pytest.mark.parametrize("bound", BOUNDS)


def before_rounding(levels, bound):
    """Vectors whose bounded values are all the levels, in float64: the inverse of the bound."""
    columns = []
    for count in levels:
        if bound == "symmetric":
            half, offset, shift, lowest = (count - 1) / 2, -(count - 1) / 2, 0.0, 0
        else:
            half = (count - 1) * (1.001 if bound == "atanh" else 0.999) / 2
            offset = 0.0 if count % 2 else 0.5
            shift, lowest = (math.atanh if bound == "atanh" else math.tan)(offset / half), -(count // 2)
        level = torch.arange(count, dtype=torch.float64) + lowest
        # The outermost levels may lie a little beyond the bound: then a little within it is rounded to them.
        columns.append(torch.atanh(((level + offset) / half).clamp(-1 + 1e-9, 1 - 1e-9)) - shift)
    rows = list(itertools.product(*(column.tolist() for column in reversed(columns))))
    return torch.tensor(rows, dtype=torch.float64).flip(-1)  # the first column runs fastest


@each_bound
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_finite_scalar_codes_and_vectors_are_a_bijection(levels, bound, dtype, backend, device):
    codes = torch.arange(math.prod(levels), device=device)
    vectors = ops.finite_scalar_decode(codes, levels, bound=bound, dtype=dtype)
    assert len(vectors.unique(dim=0)) == len(codes)
    assert vectors.abs().max() <= 1
    x = before_rounding(levels, bound).to(device=device, dtype=dtype if dtype == torch.float64 else torch.float32)
    quantized, found = ops.finite_scalar_quantize(x, levels, bound=bound)
    assert torch.equal(found, codes)
    assert torch.equal(quantized.to(dtype), vectors)


def test_large_codes_are_exact(backend, device):
    x = random((50, 62), torch.float32, device)
    levels = (1000,) * 6
    quantized, codes = ops.finite_scalar_quantize(x[:, :6].contiguous(), levels)
    assert torch.equal(ops.finite_scalar_decode(codes, levels), quantized)
    digits = ((quantized.double() * 500).round() + 500).long()
    expected = [sum(digit * 1000**place for place, digit in enumerate(row)) for row in digits.tolist()]
    assert codes.tolist() == expected


def test_the_longest_rows_have_float64_gradients(backend, device):
    x, incoming = (random((130, 62), torch.float64, device)[:, :61].contiguous() for _ in range(2))
    x, levels = x.requires_grad_(), (2,) * 61
    ours, theirs = (
        torch.autograd.grad(family.finite_scalar_quantize(x, levels)[0], x, incoming)[0] for family in (ops, reference)
    )
    torch.testing.assert_close(ours, theirs)


def test_the_operation_itself_refuses_codes_beyond_int64(library, device):
    codes, raw = torch.zeros(3, dtype=torch.int64, device=device), torch.ops.visgen_fast
    for levels in ([2] * 62, [1000] * 62):
        with pytest.raises(RuntimeError, match="levels must have a product below 2.62"):
            raw.finite_scalar_decode(codes, levels, 0, torch.float32)


def test_numbers_that_are_no_codes_decode_to_nan(backend, device):
    codes = torch.tensor([-1, 0, 119, 120, -(2**62), 2**62], device=device)
    is_nan = ops.finite_scalar_decode(codes, (4, 5, 6)).isnan()
    assert is_nan.all(-1).tolist() == is_nan.any(-1).tolist() == [True, False, False, True, True, True]


@pytest.mark.parametrize("bound", ["atanh", "tan"])
def test_zero_has_a_level(bound, backend, device):
    levels = (2, 3, 4, 5, 8, 9, 256, 1000)
    quantized, codes = ops.finite_scalar_quantize(torch.zeros(1, 8, device=device), levels, bound=bound)
    assert torch.equal(quantized, torch.zeros(1, 8, device=device))
    assert codes.item() == sum(count // 2 * math.prod(levels[:d]) for d, count in enumerate(levels))


def test_bfloat16_uses_all_levels(backend, device):
    levels = (8, 8, 8, 6, 5)
    x = 3 * random((20000, 5), torch.bfloat16, device)
    quantized, codes = ops.finite_scalar_quantize(x, levels)
    wide, wide_codes = ops.finite_scalar_quantize(x.float(), levels)
    assert torch.equal(codes, wide_codes)
    assert torch.equal(quantized, wide.bfloat16())
    for d, count in enumerate(levels):
        assert quantized[:, d].unique().numel() == count


@each_bound
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_rows_with_nan_have_code_zero_and_nan(bound, dtype, backend, device):
    x = random((70, 3), dtype, device)
    x[5, 1] = x[64, 2] = x[69] = math.nan
    x[6, 0], x[7, 2] = math.inf, -math.inf
    invalid = torch.zeros(70, dtype=torch.bool, device=device)
    invalid[[5, 64, 69]] = True
    quantized, codes = ops.finite_scalar_quantize(x, (4, 5, 6), bound=bound)
    assert torch.equal(quantized.isnan().all(-1), invalid) and torch.equal(quantized.isnan().any(-1), invalid)
    assert (codes[invalid] == 0).all()
    assert quantized[6, 0] == quantized[:, 0].nan_to_num(-9).max() and quantized[7, 2] == -1


@settings(max_examples=60)
@given(data=st.data())
def test_any_numbers_get_codes_that_decode_to_the_quantized(data):
    levels = data.draw(st.lists(st.integers(2, 1000), min_size=1, max_size=6), label="levels")
    bound = data.draw(st.sampled_from(BOUNDS), label="bound")
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]), label="dtype")
    numbers = st.floats(-6, 6) | st.floats(width=32)
    rows = data.draw(st.lists(st.lists(numbers, min_size=len(levels), max_size=len(levels)), max_size=4), label="x")
    x = torch.tensor(rows, dtype=torch.float64).view(-1, len(levels)).to(dtype)
    quantized, codes = ops.finite_scalar_quantize(x, levels, bound=bound)
    valid = ~x.isnan().any(-1)
    assert ((codes >= 0) & (codes < math.prod(levels))).all()
    decoded = ops.finite_scalar_decode(codes, levels, bound=bound, dtype=dtype)
    assert torch.equal(decoded[valid], quantized[valid]) and quantized[~valid].isnan().all()
    # The nearest level of the exact bounded value, but for rows that lie on a border within what rounding decides.
    exact, exact_codes = reference.finite_scalar_quantize(x.double(), levels, bound=bound)
    nearer = [
        reference.finite_scalar_quantize(x.double() + d, levels, bound=bound)[1] == exact_codes for d in (-1e-5, 1e-5)
    ]
    decided = valid & nearer[0] & nearer[1]
    assert torch.equal(codes[decided], exact_codes[decided])


def test_gradients_go_straight_through(library, device):
    x, g = random((20, 4), torch.float32, device).requires_grad_(), random((20, 4), torch.float32, device, 1)
    (gradient,) = torch.autograd.grad(ops.finite_scalar_quantize(x, (5, 5, 5, 5))[0], x, g)
    torch.testing.assert_close(gradient, g * 1.001 * (1 - x.tanh().square()))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda x: ops.finite_scalar_quantize(x, (8, 5)), "levels must have one number for each of the 3 columns"),
        (lambda x: ops.finite_scalar_quantize(x, (8, 5, 1)), "levels must be one or more integers from 2 to 1000"),
        (lambda x: ops.finite_scalar_quantize(x, (8, 5, 1001)), "levels must be one or more integers from 2 to 1000"),
        (lambda x: ops.finite_scalar_quantize(x, (8, 5, 5), bound="tanh"), "bound must be one of atanh, tan, symm"),
        (lambda x: ops.finite_scalar_quantize(x.new_zeros(1, 7), (1000,) * 7), "levels must have a product below"),
        (lambda x: ops.finite_scalar_quantize(x.long(), (8, 5, 5)), "x must be float32, bfloat16, float16 or float64"),
        (lambda x: ops.finite_scalar_quantize(x[0, 0], (8,)), "x must be .* 1 to 8 dimensions and D from 1 to 62"),
        (lambda x: ops.finite_scalar_decode(x, (8, 5)), "codes must be int64"),
        (lambda x: ops.finite_scalar_decode(x.long(), (8,), dtype=torch.int8), "dtype must be float32"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call(torch.zeros(4, 3))
    assert "\n" not in str(caught.value)


def test_what_is_no_tensor_is_said():
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        ops.finite_scalar_quantize([[0.0]], (8,))
