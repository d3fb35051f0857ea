"""The family `modulate`: what its own mathematics promises, beyond the contract that every operation keeps."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from backends import BACKENDS, running_on
from case import random
from tolerances import assert_as_exact_as_pytorch, assert_same_bits, unit_in_last_place
from torch import Tensor
from torch.nn import functional as F

from visgen_fast import ops, reference

CPU = torch.device("cpu")
each_norm = pytest.mark.parametrize("norm", ["layer", "rms"])


def normal(*shape: int, key: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return random(shape, dtype, CPU, key)


@each_norm
def test_the_definition_is_pytorchs_norm_then_modulation(norm):
    x, branch = normal(2, 3, 7, dtype=torch.float64), normal(2, 3, 7, key=1, dtype=torch.float64)
    gate, scale, shift = normal(2, 21, key=2, dtype=torch.float64).chunk(3, -1)
    weight, bias = normal(7, key=3, dtype=torch.float64), normal(7, key=4, dtype=torch.float64)
    residual, y = reference.gated_residual_norm(
        x, branch, gate, scale, shift, norm=norm, weight=weight, bias=bias, eps=1e-3
    )
    expected = x + gate[:, None] * branch
    normed = F.layer_norm(expected, (7,), eps=1e-3) if norm == "layer" else F.rms_norm(expected, (7,), eps=1e-3)
    torch.testing.assert_close(residual, expected)
    torch.testing.assert_close(y, (normed * weight + bias) * (1 + scale[:, None]) + shift[:, None])


def test_the_definition_of_instances_is_pytorchs_instance_norm():
    x, rows = normal(2, 3, 5, 4, dtype=torch.float64), normal(2, 6, key=1, dtype=torch.float64)
    scale, shift = rows.chunk(2, -1)
    expected = F.instance_norm(x) * (1 + scale[..., None, None]) + shift[..., None, None]
    torch.testing.assert_close(reference.adaptive_instance_norm(x, scale, shift), expected)


def gradients(function, inputs: list[Tensor], upstream: list[Tensor]) -> list[Tensor]:
    leaves = [value.detach().requires_grad_() for value in inputs]
    results = function(*leaves)
    results = [results] if isinstance(results, Tensor) else results
    incoming = [g.to(out.dtype) for g, out in zip(upstream, results, strict=True)]
    return list(torch.autograd.grad(results, leaves, incoming))


@each_norm
@pytest.mark.parametrize("width", [1, 2, 37, 384, 1152, 4099])
def test_numbers_far_from_zero_lose_nothing(width, norm, backend, device):
    """x = 1000 + N(0, 1): a variance that is a difference of squares would have no digit left."""
    x, branch = 1000 + normal(1, 6, width), normal(1, 6, width, key=1)
    gate, scale, shift = (normal(1, width, key=key) for key in (2, 3, 4))
    tensors = [value.to(device) for value in (x, branch, gate, scale, shift)]
    exact = [value.double() for value in tensors]
    upstream = [normal(1, 6, width, key=key).to(device) for key in (5, 6)]

    def composed(x, branch, gate, scale, shift):
        residual = x + gate[:, None] * branch
        normed = (F.layer_norm if norm == "layer" else F.rms_norm)(residual, (width,), eps=1e-6)
        return residual, normed * (1 + scale[:, None]) + shift[:, None]

    ours = partial(ops.gated_residual_norm, norm=norm)
    for actual, eager, true in zip(ours(*tensors), composed(*tensors), composed(*exact), strict=True):
        assert_as_exact_as_pytorch(actual, eager, true)
    found = [gradients(*pair, upstream) for pair in ((ours, tensors), (composed, tensors), (composed, exact))]
    for name, actual, eager, true in zip(("x", "branch", "gate", "scale", "shift"), *found, strict=True):
        if width > 2 or norm == "rms" or name == "shift":  # else it is what rounding leaves of nearly nothing
            assert_as_exact_as_pytorch(actual, eager, true, name)


@pytest.mark.parametrize("width", [1, 2, 24, 37, 384, 1000])
def test_equal_numbers_have_the_norm_zero(width, backend, device):
    x = normal(5, 1, key=1).mul(1000).expand(5, width).to(device)
    shift = normal(width, key=2).to(device)
    assert torch.equal(ops.modulated_norm(x, None, shift), shift.expand(5, width))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinities_stay_within_their_rows_as_in_layer_norm(value, backend, device):
    x = normal(3, 40).to(device)
    x[1, 7] = value
    y = ops.modulated_norm(x, None)
    expected = F.layer_norm(x, (40,), eps=1e-6)
    assert torch.equal(y.isnan(), expected.isnan()) and y[::2].isfinite().all()
    scale = normal(3, 40, key=1).to(device)
    into_x, into_scale = gradients(ops.modulated_norm, [x, scale], [torch.ones_like(x)])
    assert into_x[::2].isfinite().all() and into_scale[::2].isfinite().all() and into_x[1].isnan().any()


@pytest.mark.parametrize("rows", [2, 5, 30, 37, 300])
def test_sums_of_rows_of_one_are_right_to_the_last_place(rows, backend, device):
    """PyTorch's own error may be anything down to none: what is allowed must not hang on it."""
    x, scale, weight, bias = (normal(rows, 1, key=0), *(normal(1, key=key) for key in (1, 2, 3)))
    inputs = [value.to(device) for value in (x, scale, weight, bias)]
    upstream = [normal(rows, 1, key=4).to(device)]

    def of(x, scale, weight, bias):
        return ops.modulated_norm(x, scale, weight=weight, bias=bias)

    found = gradients(of, inputs, upstream)
    truth = gradients(of, [value.double() for value in inputs], upstream)
    for name, actual, true in zip(("scale", "weight", "bias"), found[1:], truth[1:], strict=True):
        units = 2 if name == "bias" else 1  # 1 + scale was rounded, too
        assert ((actual.double() - true).abs() <= units * unit_in_last_place(true, torch.float32)).all(), name


