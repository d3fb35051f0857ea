"""diffusers' transformers are the same with our operations in their norms and MLPs as by themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from visgen_fast import ops
from visgen_fast.interop import apply_visgen_to_diffusers_transformer

diffusers = pytest.importorskip("diffusers")
from diffusers.models.attention import FeedForward  # noqa: E402
from diffusers.models.normalization import (  # noqa: E402
    AdaLayerNormContinuous,
    AdaLayerNormZero,
    AdaLayerNormZeroSingle,
)

WIDTH = 24


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def sd3():
    model = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=3,
        joint_attention_dim=16, caption_projection_dim=24, pooled_projection_dim=12, out_channels=4,
    )  # fmt: skip
    return model, lambda dtype: {
        "hidden_states": normal(2, 4, 8, 8, dtype=dtype),
        "encoder_hidden_states": normal(2, 5, 16, seed=1, dtype=dtype),
        "pooled_projections": normal(2, 12, seed=2, dtype=dtype),
        "timestep": torch.tensor([3, 700]),
    }


def flux():
    model = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=12, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return model, lambda dtype: {
        "hidden_states": normal(2, 9, 4, dtype=dtype),
        "encoder_hidden_states": normal(2, 5, 16, seed=1, dtype=dtype),
        "pooled_projections": normal(2, 12, seed=2, dtype=dtype),
        "timestep": torch.tensor([0.1, 0.9]).to(dtype),
        "img_ids": torch.zeros(9, 3),
        "txt_ids": torch.zeros(5, 3),
    }


def dit():
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=3, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    return model, lambda dtype: {
        "hidden_states": normal(2, 4, 8, 8, dtype=dtype),
        "timestep": torch.tensor([3, 700]),
        "class_labels": torch.tensor([1, 2]),
    }


MODELS = {
    "SD3": (sd3, ["modulated_norm"] * 5),  # a block has two streams, the last norm of its text is continuous
    "Flux": (flux, ["modulated_norm"] * 4),
    "DiT": (dit, ["modulated_norm"] * 2),
}


def made(name, dtype=torch.float32):
    torch.manual_seed(0)
    build, _ = MODELS[name]
    model, inputs = build()
    model = model.to(dtype).eval()  # without dropped labels
    for number, parameter in enumerate(model.parameters()):
        if not parameter.any():
            parameter.data = normal(*parameter.shape, seed=number, dtype=dtype) * 0.1
    return model, inputs(dtype)


def results(model, inputs):
    """The output and all gradients."""
    output = model(**inputs, return_dict=False)[0]
    output.float().sin().sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return {"output": output.detach(), **found}


def assert_near(found, expected, tolerance):
    largest = max(
        value.abs().max().item() for name, value in expected.items() if name != "output" and value is not None
    )
    for name, other in expected.items():
        if other is None:
            assert found[name] is None, name
            continue
        size = other.abs().max().item() if name == "output" else largest
        torch.testing.assert_close(found[name], other, rtol=0, atol=tolerance * size, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def calls(monkeypatch):
    """The names of our norms in the order in which they are called."""
    names, operation = [], ops.modulated_norm

    def counted(*given, **named):
        names.append("modulated_norm")
        return operation(*given, **named)

    monkeypatch.setattr(ops, "modulated_norm", counted)
    return names


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 5e-2)], ids=str
)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_the_same_and_the_state_dict_stays(name, dtype, tolerance, calls):
    model, inputs = made(name, dtype)
    expected, state = results(model, inputs), list(model.state_dict())
    classes = [type(module) for module in model.modules()]
    replacement = apply_visgen_to_diffusers_transformer(model)
    found = results(model, inputs)
    assert_near(found, expected, tolerance)
    assert calls == MODELS[name][1] and list(model.state_dict()) == state
    assert all(isinstance(module, cls) for module, cls in zip(model.modules(), classes, strict=True))
    replacement.revert()
    assert [type(module) for module in model.modules()] == classes
    again = results(model, inputs)
    assert torch.equal(again["output"], expected["output"])


def test_a_model_may_be_given_twice(calls):
    model, inputs = made("DiT")
    expected = model(**inputs, return_dict=False)[0]
    first, second = (apply_visgen_to_diffusers_transformer(model) for _ in range(2))
    torch.testing.assert_close(model(**inputs, return_dict=False)[0], expected, rtol=1e-4, atol=1e-5)
    assert calls == MODELS["DiT"][1]
    second.revert()
    first.revert()
    assert torch.equal(model(**inputs, return_dict=False)[0], expected) and calls == MODELS["DiT"][1]


def test_copies_autocast_and_compiled_graphs_work_on():
    model, inputs = made("DiT")
    expected = model(**inputs, return_dict=False)[0]
    with apply_visgen_to_diffusers_transformer(model):
        torch.testing.assert_close(copy.deepcopy(model)(**inputs, return_dict=False)[0], expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(**inputs, return_dict=False)[0]
        torch.testing.assert_close(rounded.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item())


NORMS = {
    "zero, fp32": lambda: AdaLayerNormZero(WIDTH, norm_type="fp32_layer_norm"),
    "zero, no bias": lambda: AdaLayerNormZero(WIDTH, bias=False),
    "zero, single": lambda: AdaLayerNormZeroSingle(WIDTH),
    "continuous, affine": lambda: AdaLayerNormContinuous(WIDTH, WIDTH),
    "continuous, rms": lambda: AdaLayerNormContinuous(WIDTH, WIDTH, norm_type="rms_norm", eps=1e-6),
    "continuous, plain": lambda: AdaLayerNormContinuous(WIDTH, WIDTH, elementwise_affine=False),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_each_kind_of_norm_is_the_same(name, dtype, calls):
    torch.manual_seed(0)
    module = NORMS[name]().to(dtype)
    for parameter in module.norm.parameters():
        parameter.data += normal(*parameter.shape).to(dtype)
    x, c = normal(2, 5, WIDTH, dtype=dtype), normal(2, WIDTH, seed=1, dtype=dtype)

    def outputs():
        found = module(x, c) if "continuous" in name else module(x, emb=c)
        return [found] if isinstance(found, torch.Tensor) else list(found)

    expected = outputs()
    with apply_visgen_to_diffusers_transformer(module):
        found = outputs()
    assert len(calls) == 1
    in_float32 = name in ("zero, fp32", "continuous, rms")  # whatever the type of x
    tolerance = {torch.float64: 1e-6 if in_float32 else 1e-13, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item())


def test_modulation_of_a_wider_type_gives_the_wider_type_as_before(calls):
    module, x = AdaLayerNormZero(WIDTH), normal(2, 5, WIDTH, dtype=torch.bfloat16)
    module.norm.bfloat16()
    expected = module(x, emb=normal(2, WIDTH))[0]
    with apply_visgen_to_diffusers_transformer(module):
        found = module(x, emb=normal(2, WIDTH))[0]
    assert found.dtype == torch.float32 and torch.equal(found, expected) and not calls


@pytest.mark.parametrize("kind", ["gelu", "gelu-approximate", "geglu", "swiglu", "linear-silu", "geglu-approximate"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_feed_forward_is_the_same(kind, bias):
    torch.manual_seed(0)
    module, x = FeedForward(WIDTH, activation_fn=kind, bias=bias), normal(2, 5, WIDTH).requires_grad_()
    holder = nn.ModuleList([module, AdaLayerNormZero(WIDTH)])

    def gradients():
        output = module(x)
        return [output, *torch.autograd.grad(output.sin().sum(), [x, *module.parameters()])]

    expected = gradients()
    with apply_visgen_to_diffusers_transformer(holder):
        found = gradients()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_projection_that_others_have_changed_is_called():
    """As adapters of low rank do, which take the place of a linear layer or hook it."""
    module, seen = FeedForward(WIDTH, activation_fn="gelu"), []
    with apply_visgen_to_diffusers_transformer(module):
        module.net[0].proj.register_forward_hook(lambda *_: seen.append("hook"))
        module(normal(2, 5, WIDTH))
        module.net[0].proj = nn.Sequential(module.net[0].proj)
        module(normal(2, 5, WIDTH))
    assert seen == ["hook", "hook"]


def test_a_model_without_such_modules_is_refused():
    with pytest.raises(ValueError, match="model must have one of the modules that are replaced; got none: Ada"):
        apply_visgen_to_diffusers_transformer(nn.Linear(2, 2))
