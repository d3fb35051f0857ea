"""Every module in every mode that PyTorch has: casts, copies, inference, freezing, transforms, compiling."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from module_cases import (
    DIMENSIONS,
    LEARNING,
    MODULES,
    assert_same,
    assert_same_state,
    go_on_alike,
    inputs,
    made,
    results,
    state,
)
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from visgen_fast.nn import Codebook, VectorQuantizer
from visgen_fast.tokenizers.grid import GridTokenizer

SIXTEEN = [torch.float16, torch.bfloat16]


CASTS = {
    "half()": lambda module: module.half(),
    "bfloat16()": lambda module: module.bfloat16(),
    "to(float16)": lambda module: module.to(torch.float16),
    "to(cpu, bfloat16)": lambda module: module.to("cpu", torch.bfloat16),
    "type(half)": lambda module: module.type(torch.half),
    "in a network": lambda module: nn.Sequential(module).bfloat16()[0],
    "half and float": lambda module: module.half().float(),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize("name", MODULES)
def test_a_cast_to_16_bits_leaves_what_a_module_holds_and_does(name, cast):
    plain, narrow = made(name), made(name)
    before = state(narrow)
    assert cast(narrow) is narrow
    assert_same_state(state(narrow), before)
    go_on_alike(plain, narrow)


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_a_module_in_16_bits_learns_and_loses_as_one_in_32_does(name, dtype):
    plain, narrow = made(name), made(name).to(dtype)
    x = inputs(plain).to(dtype)
    expected, got = plain(x.float()), narrow(x)
    plain.commit()
    narrow.commit()
    assert got.quantized.dtype == dtype and got.loss.dtype == torch.float32
    assert torch.equal(got.codes, expected.codes)
    torch.testing.assert_close(got.loss, expected.loss, rtol=2e-2 if name == "spherical" else 1e-5, atol=1e-6)
    assert_same_state(state(narrow), state(plain), rtol=1e-5, atol=1e-6)


def test_many_vectors_of_16_bits_are_counted_and_averaged_one_by_one():
    made = VectorQuantizer(2, 4).half()
    x = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0)).half()
    made(x)
    assert made.code_counts.sum() == 200_000 and made.code_counts.min() > 1000
    assert made.codebook.embedding.isfinite().all()
    expected = 0.99 + 0.01 * made.code_counts.float()
    torch.testing.assert_close(made.codebook.average_size, expected)


@pytest.mark.parametrize("name", MODULES)
def test_double_makes_everything_float64_and_a_type_of_16_bits_by_default_changes_nothing(name):
    wide = made(name).double()
    assert {t.dtype for t in state(wide).values() if t.is_floating_point()} <= {torch.float64}
    out = wide(inputs(wide).double())
    wide.commit()
    assert out.quantized.dtype == out.loss.dtype == torch.float64
    assert {t.dtype for t in state(wide.half()).values() if t.is_floating_point()} <= {torch.float32}
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert {t.dtype for t in state(MODULES[name]()).values()} <= {torch.float32, torch.int64, torch.bool}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("cast", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(
    "name", [name for name in LEARNING if "manual" in name or name in ("sequence", "residual, shared")]
)
def test_what_was_observed_before_a_cast_is_committed_after_it(name, cast):
    plain, other = made(name), made(name)
    for module in (plain, other):
        module(inputs(module))
    other.to(cast)
    plain.commit()
    other.commit()
    expected = {key: t.double() for key, t in state(plain).items()}
    assert_same_state({key: t.double() for key, t in state(other).items()}, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(expected[f"{_codebook(name)}.embedding"], state(made(name))[f"{_codebook(name)}.embedding"])


def _codebook(name: str) -> str:
    return "parts.1.codebook" if name == "sequence" else "codebook"


# Copies


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", MODULES)
def test_a_copy_goes_on_from_what_was_gathered(name, how):
    quantizer = made(name)
    quantizer(inputs(quantizer))
    other = copy.deepcopy(quantizer) if how == "deepcopy" else pickle.loads(pickle.dumps(quantizer))
    quantizer.commit()
    other.commit()
    go_on_alike(quantizer, other)


@pytest.mark.parametrize("name", MODULES)
def test_a_replica_of_data_parallel_evaluates_and_does_not_pretend_to_learn(name):
    quantizer = made(name)
    expected = results(copy.deepcopy(quantizer).eval(), 0)
    replica = replicated(quantizer)
    if name in LEARNING:
        before = state(quantizer)
        with pytest.raises(RuntimeError, match="cannot learn in the replicas of nn.DataParallel"):
            replica(inputs(quantizer))
        assert_same_state(state(quantizer), before)
    assert_same(results(replicated(quantizer.eval()), 0), expected)


def replicated(module: nn.Module) -> nn.Module:
    """What `nn.parallel.replicate` makes of a module, for a device of its own: without one, all on the CPU."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        setattr(replica, name, replicated(child)) if child is not None else None
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter.clone() if parameter is not None else None)
    for name, buffer in module._buffers.items():
        setattr(replica, name, buffer.clone() if buffer is not None else None)
    return replica


