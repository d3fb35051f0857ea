"""Modulated norms, AdaIN and the MLP as modules: PyTorch's mathematics and state dicts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visgen_fast import ops
from visgen_fast.nn import AdaptiveInstanceNorm, FeedForward, GatedResidualNorm, ModulatedNorm, ResidualStream


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def learned(module):
    """The module with other weights than it begins with."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data += normal(*parameter.shape, seed=100 + number)
    return module


NORMS = {"layer": (nn.LayerNorm, {"weight", "bias"}), "rms": (nn.RMSNorm, {"weight"})}


@pytest.mark.parametrize("norm", NORMS)
def test_an_affine_norm_has_the_state_dict_and_the_results_of_pytorchs(norm):
    theirs_of, names = NORMS[norm]
    theirs, ours = learned(theirs_of(24, eps=1e-5)), ModulatedNorm(24, norm=norm, affine=True, eps=1e-5)
    assert set(theirs.state_dict()) == names
    ours.load_state_dict(theirs.state_dict())
    x, scale, shift = normal(2, 5, 24), normal(2, 24, seed=1), normal(2, 24, seed=2)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x, scale, shift), theirs(x) * (1 + scale[:, None]) + shift[:, None])


def test_a_norm_that_is_not_affine_has_no_state():
    assert not ModulatedNorm(8).state_dict() and not GatedResidualNorm(8, norm="rms").state_dict()
    assert repr(GatedResidualNorm(8)) == "GatedResidualNorm(8, norm='layer', affine=False, eps=1e-06)"


@pytest.mark.parametrize("norm", NORMS)
def test_a_gated_residual_norm_is_the_norm_of_the_sum(norm):
    x, branch, gate, scale = (normal(2, 5, 24, seed=seed) for seed in range(4))
    joined, alone = (learned(made(24, norm=norm, affine=True)) for made in (GatedResidualNorm, ModulatedNorm))
    residual, y = joined(x, branch, gate, scale)
    torch.testing.assert_close(residual, x + gate * branch)
    torch.testing.assert_close(y, alone(residual, scale))


def test_a_residual_without_a_branch_is_x():
    norm, x, scale, shift = GatedResidualNorm(24), normal(2, 5, 24), normal(2, 24, seed=1), normal(24, seed=2)
    residual, y = norm(*ResidualStream(x), scale, shift)
    assert residual is x and torch.equal(y, ops.modulated_norm(x, scale, shift))
    with pytest.raises(ValueError, match="gate must be None where there is no branch"):
        norm(x, None, scale, None)


