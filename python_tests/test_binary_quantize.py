"""The mathematics of the family `binary_quantize`: codes of signs, their vectors, and the entropies of soft codes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import random
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen_fast import ops, reference

CPU = torch.device("cpu")
BINARY = [ops.lookup_free_quantize, ops.binary_spherical_quantize]
each_binary = pytest.mark.parametrize("quantize", BINARY, ids=lambda f: f.__name__)


@pytest.mark.parametrize("bits", [1, 2, 5, 11])
@each_binary
def test_binary_codes_and_vectors_are_a_bijection(bits, quantize, backend, device):
    codes = torch.arange(2**bits, device=device)
    corner = 0.25 / (math.sqrt(bits) if quantize is ops.binary_spherical_quantize else 1)
    vectors = ops.binary_decode(codes, bits, scale=corner)
    assert len(vectors.unique(dim=0)) == len(codes)
    quantized, found, *_ = quantize(3 * vectors, scale=0.25, entropy=False)
    assert torch.equal(found, codes)
    assert torch.equal(quantized, vectors)
    assert torch.equal(found >> (bits - 1), (vectors[:, 0] > 0).long()), "the first column is the most significant bit"


def test_large_codes_are_exact(backend, device):
    x = random((50, 62), torch.float32, device)
    _, codes, *_ = ops.lookup_free_quantize(x, entropy=False)
    expected = [int("".join("1" if value > 0 else "0" for value in row), 2) for row in x.tolist()]
    assert codes.tolist() == expected


def test_the_longest_rows_have_float64_gradients(backend, device):
    x = random((130, 62), torch.float64, device).requires_grad_()
    quantized, *_ = ops.lookup_free_quantize(x, entropy=False)
    incoming = random((130, 62), torch.float64, device)
    (grad,) = torch.autograd.grad(quantized, x, incoming)
    assert torch.equal(grad, incoming)


def test_the_operation_itself_refuses_codes_beyond_int64(library, device):
    codes, raw = torch.zeros(3, dtype=torch.int64, device=device), torch.ops.visgen_fast
    for bits in (-1, 0, 63, 2**40):
        with pytest.raises(RuntimeError, match="codes must stand for 1 to 62 columns"):
            raw.binary_decode(codes, bits, 1.0, torch.float32)


def test_numbers_that_are_no_codes_decode_to_nan(backend, device):
    is_nan = ops.binary_decode(torch.tensor([-1, 0, 127, 128, -(2**62), 2**62], device=device), 7).isnan()
    assert is_nan.all(-1).tolist() == is_nan.any(-1).tolist() == [True, False, False, True, True, True]


def test_zero_is_a_cleared_bit(backend, device):
    for quantize in BINARY:
        quantized, codes, *_ = quantize(torch.tensor([[0.0, -0.0, 1.0]], device=device))
        assert codes.item() == 1
        assert (quantized < 0).tolist() == [[True, True, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_rows_with_nan_have_code_zero_and_nan(dtype, backend, device):
    x = random((70, 3), dtype, device)
    x[5, 1] = x[64, 2] = x[69] = math.nan
    x[6, 0], x[7, 2] = math.inf, -math.inf
    invalid = torch.zeros(70, dtype=torch.bool, device=device)
    invalid[[5, 64, 69]] = True
    quantized, codes, per_sample, batch = ops.lookup_free_quantize(x)
    assert torch.equal(quantized.isnan().all(-1), invalid) and torch.equal(quantized.isnan().any(-1), invalid)
    assert (codes[invalid] == 0).all()
    assert torch.equal(per_sample.isnan(), invalid) and batch.isnan()
    assert not ops.lookup_free_quantize(x[6:60])[3].isnan(), "infinities have probabilities"
    quantized, codes, per_sample, _ = ops.binary_spherical_quantize(x)
    invalid[[6, 7]] = True
    assert torch.equal(quantized.isnan().all(-1), invalid) and torch.equal(per_sample.isnan(), invalid)
    assert (codes[invalid] == 0).all()


@settings(max_examples=60)
@given(data=st.data())
def test_any_numbers_get_the_codes_and_entropies_of_the_reference(data):
    bits = data.draw(st.integers(1, 6), label="bits")
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]), label="dtype")
    numbers = st.floats(-6, 6) | st.floats(width=32)
    rows = data.draw(st.lists(st.lists(numbers, min_size=bits, max_size=bits), max_size=4), label="x")
    x = torch.tensor(rows, dtype=torch.float64).view(-1, bits).to(dtype)
    for name in ("lookup_free_quantize", "binary_spherical_quantize"):
        quantized, codes, per_sample, batch = getattr(ops, name)(x, inverse_temperature=2.0)
        expected = getattr(reference, name)(x, inverse_temperature=2.0)
        assert torch.equal(codes, expected[1]) and torch.equal(quantized.isnan(), expected[0].isnan())
        torch.testing.assert_close(per_sample, expected[2], rtol=1e-5, atol=1e-6, equal_nan=True)
        torch.testing.assert_close(batch, expected[3], rtol=1e-5, atol=1e-6, equal_nan=True)


def all_probabilities(u, corner, inverse_temperature):
    """p(code | row) of every code, as it is defined: a softmax over negative squared distances."""
    bits = u.shape[-1]
    codes = torch.tensor(list(itertools.product((-corner, corner), repeat=bits)), dtype=u.dtype, device=u.device)
    return (-inverse_temperature * (u[:, None] - codes).square().sum(-1)).softmax(-1)


@each_binary
@pytest.mark.parametrize("inverse_temperature", [0.3, 5.0])
def test_entropies_are_those_of_the_softmax_over_all_codes(inverse_temperature, quantize, backend, device):
    x = random((300, 7), torch.float64, device)
    _, _, per_sample, batch = quantize(x, scale=0.6, inverse_temperature=inverse_temperature, group_size=None)
    u, corner = x, 0.6
    if quantize is ops.binary_spherical_quantize:
        u, corner = 0.6 * x / x.norm(dim=-1, keepdim=True), 0.6 / math.sqrt(7)
    p = all_probabilities(u, corner, inverse_temperature)
    torch.testing.assert_close(per_sample, torch.special.entr(p).sum(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(batch, torch.special.entr(p.mean(0)).sum(), rtol=1e-12, atol=1e-12)


def test_groups_have_the_entropies_of_their_own_codes(backend, device):
    x = random((90, 8), torch.float64, device)
    *_, whole = ops.lookup_free_quantize(x, inverse_temperature=0.5)
    *_, grouped = ops.lookup_free_quantize(x, inverse_temperature=0.5, group_size=3)
    parts = [ops.lookup_free_quantize(part, inverse_temperature=0.5)[3] for part in x.split(3, dim=-1)]
    torch.testing.assert_close(grouped, torch.stack(parts).sum())
    assert whole < grouped, "bits that are told apart from each other lose what they have in common"


def test_large_groups_are_as_exact_as_small_ones(backend, device):
    """Two halves that are independent: the table of 2^16 codes is an outer product."""
    half = random((12, 8), torch.float64, device)
    x = torch.cat((half.repeat_interleave(12, 0), half.repeat(12, 1)), -1).requires_grad_()
    *_, whole = ops.lookup_free_quantize(x, inverse_temperature=0.4)
    *_, halves = ops.lookup_free_quantize(x, inverse_temperature=0.4, group_size=8)
    torch.testing.assert_close(whole, halves, rtol=1e-12, atol=0)
    for actual, expected in zip(torch.autograd.grad(whole, x), torch.autograd.grad(halves, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@each_binary
@pytest.mark.parametrize("group_size", [None, 2])
def test_entropies_have_numerical_derivatives(group_size, quantize, library, device):
    x = random((4, 5), torch.float64, device).requires_grad_()

    def entropies(x):
        return quantize(x, inverse_temperature=0.6, group_size=group_size)[2:]

    assert torch.autograd.gradcheck(entropies, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(entropies, (x,), fast_mode=True)


def test_gradients_go_straight_through(library, device):
    x, g = random((20, 4), torch.float32, device).requires_grad_(), random((20, 4), torch.float32, device, 1)
    (gradient,) = torch.autograd.grad(ops.lookup_free_quantize(x, scale=0.5)[0], x, g)
    assert torch.equal(gradient, g)
    normalized = torch.nn.functional.normalize(x, dim=-1)
    (gradient,) = torch.autograd.grad(ops.binary_spherical_quantize(x)[0], x, g)
    torch.testing.assert_close(gradient, torch.autograd.grad(normalized, x, g)[0])


def test_entropies_can_be_spared(library, device):
    x = random((33, 40), torch.float32, device)
    for quantize in BINARY:
        quantized, codes, *entropies = quantize(x, entropy=False, group_size=None)
        assert entropies == [None, None]
        expected = quantize(x, group_size=8)
        assert torch.equal(quantized, expected[0]) and torch.equal(codes, expected[1])


def test_nothing_of_rows_times_codes_is_ever_allocated():
    x = random((2000, 16), torch.float32, CPU).requires_grad_()  # a matrix of rows × codes would take 524 MB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        *_, batch = ops.lookup_free_quantize(x, inverse_temperature=0.5)
        batch.backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 2**16 * 4 <= largest <= 2**21 * 8 + 2**16 * 8


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda x: ops.lookup_free_quantize(x.new_zeros(2, 63)), "D from 1 to 62"),
        (lambda x: ops.lookup_free_quantize(x.new_zeros(2, 21)), "group_size must be given for .* more than 20 bits"),
        (lambda x: ops.lookup_free_quantize(x, group_size=21), r"group_size must lie in \[1, 20\] or be None, got 21"),
        (lambda x: ops.lookup_free_quantize(x, scale=0.0), "scale must be positive, got 0.0"),
        (lambda x: ops.binary_spherical_quantize(x, inverse_temperature=-1.0), "inverse_temperature must be positive"),
        (lambda x: ops.binary_decode(x.long(), 63), r"bits must lie in \[1, 62\], got 63"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call(torch.zeros(4, 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [1.0, 1e6, 1.9e19, 1e30, 3e38])
def test_vectors_of_any_length_lie_on_the_sphere(size, backend, device):
    """Their squares may be beyond float32."""
    direction = torch.tensor([[0.9, -0.7, 0.2, 0.0], [-0.1, 0.3, 1.0, -1.0]], device=device)
    unit = torch.nn.functional.normalize(direction.double(), dim=-1)
    gradient = (1 - unit.sum(-1, keepdim=True) * unit) / direction.double().norm(dim=-1, keepdim=True)
    expected = reference.binary_spherical_quantize(direction.double())
    for family in (ops, reference):
        x = (size * direction).requires_grad_()
        quantized, codes, *entropies = family.binary_spherical_quantize(x)
        assert torch.equal(codes, expected[1]) and torch.equal(quantized, expected[0].float())
        for actual, exact in zip(entropies, expected[2:], strict=True):
            torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=0)
        upstream = min(size, 1e37)
        (to_x,) = torch.autograd.grad(quantized, x, torch.full_like(x, upstream))
        torch.testing.assert_close(to_x.double() * (size / upstream), gradient, rtol=1e-5, atol=1e-6)


def test_the_definition_holds_for_any_float64():
    direction = torch.tensor([[0.9, -0.7, 0.2, 0.0]], dtype=torch.float64)
    expected = reference.binary_spherical_quantize(direction)
    for size in (1e-8, 1e160, 1e300):
        for actual, exact in zip(reference.binary_spherical_quantize(size * direction), expected, strict=True):
            torch.testing.assert_close(actual, exact, rtol=1e-14, atol=0)


def test_a_vector_of_zeros_has_second_derivatives_on_the_sphere() -> None:
    x = torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    _, _, per_sample, batch = ops.binary_spherical_quantize(x, group_size=3)
    (first,) = torch.autograd.grad(per_sample.sum() + batch, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert first.isfinite().all() and second.isfinite().all()