# Modes of autograd


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("name", MODULES)
def test_what_runs_without_gradients_learns_alike_and_training_goes_on(name, mode):
    plain, other = made(name), made(name)
    expected = plain(inputs(plain))
    with mode():
        got = other(inputs(other))
    for one, wanted in zip(got, expected, strict=True):
        assert torch.equal(one, wanted)
    plain.commit()
    other.commit()
    go_on_alike(plain, other)


# Freezing

FREEZES = {
    "itself": lambda quantizer: quantizer.requires_grad_(False),
    "its tokenizer": lambda quantizer: GridTokenizer(nn.Identity(), quantizer, nn.Identity()).requires_grad_(False),
    "its codebooks": lambda quantizer: [
        part.requires_grad_(False) for part in quantizer.modules() if isinstance(part, Codebook)
    ],
}


@pytest.mark.parametrize("freeze", FREEZES.values(), ids=FREEZES)
@pytest.mark.parametrize("name", MODULES)
def test_a_frozen_module_does_not_move_in_training(name, freeze):
    frozen, plain = made(name), made(name)
    freeze(frozen)
    saved = {key: t.clone() for key, t in frozen.state_dict().items()}
    got = frozen(inputs(frozen))
    frozen.commit()
    assert_same_state(dict(frozen.state_dict()), saved)
    for part in plain.modules():  # what comes out is what a codebook gives that does not learn
        if isinstance(part, Codebook):
            part.eval()
    assert_same(list(got), [tensor.detach() for tensor in plain(inputs(plain))])
    copied = copy.deepcopy(frozen)
    results(copied, 1)
    assert_same_state(dict(copied.state_dict()), saved)
    frozen.requires_grad_(True)
    results(frozen, 1)
    moved = any(not torch.equal(t, saved[key]) for key, t in frozen.state_dict().items())
    assert moved == (name in LEARNING)


@pytest.mark.parametrize("name", [name for name in MODULES if "by gradient" in name or name == "multiscale"])
def test_a_codebook_that_is_a_parameter_may_be_frozen_anywhere(name):
    quantizer = made(name)
    nn.Sequential(quantizer).requires_grad_(False)
    before = {key: t.clone() for key, t in quantizer.state_dict().items()}
    results(quantizer, 0)
    assert_same_state(dict(quantizer.state_dict()), before)


def test_what_was_observed_before_freezing_waits_for_the_thaw():
    frozen, plain = made("residual, manual"), made("residual, manual")
    for quantizer in (frozen, plain):
        quantizer(inputs(quantizer))
    frozen.requires_grad_(False)
    frozen.commit()
    frozen.requires_grad_(True)
    frozen.commit()
    plain.commit()
    assert_same_state(state(frozen), state(plain))


# Transforms

SLOW = pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap, where it loops over samples


