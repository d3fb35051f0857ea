"""Blocks that compute the cheap again: the same numbers from about half of the memory."""

from __future__ import annotations

import collections

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.published import as_published
from visgen_fast.models import DiT
from visgen_fast.models.layers.transformer import Block
from visgen_fast.nn import ResidualStream
from visgen_fast.nn.recompute import run_recomputing

WIDTH = 96


def blocks(dropout=0.0):
    torch.manual_seed(0)
    made = torch.nn.ModuleList(Block(WIDTH, 3, 4.0, dropout) for _ in range(3))
    for parameter in made.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def run(network, recompute, x, condition):
    stream = ResidualStream(x)
    for block in network:
        stream = run_recomputing(recompute, block, stream, condition)
    return stream


def gradients(network, recompute, seed=0):
    torch.manual_seed(1)
    x, condition = torch.randn(2, 16, WIDTH, requires_grad=True), torch.randn(2, 1, WIDTH, requires_grad=True)
    torch.manual_seed(seed)
    output = run(network, recompute, x, condition).total()
    return [output, *torch.autograd.grad(output.sin().sum(), [x, condition, *network.parameters()])]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_results_and_gradients_are_the_same_bits(dropout):
    network = blocks(dropout)
    expected, found = gradients(network, None), gradients(network, "cheap")
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    if dropout:
        assert not torch.equal(gradients(network, None, seed=2)[0], expected[0])


def kept_bytes(network, recompute):
    """What lives once a forward pass is over, its results among it."""
    x, condition = torch.randn(4, 64, WIDTH, requires_grad=True), torch.randn(4, 1, WIDTH)
    run(network, recompute, x, condition)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        output = run(network, recompute, x, condition)
    assert output.x.requires_grad
    return sum(event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")


def test_a_block_keeps_at_most_three_fifths_of_what_its_authors_lines_keep():
    network = blocks()
    eager, ours, cheap = (
        kept_bytes(*case) for case in ((as_published(network), None), (network, None), (network, "cheap"))
    )
    assert cheap <= 0.6 * eager < ours < eager


class Counted(TorchDispatchMode):
    """Counts what is computed, by the names of operations."""

    def __init__(self):
        super().__init__()
        self.names = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.name()] += 1
        return func(*args, **(kwargs or {}))


def test_matrix_products_and_attention_are_computed_once_and_norms_twice():
    network, counts = blocks(), []
    for recompute in (None, "cheap"):
        with Counted() as counted:
            gradients(network, recompute)
        counts.append(counted.names)
    plain, cheap = counts
    for name in ("aten::addmm", "aten::mm", "aten::_scaled_dot_product_flash_attention_for_cpu"):
        assert cheap[name] == plain[name] > 0, name
    norms = "visgen_fast::gated_residual_norm"
    assert plain[norms] == 6 and cheap[norms] == 11  # one of them is the total at the end, outside of the blocks


def test_a_network_that_recomputes_compiles_to_one_graph_with_the_same_gradients():
    torch.manual_seed(0)
    settings = {"image_size": 4, "channels": 1, "patch_size": 2, "width": 16, "depth": 2, "heads": 2, "classes": 3}
    model = DiT(**settings, recompute="cheap")
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    x, t, labels = torch.randn(3, 1, 4, 4), torch.rand(3), torch.arange(3)

    def found(network):
        output = network(x, t, labels)
        return [output, *torch.autograd.grad(output.sin().sum(), list(model.parameters()))]

    for one, other in zip(
        found(torch.compile(model, fullgraph=True, backend="aot_eager_decomp_partition")), found(model), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_transforms_of_torch_func_have_the_same_results():
    """They have no hooks of saved tensors, so nothing is computed again."""
    network, found = blocks(), []
    for recompute in (None, "cheap"):
        torch.manual_seed(1)
        x, condition = torch.randn(2, 16, WIDTH), torch.randn(2, 1, WIDTH)
        weights = {name: value.detach() for name, value in network[0].named_parameters()}

        def loss(weights, x, condition=condition, recompute=recompute):
            def block(*given):
                return torch.func.functional_call(network[0], weights, given)

            return run_recomputing(recompute, block, ResidualStream(x), condition).total().sin().sum()

        with sdpa_kernel(SDPBackend.MATH):
            slopes = torch.func.grad(loss, argnums=(0, 1))(weights, x)
            change = torch.func.jvp(lambda x, loss=loss, weights=weights: loss(weights, x), (x,), (x,))
        found.append([*slopes[0].values(), slopes[1], *change])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_else_it_might_be_is_refused():
    with pytest.raises(ValueError, match="recompute must be 'cheap' or None, got 'all'"):
        DiT(image_size=4, channels=1, patch_size=2, width=16, depth=1, heads=2, classes=3, recompute="all")
