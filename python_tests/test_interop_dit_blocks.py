"""The networks of DiT and SiT are the same with our operations in their blocks as by themselves.

The classes here have those codebases' names, modules and interface, and compute what they do in the plainest way.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from visgen_fast import ops
from visgen_fast.interop import apply_visgen_to_dit, apply_visgen_to_sit
from visgen_fast.interop._own_code import said
from visgen_fast.nn.modulated import Activation

WIDTH = 24


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.act, self.drop1 = nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Dropout(0)
        self.norm, self.fc2, self.drop2 = nn.Identity(), nn.Linear(4 * dim, dim), nn.Dropout(0)

    def forward(self, x):
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1(x))))))


def modulate(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class DiTBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(dim)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x, c):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate_1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_1, scale_1))
        return x + gate_2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_2, scale_2))


class SiTBlock(DiTBlock):
    pass


class FinalLayer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm_final = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(dim, 8)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x, c):
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class Network(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.blocks = nn.ModuleList(block(WIDTH) for _ in range(3))
        self.final_layer = FinalLayer(WIDTH)

    def forward(self, x, c):
        for block in self.blocks:
            x = block(x, c)
        return self.final_layer(x, c)


APPLY = {"DiT": (DiTBlock, apply_visgen_to_dit), "SiT": (SiTBlock, apply_visgen_to_sit)}


@pytest.fixture(autouse=True)
def warns_anew():
    said.clear()


def network(block=DiTBlock, dtype=torch.float32):
    torch.manual_seed(0)
    return Network(block).to(dtype)


def results(model, dtype=torch.float32):
    """The output and all gradients."""
    generator = torch.Generator().manual_seed(1)
    x, c = torch.randn(2, 7, WIDTH, generator=generator).to(dtype), torch.randn(2, WIDTH, generator=generator).to(dtype)
    x, c = x.requires_grad_(), c.requires_grad_()
    output = model(x, c)
    return [output, *torch.autograd.grad(output.float().sin().sum(), [x, c, *model.parameters()])]


def assert_near(found, expected, tolerance=1e-5):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item())


class Calls:
    """Counts the calls of our operations."""

    def __init__(self, monkeypatch):
        self.names = []
        for name in ("modulated_norm", "gated_residual_norm"):
            monkeypatch.setattr(ops, name, self._counted(name, getattr(ops, name)))

    def _counted(self, name, operation):
        def counted(*given, **named):
            self.names.append(name)
            return operation(*given, **named)

        return counted


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("codebase", APPLY)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)], ids=str
)
def test_outputs_and_gradients_are_the_same_and_the_state_dict_stays(codebase, dtype, tolerance, monkeypatch):
    block, apply = APPLY[codebase]
    model = network(block, dtype)
    expected, state = results(model, dtype), list(model.state_dict())
    replacement, calls = apply(model), Calls(monkeypatch)
    assert_near(results(model, dtype), expected, tolerance)
    assert calls.names == ["modulated_norm", "gated_residual_norm"] * 3 + ["modulated_norm"]
    assert list(model.state_dict()) == state and isinstance(model.blocks[0], block)
    replacement.revert()
    assert all(torch.equal(*pair) for pair in zip(results(model, dtype), expected, strict=True))
    assert type(model.blocks[0]) is block and len(calls.names) == 7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_norms_with_an_eps_by_default_have_that_of_the_type(dtype, monkeypatch):
    """`nn.RMSNorm` takes the smallest step of the type: tokens near zero show it."""
    model = network(dtype=dtype)
    for block in model.blocks:
        block.norm1, block.norm2 = (nn.RMSNorm(WIDTH, elementwise_affine=False) for _ in range(2))
    x, c = (torch.full(shape, 1e-6, dtype=dtype) for shape in ((2, 7, WIDTH), (2, WIDTH)))
    expected = model.blocks[0](x, c)
    with apply_visgen_to_dit(model):
        calls = Calls(monkeypatch)
        found = model.blocks[0](x, c)
    assert calls.names == ["modulated_norm", "gated_residual_norm"]
    assert_near([found], [expected], 1e-5 if dtype == torch.float32 else 1e-12)


def test_networks_that_begin_with_closed_gates_are_served_once_these_open():
    model = network(dtype=torch.float64)
    for module in (*model.blocks, model.final_layer):
        for parameter in module.adaLN_modulation.parameters():
            nn.init.zeros_(parameter)
    with apply_visgen_to_dit(model):
        for parameter in model.parameters():
            parameter.data.add_(0.1)
        found = results(model, torch.float64)
    assert_near(found, results(model, torch.float64), 1e-12)


@pytest.mark.filterwarnings("error")
def test_autocast_and_compile_work_on():
    model, x, c = network(), torch.randn(2, 7, WIDTH), torch.randn(2, WIDTH)
    expected = model(x, c)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x, c)
    with apply_visgen_to_dit(model):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, c), expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(x, c)
    assert found.dtype == rounded.dtype
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)


class Scaled(DiTBlock):
    def forward(self, x, c):
        return super().forward(x, c) * 1.01


class ShiftsLast(DiTBlock):
    """The chunks in another order."""

    def forward(self, x, c):
        scale_1, shift_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate_1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_1, scale_1))
        return x + gate_2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_2, scale_2))


class LayerScaled(DiTBlock):
    """What begins as the plain block, and is another one once it has learned."""

    def __init__(self, dim):
        super().__init__(dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x, c):
        return x + self.gamma * (super().forward(x, c) - x)


class DropsPaths(DiTBlock):
    def __init__(self, dim):
        super().__init__(dim)
        self.drop_path = nn.Dropout(0.1)

    def forward(self, x, c):
        return self.drop_path(super().forward(x, c))


@pytest.mark.parametrize("block", [Scaled, ShiftsLast, LayerScaled, DropsPaths])
def test_copies_that_compute_something_else_keep_their_own_code(block, recwarn):
    model = network(block).eval()
    expected = results(model)
    with apply_visgen_to_dit(model):
        assert all(type(one) is block for one in model.blocks) and type(model.final_layer) is not FinalLayer
        assert_near(results(model), expected)
    reasons = [str(warning.message) for warning in recwarn]
    assert reasons == [f"{block.__name__}.forward runs DiT's own code: it computes something else than DiT's"]


class OldMlp(nn.Module):
    """Of older versions of timm."""

    def __init__(self, dim):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        self.drop = nn.Dropout(0)

    def forward(self, x):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Doubled(Mlp):
    def forward(self, x):
        return super().forward(2 * x)


class Attended(Mlp):
    """With a hook on its first layer, as some that quantize have."""

    def __init__(self, dim):
        super().__init__(dim)
        self.seen = []
        self.fc1.register_forward_hook(lambda *_: self.seen.append(1))


@pytest.mark.parametrize(
    ("mlp", "serves"), [(Mlp, True), (OldMlp, True), (Doubled, False), (Attended, False)], ids=lambda x: str(x)
)
def test_an_mlp_is_served_where_it_is_timms(mlp, serves, monkeypatch):
    model, calls, after = network(), [], Activation.after
    for block in model.blocks:
        block.mlp = mlp(WIDTH)
    expected = results(model)
    monkeypatch.setattr(Activation, "after", lambda *given: calls.append(1) or after(*given))
    with apply_visgen_to_dit(model):
        calls.clear()
        assert_near(results(model), expected)
        assert len(calls) == 3 * serves
        assert mlp is not Attended or len(model.blocks[0].mlp.seen) == 2


def test_what_ours_does_not_serve_runs_the_original(monkeypatch):
    model = network()
    x, c = torch.randn(2, 3, 7, WIDTH), torch.randn(2, WIDTH)
    with apply_visgen_to_dit(model):
        calls = Calls(monkeypatch)
        with pytest.raises(RuntimeError, match="size of tensor"):  # as the block itself
            model(x, c)

        class Subclass(torch.Tensor):
            pass

        assert type(model(x[:, 0].as_subclass(Subclass), c)) is Subclass and not calls.names
        seen = []
        model.blocks[0].norm1.register_forward_hook(lambda *_: seen.append(1))
        model.blocks[0](x[:, 0], c)
        assert seen and not calls.names


def test_copies_and_pickles_work_on():
    model = network()
    expected = results(model)
    with apply_visgen_to_dit(model):
        copied, loaded = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        assert type(loaded.blocks[0]) is DiTBlock and type(copied.blocks[0]) is type(model.blocks[0]) is not DiTBlock
        assert_near(results(copied), expected)
    assert_near(results(loaded), expected)


def test_another_application_changes_nothing():
    model = network()
    with apply_visgen_to_dit(model):
        within = type(model.blocks[0])
        apply_visgen_to_dit(model).revert()
        assert type(model.blocks[0]) is within
    assert type(model.blocks[0]) is DiTBlock
