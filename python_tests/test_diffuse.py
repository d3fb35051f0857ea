"""The family `diffuse`: what its own mathematics promises, beyond the contract that every operation keeps."""

from __future__ import annotations

import math

import pytest
import torch
from backends import BACKENDS, running_on
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visgen_fast import ops, reference

BACKENDS = [name for name in BACKENDS if name != "cuda"]  # hypothesis draws many small tensors, on the CPU
SHAPES = hnp.array_shapes(min_dims=1, max_dims=5, max_side=6)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8])
VALUES = st.sampled_from([0.0, 1.0, -2.5, 65504.0, 1e-30, math.inf, -math.inf, math.nan])


def picture(shape, dtype, key=0):
    generator = torch.Generator().manual_seed(key)
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=generator, dtype=dtype)
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@given(shape=SHAPES, dtype=DTYPES, key=st.integers(0, 99), permutation=st.randoms(use_true_random=False))
def test_any_shape_type_and_layout_gives_the_references_values(backend, shape, dtype, key, permutation):
    with running_on(backend):
        x = picture(shape, dtype, key)
        order = list(range(x.dim()))
        permutation.shuffle(order)
        x_permuted = x.permute(order).contiguous().permute([order.index(d) for d in range(x.dim())])
        coefficients, seeds = picture((shape[0], 4), torch.float32, key + 1), torch.arange(shape[0]) + key
        for actual, expected in zip(
            ops.diffuse(x_permuted, coefficients, seeds), reference.diffuse(x, coefficients, seeds), strict=True
        ):
            tolerance = {torch.float32: 1e-5, torch.float64: 1e-6}.get(actual.dtype, 0.04)
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@given(values=st.lists(VALUES, min_size=1, max_size=40), a=VALUES, b=VALUES)
def test_nan_and_infinities_spread_as_in_pytorch(backend, values, a, b):
    with running_on(backend):
        x = torch.tensor([values])
        coefficients = torch.tensor([[a, b, b, a]])
        noise = torch.linspace(-2, 2, len(values))[None]
        for actual, expected in zip(
            ops.diffuse(x, coefficients, noise=noise), reference.diffuse(x, coefficients, noise=noise), strict=True
        ):
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@given(shape=SHAPES, key=st.integers(0, 99), data=st.data())
def test_coefficients_broadcast_like_any_tensor(backend, shape, key, data):
    with running_on(backend):
        x = picture(shape, torch.float32, key)
        levels = tuple(data.draw(st.sampled_from([1, n])) for n in shape)
        levels = levels[data.draw(st.integers(0, len(levels))) :]
        if len(levels) == 1 and len(shape) > 1:
            levels = (1, *levels)  # one dimension alone would mean: a row a sample
        coefficients = picture((*levels, 4), torch.float32, key + 1)
        noise = picture(shape, torch.float32, key + 2)
        a, b, c, d = coefficients.unbind(-1)
        x_t, target = ops.diffuse(x, coefficients, noise=noise)
        torch.testing.assert_close(x_t, a * x + b * noise)
        torch.testing.assert_close(target, c * x + d * noise)


# The last shape has several tiles for each thread of the emulated device, and not the same number for all.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 7), (4, 8), (304, 408)])
def test_the_noise_is_gaussian_of_the_same_seeds(backend, device, shape, dtype):
    x = torch.zeros(3, *shape, dtype=dtype, device=device)
    seeds = torch.arange(3, device=device)
    only_noise = torch.tensor([[0.0, 1.0, 0.0, 2.0]] * 3, device=device)
    x_t, target = ops.diffuse(x, only_noise, seeds, stream=77)
    z = ops.gaussian(seeds, shape, stream=77)
    assert torch.equal(x_t, z.to(dtype)) and torch.equal(target, (2 * z).to(dtype))
    assert torch.equal(ops.add_noise(x, only_noise, seeds, stream=77), x_t)
    assert torch.equal(ops.gaussian(seeds, shape, dtype=dtype, stream=77), x_t)


def test_coefficients_may_begin_anywhere(backend, device):
    x, seeds = picture((2, 8, 8), torch.float32).to(device), torch.arange(2, device=device)
    memory = picture((9,), torch.float32, 1).to(device)
    expected = ops.diffuse(x, memory[1:].view(2, 4).clone(), seeds)
    for actual, due in zip(ops.diffuse(x, memory[1:].view(2, 4), seeds), expected, strict=True):
        assert torch.equal(actual, due)


def test_pixels_map_to_minus_one_to_one_as_division_does(backend, device):
    pixels = torch.arange(256, dtype=torch.uint8, device=device)[None]
    signal = torch.tensor([[1.0, 0.0, 1.0, 0.0]], device=device)
    x_t = ops.add_noise(pixels, signal, torch.zeros(1, dtype=torch.int64, device=device))
    exact = (pixels.double() / 127.5 - 1).float()
    assert x_t.dtype == torch.float32 and torch.equal(x_t, exact)
    assert x_t[0, 0] == -1 and x_t[0, 255] == 1


