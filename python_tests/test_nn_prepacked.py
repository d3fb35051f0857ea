"""Weights laid out once for a loop: the layers' own results, by weights that hold for one loop and not for the next."""

from __future__ import annotations

import itertools

import pytest
import torch
from backends import CPU_BACKENDS, running_on
from code_models import awake, sequence
from torch import nn
from torch.nn import functional as F

from benchmarks.code_loops import without_caches
from visgen_fast import ops
from visgen_fast.autoregression import raster, sample
from visgen_fast.nn.prepacked import Prepacked, linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("shape", [(0, 24), (1, 24), (3, 1, 24), (40, 24)], ids=str)
@torch.no_grad()
def test_results_are_the_layer_s_own_to_rounding(shape, gelu, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    found = Prepacked()(layer, x, gelu=gelu)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    torch.testing.assert_close(found.double(), F.gelu(exact) if gelu else exact, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(found, linear(layer, x, gelu=gelu), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("inputs", [1, 7, 300])
@torch.no_grad()
def test_any_sizes_are_right_on_every_instruction_set(inputs, outputs):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    weight, bias = layer.weight.double(), layer.bias.double()
    for rows, name in itertools.product((1, 3, 8, 9, 21), CPU_BACKENDS):
        x = torch.randn(rows, inputs)
        exact, terms = F.linear(x.double(), weight, bias), F.linear(x.double().abs(), weight.abs(), bias.abs())
        with running_on(name):
            error = (Prepacked()(layer, x).double() - exact).abs()
        assert bool((error <= 2**-23 * (2 + inputs**0.5) * terms).all())


def test_a_weight_that_does_not_fit_is_refused():
    raw, x, weight = torch.ops.visgen_fast_cpu.packed_linear, torch.ones(2, 3), torch.ones(1, 3, 32)
    assert torch.equal(raw(x, weight, None, 5, False), torch.full((2, 5), 3.0))
    for wrong in (weight.double(), weight[:, :2], torch.ones(2, 3, 32), weight.mT):
        with pytest.raises(RuntimeError, match="^weight must be contiguous float32"):
            raw(x, wrong, None, 5, False)
    with pytest.raises(RuntimeError, match="^x must be contiguous float32"):
        raw(x.double(), weight, None, 5, False)
    with pytest.raises(RuntimeError, match="^bias must be contiguous float32"):
        raw(x, weight, torch.ones(4), 5, False)
    with pytest.raises(RuntimeError, match="^outputs must be at least 1, got 0$"):
        raw(x, weight, None, 0, False)


def test_a_fake_product_has_the_shape_of_a_real_one():
    arguments = (torch.ones(2, 3), torch.ones(1, 3, 32), torch.ones(5), 5, True)
    torch.library.opcheck(torch.ops.visgen_fast_cpu.packed_linear.default, arguments)


@torch.no_grad()
def test_a_loop_keeps_the_weights_that_it_began_with_and_the_next_one_has_the_new_ones():
    layer, x, loop = nn.Linear(8, 8), torch.randn(4, 8), Prepacked()
    before = loop(layer, x)
    layer.weight.mul_(2)
    assert torch.equal(loop(layer, x), before)
    torch.testing.assert_close(Prepacked()(layer, x), layer(x))


def test_the_layer_itself_is_called_where_gradients_are_wanted_under_autocast_and_in_float64():
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    Prepacked()(layer, x).sum().backward()
    assert torch.equal(layer.weight.grad, x.sum(0).expand(8, -1))
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert Prepacked()(layer, x).dtype == torch.bfloat16
        wide, shown = layer.double(), x.double()
        assert torch.equal(Prepacked()(wide, shown), wide(shown))


@torch.no_grad()
def test_hooks_of_a_layer_are_called():
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    assert torch.equal(Prepacked()(layer, x), layer(x))


def test_a_loop_of_draws_follows_weights_that_changed_since_the_last_one():
    model, seeds = awake(lambda: sequence(raster((3, 2, 1)), 5), torch.float32), ops.derive_seeds(0, torch.arange(4))
    before = sample(model, None, seeds)
    assert torch.equal(without_caches(model, seeds), before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    after = sample(model, None, seeds)
    assert torch.equal(without_caches(model, seeds), after) and not torch.equal(before, after)
