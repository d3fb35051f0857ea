"""Weights laid out once for a loop: the layers' own results, by weights that hold for one loop and not for the next."""

from __future__ import annotations

import pytest
import torch
from code_models import awake, sequence
from torch import nn
from torch.nn import functional as F

from benchmarks.code_loops import without_caches
from visgen_fast import ops
from visgen_fast.autoregression import raster, sample
from visgen_fast.nn.prepacked import Prepacked, linear

packs = torch.backends.mkldnn.is_available()


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


@pytest.mark.skipif(not packs, reason="this torch has no oneDNN")
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