def layouts(b: int, t: int, n: int, d: int) -> dict[str, tuple[int, ...]]:
    """Shapes that modulate x [b, t, n, d]."""
    return {"a vector": (d,), "a sample": (b, d), "a frame": (b, t, 1, d), "a token": (b, t, n, d), "a number": (),
            "a position": (1, t, n, d), "a row's number": (b, t, n, 1), "a sample's number": (b, 1, 1, 1),
            "position and number": (t, n, 1), "tokens of all frames": (b, 1, n, d)}  # fmt: skip


@pytest.mark.parametrize("gate", layouts(2, 3, 5, 8))
@pytest.mark.parametrize("scale", ["a vector", "a sample", "a frame", "a token", "a position", "a row's number"])
def test_any_layouts_go_together(gate, scale, backend, device):
    shapes = layouts(2, 3, 5, 8)
    given = (2, 3, 5, 8), (2, 3, 5, 8), shapes[gate], shapes[scale]
    inputs = [normal(*shape, key=key) for key, shape in enumerate(given)]
    inputs = [value.double().to(device) for value in inputs]
    upstream = [normal(2, 3, 5, 8, key=key).double().to(device) for key in (4, 5)]
    actual, expected = (gradients(module.gated_residual_norm, inputs, upstream) for module in (ops, reference))
    for name, a, e in zip(("x", "branch", "gate", "scale"), actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12, msg=lambda why, name=name: f"{name}: {why}")