@pytest.mark.parametrize("gate", ["none", "width", "sample", "token", "pair"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_total_of_a_residual_stream_is_the_residual_that_a_norm_returns(gate, dtype):
    x, branch = normal(2, 5, 24, dtype=dtype), normal(2, 5, 24, seed=1, dtype=dtype)
    table, sample, token = normal(24, seed=2), normal(2, 24, seed=3, dtype=dtype), normal(2, 5, 24, seed=4, dtype=dtype)
    gates = {"none": None, "width": table, "sample": sample, "token": token, "pair": (table, sample)}
    stream = ResidualStream(x, branch, gates[gate])
    residual, _ = GatedResidualNorm(24)(*stream)
    assert stream.total().dtype == dtype
    assert torch.equal(stream.total(), residual)
    assert torch.equal(ResidualStream(x).total(), x)


def test_adaptive_instance_norm_is_pytorchs_instance_norm_under_a_style():
    module, x, style = learned(AdaptiveInstanceNorm(6, 10)), normal(3, 6, 4, 5), normal(3, 10, seed=1)
    scale, shift = module.linear(style).chunk(2, 1)
    expected = F.instance_norm(x) * (1 + scale[..., None, None]) + shift[..., None, None]
    torch.testing.assert_close(module(x, style), expected)
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {
        **{"linear.weight": (12, 10), "linear.bias": (12,)}
    }


PLAIN = {"gelu_tanh": nn.GELU(approximate="tanh"), "gelu": nn.GELU(), "silu": nn.SiLU()}
GATED = {"swiglu": F.silu, "geglu": F.gelu}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", PLAIN)
def test_a_feed_forward_is_its_three_modules_in_a_row(kind, bias):
    ours = FeedForward(12, 20, kind, bias=bias)
    theirs = nn.Sequential(nn.Linear(12, 20, bias), PLAIN[kind], nn.Linear(20, 12, bias))
    theirs.load_state_dict(learned(ours).state_dict())
    ours, theirs, x = ours.double(), theirs.double(), normal(2, 5, 12, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x))
    for one, other in zip(
        *(torch.autograd.grad(made(x).sin().sum(), [x, *made.parameters()]) for made in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", GATED)
def test_a_gated_feed_forward_multiplies_one_half_by_the_activation_of_the_other(kind):
    module, x = learned(FeedForward(12, 20, kind)), normal(2, 5, 12)
    gate, value = module[0](x).chunk(2, -1)
    assert module[0].out_features == 40
    torch.testing.assert_close(module(x), module[2](GATED[kind](gate) * value))


class Adapter(nn.Module):
    """What low-rank adapters put in the place of a linear layer: it has the layer's weight and bias, and adds to it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(12, 2, bias=False), nn.Linear(2, 20, bias=False)

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def adapted(module):
    module[0] = Adapter(module[0])


CHANGES = {
    "an adapter": adapted,
    "spectral norm by a hook": lambda module: nn.utils.spectral_norm(module[0]),
    "a parametrization": lambda module: nn.utils.parametrizations.weight_norm(module[0]),
    "another activation": lambda module: module.__setitem__(1, nn.ReLU()),
    "one more module": lambda module: module.insert(2, nn.Softmax(-1)),
    "a hook that changes": lambda module: module[0].register_forward_hook(lambda layer, given, found: 2 * found),
    "a hook of the activation": lambda module: module[1].register_forward_hook(lambda layer, given, found: 2 * found),
    "a method of its own": lambda module: setattr(module[0], "forward", lambda x: 2 * F.linear(x, module[0].weight)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_feed_forward_that_others_have_changed_is_its_modules_in_a_row(change):
    module, x = learned(FeedForward(12, 20)).eval(), normal(2, 5, 12)
    before = module(x)
    CHANGES[change](module)
    module(x)
    learned(module)
    found, expected = module(x), x
    for part in module:
        expected = part(expected)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, before)


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(ValueError, match="kind must be one of gelu_tanh, gelu, silu, swiglu, geglu, got 'relu'"):
        FeedForward(8, 16, "relu")
    with pytest.raises(ValueError, match="norm must be one of layer, rms, got 'group'"):
        ModulatedNorm(8, norm="group")
    for made in (lambda: ModulatedNorm(0), lambda: FeedForward(0, 4)):
        with pytest.raises(ValueError, match="width must be at least 1, got 0"):
            made()
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        FeedForward(4, 0)
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        AdaptiveInstanceNorm(0, 4)
    for made in (ModulatedNorm, GatedResidualNorm, AdaptiveInstanceNorm):
        for eps in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match=f"eps must be positive, got {eps}"):
                made(8, *[4] * (made is AdaptiveInstanceNorm), eps=eps)
        with pytest.raises(TypeError, match="eps must be a number, got str"):
            made(8, *[4] * (made is AdaptiveInstanceNorm), eps="1e-6")
    x = normal(2, 5, 7)
    for call in (lambda: ModulatedNorm(8)(x), lambda: GatedResidualNorm(8)(x, x, None)):
        with pytest.raises(ValueError, match=r"x must have rows of the norm's width, 8, got the shape \[2, 5, 7\]"):
            call()
    with pytest.raises(ValueError, match=r"style must be \[B, 4\], got \[2, 5\]"):
        AdaptiveInstanceNorm(8, 4)(normal(2, 8, 3, 3), normal(2, 5))
