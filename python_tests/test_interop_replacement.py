"""Our methods in other packages' modules, through what PyTorch does with modules: copies, replicas, pickles, casts."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import vector_quantize_pytorch as package
from test_interop_rqvae import RQBottleneck
from test_interop_var import VectorQuantizer2
from test_interop_vector_quantize_pytorch import LEAN, OWN
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from visgen_fast.interop import (
    apply_visgen_to_rqvae,
    apply_visgen_to_var,
    apply_visgen_to_vector_quantize_pytorch,
)
from visgen_fast.interop._replacement import Replacement, original_class


class Doubler(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.weight * x


def negated(original, self, x):
    return -original(self, x)


class Network(nn.Module):
    """Two modules of which one has our method."""

    def __init__(self):
        super().__init__()
        self.ours, self.theirs = Doubler(), Doubler()

    def forward(self, x):
        return self.ours(x), self.theirs(x)


def replaced() -> tuple[Network, Replacement]:
    network, replacement = Network(), Replacement()
    replacement.replace(network.ours, "forward", negated)
    return network, replacement


def values(network: nn.Module) -> tuple[float, float]:
    return tuple(value.item() for value in network(torch.tensor(1.0)))


def test_a_deep_copy_has_the_method_and_its_own_weights_until_it_is_taken_back():
    network, replacement = replaced()
    copied = copy.deepcopy(copy.deepcopy(network))
    copied.ours.weight.data.fill_(5)
    assert (values(network), values(copied)) == ((-2, 2), (-5, 2))
    replacement.revert()
    replacement.revert()
    assert (values(network), values(copied)) == ((2, 2), (5, 2))
    assert type(network.ours) is Doubler


def test_a_replica_of_data_parallel_uses_its_own_weights():
    network, _ = replaced()
    replica = network.ours._replicate_for_data_parallel()
    replica.weight = torch.tensor(7.0)
    assert replica(torch.tensor(1.0)).item() == -7


def test_a_pickle_is_of_the_original_class():
    network, _ = replaced()
    loaded = pickle.loads(pickle.dumps(network))
    assert type(loaded.ours) is Doubler and values(loaded) == (2, 2)


def test_replacements_of_one_instance_may_lie_over_one_another():
    network, first = replaced()
    second = Replacement()
    second.replace(network.ours, "forward", negated)  # it is there already
    second.replace(network.ours, "extra_repr", lambda original, self: "ours")
    assert original_class(network.ours) is Doubler and values(copy.deepcopy(network)) == (-2, 2)
    assert type(pickle.loads(pickle.dumps(network)).ours) is Doubler
    second.revert()
    assert values(network) == (-2, 2) and network.ours.extra_repr() == ""
    first.revert()
    assert values(network) == (2, 2) and type(network.ours) is Doubler


QUANTIZERS = {
    "VectorQuantize": (
        lambda: package.VectorQuantize(dim=8, codebook_size=16),
        apply_visgen_to_vector_quantize_pytorch,
        torch.randn(2, 30, 8),
        "_codebook.embed",
    ),
    "ResidualVQ": (
        lambda: package.ResidualVQ(dim=8, codebook_size=16, num_quantizers=2),
        apply_visgen_to_vector_quantize_pytorch,
        torch.randn(2, 30, 8),
        "layers.1._codebook.embed",
    ),
    "RQBottleneck": (
        lambda: RQBottleneck((4, 4, 8), (4, 4, 2), 16),
        apply_visgen_to_rqvae,
        torch.randn(2, 4, 4, 8),
        "codebooks.1.weight",
    ),
    "VectorQuantizer2": (VectorQuantizer2, apply_visgen_to_var, torch.randn(2, 8, 5, 5), "embedding.weight"),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_copy_of_a_quantizer_quantizes_with_its_own_codebook_and_goes_back_with_it(name):
    make, apply, x, codebook = QUANTIZERS[name]
    torch.manual_seed(0)
    quantizer = make().eval()
    replacement = apply(quantizer)
    copied = copy.deepcopy(quantizer)
    with torch.no_grad():
        state = copied.state_dict()
        state[codebook].copy_(torch.randn_like(state[codebook]))
    plain = make().eval()
    plain.load_state_dict(copied.state_dict())
    expected = plain(x)[0]
    torch.testing.assert_close(copied(x)[0], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(quantizer(x)[0], expected, atol=0.1)
    replacement.revert()
    methods = [
        getattr(module, method)
        for module in copied.modules()
        for method in ("forward", "quantize", "init_embed_")
        if hasattr(module, method)
    ]
    assert not any(hasattr(method, "replaced_by") for method in methods)
    assert torch.equal(copied(x)[0], plain(x)[0])


CASTS = [  # of the module and of its input
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float64, torch.float64),
]


@pytest.mark.parametrize(
    ("module_type", "input_type", "autocast"),
    [*((*cast, False) for cast in CASTS), (torch.float32, torch.float32, True), (torch.float16, torch.float16, True)],
    ids=str,
)
def test_results_have_the_packages_types_whatever_is_cast(module_type, input_type, autocast):
    for case in LEAN + OWN:
        found = []
        for ours in (False, True):
            try:
                found.append(types(*case.values, module_type, input_type, autocast, ours=ours))
            except RuntimeError:
                found.append(None)
        assert found[0] is None or found[0] == found[1], case.id


def types(cls, options, shape, call, module_type, input_type, autocast, *, ours):
    """The types of results in training and in evaluation, and which of them are differentiable."""
    torch.manual_seed(0)
    quantizer = cls(**copy.deepcopy(options)).to(module_type)
    if ours:
        apply_visgen_to_vector_quantize_pytorch(quantizer)
    found = []
    for training in (True, False):
        x = torch.randn(shape).to(input_type).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found += tree_leaves(quantizer.train(training)(x, **call))
    return [(value.dtype, value.requires_grad) for value in found if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_under_checkpointing_gradients_are_right_or_refused(name, reentrant, training):
    make, apply, x, _ = QUANTIZERS[name]
    torch.manual_seed(0)
    quantizer = make().train(training)
    apply(quantizer)
    plain = copy.deepcopy(quantizer)
    weight = torch.randn(x.shape)

    def gradient(module, call):
        v = x.clone().requires_grad_()
        ((call(lambda u: module(u.sin())[0].sin() + u, v)) * weight).sum().backward()
        return v.grad

    if training and name != "VectorQuantizer2":
        with pytest.raises(RuntimeError, match="learns in its forward, which activation checkpointing runs twice"):
            gradient(quantizer, lambda f, v: checkpoint(f, v, use_reentrant=reentrant))
    else:
        got = gradient(quantizer, lambda f, v: checkpoint(f, v, use_reentrant=reentrant))
        assert torch.equal(got, gradient(plain, lambda f, v: f(v)))