@pytest.mark.parametrize("table", ["a vector", "a sample", "a position"])
@pytest.mark.parametrize("embedding", ["a sample", "a frame", "a token"])
def test_a_pair_is_its_sum(table, embedding, backend, device):
    shapes = layouts(2, 3, 5, 8)
    x, branch = normal(2, 3, 5, 8).double().to(device), normal(2, 3, 5, 8, key=1).double().to(device)
    pairs = [normal(*shapes[name], key=2 + key).double().to(device) for key in range(3) for name in (table, embedding)]

    def of(module, *pairs):
        return module.gated_residual_norm(x, branch, *zip(pairs[::2], pairs[1::2], strict=True))

    upstream = [normal(2, 3, 5, 8, key=key).double().to(device) for key in (8, 9)]
    for a, e in zip(of(ops, *pairs), of(reference, *pairs), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
    actual, expected = (gradients(partial(of, module), pairs, upstream) for module in (ops, reference))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


def test_second_derivatives_of_pairs_are_right(library, device):
    x = normal(2, 3, 4, dtype=torch.float64).to(device).requires_grad_()
    pair = tuple(normal(*shape, key=1, dtype=torch.float64).to(device).requires_grad_() for shape in ((4,), (2, 4)))
    assert torch.autograd.gradgradcheck(lambda x, *pair: ops.modulated_norm(x, pair), (x, *pair))


def test_two_dimensions_are_a_sample_and_its_columns(backend, device):
    x, scale = normal(3, 3, 5).to(device), normal(3, 5, key=1).to(device)
    assert torch.equal(ops.modulated_norm(x, scale), ops.modulated_norm(x, scale[:, None]))
    assert not torch.equal(ops.modulated_norm(x, scale), ops.modulated_norm(x, scale[None]))


def test_absent_modulation_is_nothing(backend, device):
    x, branch = normal(2, 5, 16).to(device), normal(2, 5, 16, key=1).to(device)
    one, zero = torch.ones(16, device=device), torch.zeros(16, device=device)
    plain = ops.gated_residual_norm(x, branch, None, None)
    spelled = ops.gated_residual_norm(x, branch, one, zero, zero, weight=one, bias=zero)
    for a, b in zip(plain, spelled, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain[0], x + branch)


def test_slices_are_read_where_they_lie(library, device):
    """The one operation that runs is given the memory of the projection itself."""
    x, projection = normal(2, 5, 16).to(device), normal(2, 48, key=1).to(device)
    slices = projection.chunk(3, -1)
    seen = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append((function, args))
            return function(*args, **(kwargs or {}))

    with Recorder():
        ops.gated_residual_norm(x, x, *slices)
    ((function, args),) = seen
    assert function._schema.name == "visgen_fast::gated_residual_norm"
    storage = projection.untyped_storage().data_ptr()
    assert [args[i].untyped_storage().data_ptr() for i in (2, 4, 6)] == [storage] * 3


def test_only_inputs_residual_means_and_deviations_are_kept(library, device):
    x, branch = normal(2, 5, 16).to(device).requires_grad_(), normal(2, 5, 16, key=1).to(device)
    gate, scale, shift = (normal(2, 16, key=key).to(device).requires_grad_() for key in (2, 3, 4))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        residual, _ = ops.gated_residual_norm(x, branch, gate, scale, shift)
    known = {tensor.data_ptr() for tensor in (x, branch, gate, scale, shift, residual)}
    others = [tensor for tensor in kept if tensor.data_ptr() not in known]
    assert [tensor.shape for tensor in others] == [(2, 5), (2, 5)]


@pytest.mark.parametrize("with_table", [False, True])
def test_a_shift_of_every_number_gets_the_upstream_gradient_itself(with_table, library, device):
    x, shift, upstream = (normal(2, 5, 12, key=key).to(device) for key in range(3))
    table = normal(12, key=3).to(device)
    inputs = [value.requires_grad_() for value in (x, shift, table)[: 2 + with_table]]
    y = ops.modulated_norm(x, None, (table, shift) if with_table else shift)
    gradients = torch.autograd.grad(y, inputs, upstream)
    assert gradients[1].data_ptr() == upstream.data_ptr() and torch.equal(gradients[1], upstream)
    if with_table:
        torch.testing.assert_close(gradients[2], upstream.sum((0, 1)))


@each_norm
def test_gradients_do_not_depend_on_threads_or_reruns(norm, backend, device):
    shape = (3, 150, 40)
    inputs = [normal(*shape), normal(*shape, key=1), *normal(3, 120, key=2).chunk(3, -1), normal(40, key=3)]
    inputs = [value.to(device) for value in inputs]
    upstream = [normal(*shape, key=key).to(device) for key in (4, 5)]

    def of(x, branch, gate, scale, shift, weight):
        return ops.gated_residual_norm(x, branch, gate, scale, shift, norm=norm, weight=weight)

    threads, first = torch.get_num_threads(), gradients(of, inputs, upstream)
    try:
        for run in range(20 if backend == "cpu-baseline" else 3):
            torch.set_num_threads(1 + run % 3)
            for again, value in zip(gradients(of, inputs, upstream), first, strict=True):
                assert_same_bits(again, value)
    finally:
        torch.set_num_threads(threads)


def test_gradients_do_not_depend_on_how_rows_are_numbered(backend, device):
    """Any split of the leading dimensions that keeps the groups gives the same bits, and so does a sample alone."""
    x, g = normal(2, 96, 24).to(device), normal(2, 96, 24, key=1).to(device)
    scale, shift = (normal(2, 24, key=key).to(device) for key in (2, 3))
    together = gradients(ops.modulated_norm, [x, scale, shift], [g])
    for split in ((2, 4, 24, 24), (2, 3, 8, 4, 24)):
        others = gradients(ops.modulated_norm, [x.view(split), scale, shift], [g.view(split)])
        for a, b in zip(others, together, strict=True):
            assert torch.equal(a.view_as(b), b)
    for i in range(2):
        one = slice(i, i + 1)
        alone = gradients(ops.modulated_norm, [x[one], scale[one], shift[one]], [g[one]])
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a, b[one])