def test_sixteen_bit_results_are_rounded_to_nearest_even(backend, device):
    signal = torch.tensor([[1.0, 0.0, 1.0, 0.0]], device=device)
    specials = [
        0.0,
        -0.0,
        1.0,
        math.inf,
        -math.inf,
        math.nan,
        65504.0,
        65519.0,
        65520.0,
        1e-8,
        2.0**-24,
        2.0**-25,
        3e-8,
    ]
    values = torch.tensor(specials + torch.randn(1003, generator=torch.Generator().manual_seed(0)).mul(1e-4).tolist())
    x = torch.cat((values, values * 3e5, values * 1e38))[None].to(device)
    for dtype in (torch.float16, torch.bfloat16):
        actual = ops.add_noise(x, signal, noise=torch.zeros_like(x), out_dtype=dtype)
        torch.testing.assert_close(actual, x.to(dtype), rtol=0, atol=0, equal_nan=True)
        back = ops.add_noise(actual, signal, noise=torch.zeros_like(x), out_dtype=torch.float32)
        torch.testing.assert_close(back, actual.float(), rtol=0, atol=0, equal_nan=True)


def test_a_pictures_result_does_not_depend_on_its_batch(backend, device):
    x, seeds = picture((6, 3, 10, 9), torch.float32).to(device), torch.arange(6, device=device)
    coefficients = picture((6, 4), torch.float32, 1).to(device)
    together = ops.diffuse(x, coefficients, seeds)
    for i in range(6):
        alone = ops.diffuse(x[i : i + 1], coefficients[i : i + 1], seeds[i : i + 1])
        for a, t in zip(alone, together, strict=True):
            assert torch.equal(a[0], t[i])


def test_learned_schedules_learn_their_coefficients():
    """Gradient descent on one coefficient finds the noise level that a picture was made with."""
    x, seeds = picture((8, 256), torch.float32), torch.arange(8)
    wanted = ops.add_noise(x, torch.tensor([0.8, 0.6, 0, 0]), seeds)
    level = torch.tensor([0.3, 0.3], requires_grad=True)
    optimizer = torch.optim.SGD([level], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        made = ops.add_noise(x, torch.cat((level, level.new_zeros(2))), seeds)
        (made - wanted).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(level.detach(), torch.tensor([0.8, 0.6]), rtol=1e-3, atol=1e-3)


def test_backward_stores_no_noise():
    x, coefficients = picture((4, 64), torch.float32), torch.ones(4, 4, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ops.diffuse(x, coefficients, torch.arange(4))
    assert not [t for t in saved if t.shape == x.shape and t.data_ptr() != x.data_ptr()]


def test_gradients_accumulate_and_survive_a_second_backward():
    x = picture((4, 64), torch.float32).requires_grad_()
    coefficients = torch.ones(4, 4, requires_grad=True)
    loss = sum(out.square().sum() for out in ops.diffuse(x, coefficients, torch.arange(4)))
    loss.backward(retain_graph=True)
    once = x.grad.clone(), coefficients.grad.clone()
    loss.backward()
    assert torch.equal(x.grad, 2 * once[0]) and torch.equal(coefficients.grad, 2 * once[1])


X, C, S = torch.zeros(2, 3), torch.zeros(2, 4), torch.arange(2)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ops.diffuse([1.0], C, S), TypeError, "x must be a tensor"),
        (lambda: ops.diffuse(X.int(), C, S), ValueError, "x must be float32"),
        (lambda: ops.diffuse(torch.zeros(()), C, S), ValueError, "x must have 1 to 9 dimensions"),
        (lambda: ops.diffuse(X, C), ValueError, "exactly one of seeds and noise"),
        (lambda: ops.diffuse(X, C, S, noise=X), ValueError, "exactly one of seeds and noise"),
        (lambda: ops.diffuse(X, C, S[:1]), ValueError, "seeds must have one number for each of the 2 samples"),
        (lambda: ops.diffuse(X, C, S.float()), ValueError, "seeds must be int64"),
        (lambda: ops.diffuse(X, C, noise=X[:1]), ValueError, r"noise must have the shape of x, \[2, 3\]"),
        (lambda: ops.diffuse(X, C, noise=X.byte()), ValueError, "noise must be one of float32"),
        (lambda: ops.diffuse(X, C, S, endpoint=X), ValueError, "coefficients must have 6 columns with an endpoint"),
        (lambda: ops.diffuse(X, torch.zeros(2, 6), S), ValueError, "coefficients must have 4 columns without"),
        (lambda: ops.diffuse(X, C.half(), S), ValueError, "coefficients must be float32"),
        (lambda: ops.diffuse(X, torch.zeros(3, 4), S), ValueError, r"coefficients must be \[2, 4\] or"),
        (lambda: ops.diffuse(X, torch.zeros(2, 3, 1, 4), S), ValueError, r"coefficients must be \[2, 4\] or"),
        (lambda: ops.diffuse(X, C, S, out_dtype=torch.int8), ValueError, "out_dtype must be float32"),
        (lambda: ops.diffuse(X, C, S, stream=2**63), ValueError, "stream must lie in"),
        (lambda: ops.add_noise(X, C.to("meta"), S), ValueError, "coefficients must be on cpu"),
    ],
)
def test_a_bad_argument_gets_one_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