@SLOW
@pytest.mark.parametrize("name", MODULES)
def test_an_evaluated_module_under_vmap_gives_what_a_loop_does_and_counts_nothing(name):
    quantizer = made(name).eval()
    x = torch.stack([inputs(quantizer, seed) for seed in range(3)])
    expected = [quantizer(some) for some in x]
    quantizer.reset_usage()
    for dim in (0, 1):
        got = vmap(lambda v: tuple(quantizer(v)), in_dims=dim)(x.movedim(0, dim))
        assert torch.equal(got[1], torch.stack([one.codes for one in expected]))
        for number in (0, 2):
            torch.testing.assert_close(got[number], torch.stack([one[number] for one in expected]))
    assert not quantizer.code_counts.any()
    decoded = vmap(quantizer.decode)(got[1])
    torch.testing.assert_close(decoded, torch.stack([quantizer.decode(one.codes) for one in expected]))


@pytest.mark.parametrize("name", MODULES)
def test_an_evaluated_module_has_the_forward_mode_derivatives_of_its_backward(name):
    quantizer = made(name).eval()
    x, direction = inputs(quantizer), inputs(quantizer, 1)

    def values(v: Tensor) -> tuple[Tensor, Tensor]:
        out = quantizer(v)
        return out.quantized, out.loss

    (quantized, loss), tangents = jvp(values, (x,), (direction,))
    counted = quantizer.code_counts.clone()
    v = x.clone().requires_grad_()
    expected = values(v)
    torch.testing.assert_close(quantized, expected[0])
    torch.testing.assert_close(loss, expected[1])
    for tangent, value in zip(tangents, expected, strict=True):
        upstream = torch.randn_like(value)
        (gradient,) = (
            torch.autograd.grad(value, v, upstream, retain_graph=True, allow_unused=True)
            if value.requires_grad
            else (None,)
        )
        wanted = (gradient * direction).sum() if gradient is not None else torch.zeros(())
        torch.testing.assert_close((upstream * tangent).sum(), wanted, rtol=1e-3, atol=1e-3)
    assert not counted.any()


@SLOW
@pytest.mark.parametrize("name", LEARNING)
def test_a_module_that_learns_refuses_the_transforms(name):
    quantizer = made(name)
    before = state(quantizer)
    x = torch.stack([inputs(quantizer, seed) for seed in range(2)])
    with pytest.raises(RuntimeError, match="cannot learn under the transforms of torch.func"):
        vmap(lambda v: quantizer(v).quantized)(x)
    assert_same_state(state(quantizer), before)


# Compiling


def test_a_k_means_start_inside_one_graph_is_refused_and_outside_of_it_is_made():
    quantizer, x = made("residual, k-means"), inputs(made("residual, k-means"))
    with pytest.raises(Exception, match="the k-means start must run eagerly"):
        torch.compile(quantizer, fullgraph=True, backend="eager")(x)
    torch._dynamo.reset()
    eager = copy.deepcopy(quantizer)
    program = torch.compile(quantizer, backend="eager")
    for seed in range(3):
        batch = inputs(eager, seed)
        assert torch.equal(program(batch).quantized, eager(batch).quantized)
    assert_same_state(state(quantizer), state(eager))


def test_a_state_that_has_its_k_means_start_behind_it_compiles_as_one_graph():
    quantizer, resumed = made("residual, k-means"), made("residual, k-means")
    results(quantizer, 0)
    resumed.load_state_dict(quantizer.state_dict())
    got = torch.compile(resumed, fullgraph=True, backend="eager")(inputs(resumed, 1))
    assert torch.equal(got.quantized, quantizer(inputs(quantizer, 1)).quantized)


def test_a_functional_call_with_other_parameters_uses_them():
    quantizer = made("vector, by gradient alone").eval()
    other = {"codebook.embedding": torch.randn(1, 16, DIMENSIONS)}
    codes = functional_call(quantizer, other, (inputs(quantizer),)).codes
    with torch.no_grad():
        quantizer.codebook.embedding.copy_(other["codebook.embedding"])
    assert torch.equal(quantizer(inputs(quantizer)).codes, codes)