def test_one_of_two_results_may_go_unused(backend, device):
    inputs = [normal(2, 5, 16, key=key).double().to(device) for key in (0, 1)]
    inputs += [normal(2, 16, key=key).double().to(device) for key in (2, 3, 4)]
    for used in (0, 1):
        found = []
        for module in (ops, reference):
            leaves = [value.clone().requires_grad_() for value in inputs]
            out = module.gated_residual_norm(*leaves)[used]
            found.append(torch.autograd.grad(out.square().sum(), leaves, materialize_grads=True))
        for a, e in zip(*found, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name.startswith("cpu")])
@pytest.mark.parametrize("dtype, rows", [(torch.float32, 1100), (torch.bfloat16, 2200), (torch.float64, 550)])
@pytest.mark.parametrize("each", ["sample", "token"])
def test_results_too_large_for_the_cache_are_the_same(backend, dtype, rows, each):
    """Large results are written past the cache, small ones into it; each sample is small."""
    shape, own = (3, rows, 384), (3, 1 if each == "sample" else rows, 384)
    inputs = [normal(*shape, dtype=dtype), normal(*shape, key=1, dtype=dtype)]
    inputs += [normal(*own, key=2 + key, dtype=dtype) for key in range(3)]
    upstream = [normal(*shape, key=key, dtype=dtype) for key in (5, 6)]
    with running_on(backend):
        together = [*ops.gated_residual_norm(*inputs), *gradients(ops.gated_residual_norm, inputs, upstream)]
        for i in range(3):
            one = [value[i : i + 1] for value in inputs]
            incoming = [value[i : i + 1] for value in upstream]
            alone = [*ops.gated_residual_norm(*one), *gradients(ops.gated_residual_norm, one, incoming)]
            for a, b in zip(alone, together, strict=True):
                assert_same_bits(a, b[i : i + 1])


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("compiled", [False, True])
def test_two_norms_with_one_table_have_the_gradients_of_float64(batch, compiled, library, device):
    """What torch.compile got wrong on GPUs: two modulated norms whose four slices are of one table."""

    def block(module, x, table, embedding, mixing):
        shift_1, scale_1, shift_2, scale_2 = (table + embedding).chunk(4, 1)
        h = module.modulated_norm(x, scale_1, shift_1)
        return module.modulated_norm(x + h @ mixing, scale_2, shift_2)

    inputs = [normal(batch, 16, 32), normal(1, 4, 32, key=1), normal(batch, 4, 32, key=2), normal(32, 32, key=3) / 6]
    inputs = [value.to(device) for value in inputs]
    upstream = [normal(batch, 16, 32, key=4).to(device)]
    ours = partial(block, ops)
    if compiled:
        torch._dynamo.reset()
        ours = torch.compile(ours, fullgraph=True)
    actual, eager = gradients(ours, inputs, upstream), gradients(partial(block, reference), inputs, upstream)
    truth = gradients(partial(block, reference), [value.double() for value in inputs], upstream)
    for name, a, e, t in zip(("x", "table", "embedding", "mixing"), actual, eager, truth, strict=True):
        assert_as_exact_as_pytorch(a, e, t, name)


def test_adaptive_instance_norm_is_pytorchs(backend, device):
    x, scale, shift = normal(2, 3, 9, 8).to(device), normal(2, 3, key=1).to(device), normal(2, 3, key=2).to(device)
    expected = F.instance_norm(x) * (1 + scale[..., None, None]) + shift[..., None, None]
    torch.testing.assert_close(ops.adaptive_instance_norm(x, scale, shift), expected)


X, V = torch.zeros(2, 3, 5), torch.zeros(5)
WRONG = {
    "scale of another shape": (
        lambda: ops.modulated_norm(X, torch.zeros(3, 5)),
        "scale must be broadcastable to x, [2, 3, 5], or be [2, 5] for each sample, got [3, 5]",
    ),
    "gate of too many dimensions": (
        lambda: ops.gated_residual_norm(X, X, torch.zeros(1, 2, 3, 5), V),
        "gate must be broadcastable to x, [2, 3, 5], or be [2, 5] for each sample, got [1, 2, 3, 5]",
    ),
    "three of a pair": (lambda: ops.modulated_norm(X, (V, V, V)), "scale must be a tensor or a pair of them, got 3"),
    "branch of another shape": (
        lambda: ops.gated_residual_norm(X, X[:1], V, V),
        "branch must have the shape of x, [2, 3, 5], got [1, 3, 5]",
    ),
    "unknown norm": (lambda: ops.modulated_norm(X, V, norm="batch"), "norm must be one of layer, rms, got 'batch'"),
    "weight": (
        lambda: ops.modulated_norm(X, V, weight=torch.zeros(3)),
        "weight must be [5], the last dimension of x, got [3]",
    ),
    "eps": (lambda: ops.modulated_norm(X, V, eps=0.0), "eps must be positive, got 0.0"),
    "x of integers": (
        lambda: ops.modulated_norm(X.long(), V),
        "x must be float32, bfloat16, float16 or float64, got torch.int64",
    ),
    "x of no dimensions": (
        lambda: ops.modulated_norm(torch.zeros(()), None),
        "x must be [B, …, D] with 1 to 8 dimensions, got the shape []",
    ),
    "scale on another device": (
        lambda: ops.modulated_norm(X, V.to("meta")),
        "scale must be on cpu, the device of x, got meta",
    ),
    "instances without space": (
        lambda: ops.adaptive_instance_norm(X[0], None, None),
        "x must be [B, C, *space] with 3 to 9 dimensions, got [3, 5]",
    ),
    "instances' scale": (
        lambda: ops.adaptive_instance_norm(X, torch.zeros(2), None),
        "scale must be [B, C], [2, 3], got [2]",
    ),
}


@pytest.mark.parametrize("call, sentence", WRONG.values(), ids=WRONG)
def test_a_wrong_argument_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence
