"""The family `activate`: what its own mathematics promises, beyond the contract that every operation keeps."""

from __future__ import annotations

import math

import pytest
import torch
from case import random
from tolerances import assert_as_exact_as_pytorch, assert_same_bits
from torch import Tensor
from torch.nn import functional as F

from visgen_fast import ops, reference

CPU = torch.device("cpu")
KINDS = ("gelu_tanh", "gelu", "silu")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_gated_kind = pytest.mark.parametrize("kind", ["swiglu", "geglu"])


def exact(x: Tensor, kind: str) -> Tensor:
    """In float64, with a small share computed itself: PyTorch takes it from 1 in float64, too."""
    if kind == "silu":
        return x * torch.sigmoid(x)
    if kind == "gelu":
        return x * torch.special.erfc(-x / math.sqrt(2)) / 2
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def gradients(function, *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [value.detach().requires_grad_() for value in inputs]
    result = function(*leaves)
    upstream = random(tuple(result.shape), torch.float32, CPU, 5).to(result.device, result.dtype)
    return torch.autograd.grad(result, leaves, upstream)


@each_kind
def test_the_definition_is_what_the_papers_say(kind):
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    torch.testing.assert_close(reference.activate(x, kind), exact(x, kind), rtol=0, atol=1e-14)


@each_kind
def test_all_numbers_are_as_exact_as_pytorchs_and_their_slopes(kind, backend, device):
    """Every 9973rd of all floats."""
    bits = torch.arange(0, 0x7F800000, 9973, dtype=torch.int32)
    x = torch.cat((bits.view(torch.float32), -bits.view(torch.float32)))
    small = x[x.abs() < 30].to(device)
    for values in (small, x[(x.abs() >= 30) & (x.abs() < 1e38)].to(device)):  # PyTorch's gelu overflows before x does
        assert_as_exact_as_pytorch(
            ops.activate(values, kind), reference.activate(values, kind), reference.activate(values.double(), kind)
        )
    slope, expected, true = (
        torch.autograd.grad(function(value).sum(), value)[0]
        for function, value in (
            (lambda v: ops.activate(v, kind), small.clone().requires_grad_()),
            (lambda v: reference.activate(v, kind), small.clone().requires_grad_()),
            (lambda v: reference.activate(v, kind), small.double().requires_grad_()),
        )
    )
    assert_as_exact_as_pytorch(slope, expected, true)


@pytest.mark.parametrize("kind, units", [("gelu_tanh", 32), ("gelu", 16), ("silu", 4)])
def test_small_shares_keep_their_digits(kind, units, backend, device):
    """Where PyTorch takes the share from 1 it has none of them left."""
    x = torch.linspace(-5, 30, 70001)
    true = exact(x.double(), kind)
    error = (ops.activate(x.to(device), kind).cpu().double() - true).abs()
    assert (error <= units * 2.0**-24 * true.abs()).all()
    far = -torch.linspace(5, 12, 7001)  # where shares are below the normal numbers, they may be 0
    true = exact(far.double(), kind)
    assert ((ops.activate(far.to(device), kind).cpu().double() - true).abs() <= 1e-4 * true.abs() + 2e-37).all()


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_numbers_beyond_all_bounds_have_the_slopes_one_and_zero(kind, dtype, backend, device):
    most = torch.finfo(dtype).max
    x = torch.tensor(
        [most, -most, math.inf, math.nan, most / 2, -most / 2], dtype=dtype, device=device
    ).requires_grad_()
    y = ops.activate(x, kind)
    assert y[[0, 2, 4]].equal(x[[0, 2, 4]]) and y[[1, 5]].eq(0).all() and y[3].isnan()
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope[[0, 2, 4]].eq(1).all() and slope[[1, 5]].eq(0).all() and slope[3].isnan()


@each_gated_kind
@pytest.mark.parametrize("gate", ["first", "second"])
def test_a_gate_is_its_activation_times_the_other_half(kind, gate, backend, device):
    x, bias = random((3, 5, 20), torch.float64, device), random((20,), torch.float64, device, 1)
    first, second = (x + bias).chunk(2, -1)
    gated, value = (first, second) if gate == "first" else (second, first)
    expected = (F.silu(gated) if kind == "swiglu" else F.gelu(gated)) * value
    torch.testing.assert_close(ops.gated_activate(x, kind, bias, gate=gate), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        ops.gated_activate(x, kind, gate=gate),
        ops.gated_activate(x, kind, torch.zeros_like(bias), gate=gate),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("rows", [1, 31, 33, 4096])
def test_the_gradient_of_a_bias_is_the_sum_over_its_rows(rows, backend, device):
    """Of many rows whose sum nearly vanishes: no digit of it is lost in float32's sums."""
    x, bias = random((rows, 21), torch.float32, device), random((21,), torch.float32, device, 1)
    found, eager, true = (
        gradients(function, *(value.to(dtype) for value in (x, bias)))[1]
        for function, dtype in (
            (lambda x, b: ops.activate(x, "gelu", b), torch.float32),
            (lambda x, b: reference.activate(x, "gelu", b), torch.float32),
            (lambda x, b: reference.activate(x, "gelu", b), torch.float64),
        )
    )
    assert_as_exact_as_pytorch(found, eager, true)


@pytest.mark.parametrize("wanted", ["x", "bias"])
@pytest.mark.parametrize("gated", [False, True])
def test_each_gradient_alone_is_that_of_both(wanted, gated, backend, device):
    x, bias = random((40, 6), torch.float32, device), random((6,), torch.float32, device, 1)
    operation = ops.gated_activate if gated else ops.activate
    kind = "geglu" if gated else "gelu"
    into_x, into_bias = gradients(lambda x, b: operation(x, kind, b), x, bias)
    if wanted == "x":
        assert_same_bits(gradients(lambda x: operation(x, kind, bias), x)[0], into_x)
    else:
        assert_same_bits(gradients(lambda b: operation(x, kind, b), bias)[0], into_bias)


@each_kind
def test_a_value_does_not_depend_on_its_place(kind, backend, device):
    """Whole vectors, what is left behind them, and other layouts: the same arithmetic."""
    x = random((37, 41), torch.float32, device)
    whole = ops.activate(x, kind)
    assert_same_bits(ops.activate(x.T, kind).T, whole)
    assert_same_bits(torch.cat([ops.activate(column, kind) for column in x.split(1, 1)], 1), whole)
    into = gradients(lambda x: ops.activate(x, kind).double(), x)[0]
    assert_same_bits(gradients(lambda x: ops.activate(x.T, kind).T.double(), x)[0], into)


def test_large_tensors_are_written_whole(library, device):
    """Those that go past the cache, with rows that do not end with a vector."""
    if library != "cpu":
        pytest.skip("the emulation is slow, and knows no cache")
    for shape in ((3, 700_001), (1100, 2049), (1024, 2048)):
        x, bias = random(shape, torch.float32, device), random(shape[-1:], torch.float32, device, 1)
        for given in (None, bias):
            torch.testing.assert_close(ops.activate(x, "silu", given), reference.activate(x, "silu", given))
            low = x.bfloat16()
            assert_same_bits(ops.activate(low, "silu", given)[-1], ops.activate(low[-1:].clone(), "silu", given)[0])


def test_a_linear_layer_and_its_activation_share_the_bias(library, device):
    layer = torch.nn.Linear(8, 12, device=device)
    x = random((3, 8), torch.float32, device)
    torch.testing.assert_close(
        ops.activate(F.linear(x, layer.weight), bias=layer.bias), F.gelu(layer(x), approximate="tanh")
    )


X = torch.zeros(2, 3, 5)
WRONG = {
    "unknown kind": (lambda: ops.activate(X, "relu"), "kind must be one of gelu_tanh, gelu, silu, got 'relu'"),
    "unknown gated kind": (
        lambda: ops.gated_activate(X[..., :4], "gelu"),
        "kind must be one of swiglu, geglu, got 'gelu'",
    ),
    "gate": (
        lambda: ops.gated_activate(X[..., :4], gate="last"),
        "gate must be one of first, second, got 'last'",
    ),
    "bias of another length": (
        lambda: ops.activate(X, bias=torch.zeros(3)),
        "bias must be [5], the last dimension of x, got [3]",
    ),
    "bias of half the columns": (
        lambda: ops.gated_activate(X[..., :4], bias=torch.zeros(2)),
        "bias must be [4], the last dimension of x, got [2]",
    ),
    "odd columns": (
        lambda: ops.gated_activate(X),
        "x must have an even number of columns, two halves, got the shape [2, 3, 5]",
    ),
    "x of integers": (
        lambda: ops.activate(X.long()),
        "x must be float32, bfloat16, float16 or float64, got torch.int64",
    ),
    "x of no dimensions": (
        lambda: ops.activate(torch.zeros(())),
        "x must be [..., D] with 1 to 8 dimensions, got the shape []",
    ),
    "bias on another device": (
        lambda: ops.activate(X, bias=torch.zeros(5, device="meta")),
        "bias must be on cpu, the device of x, got meta",
    ),
}


@pytest.mark.parametrize("call, sentence", WRONG.values(), ids=WRONG)
def test_a_wrong_argument_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence
