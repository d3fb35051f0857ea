"""The contract of every operation, on every backend: exact, reproducible, at home in PyTorch, never silently wrong.

A new family adds its cases to cases.py and nothing here.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch._dynamo.testing
from cases import CASES, DIFFUSE, NOISE, Case, lay_out, random
from contract import gradients, in_float64, leaves, outputs, real_outputs, with_given_noise
from tolerances import NORMAL_NUMBERS, assert_as_exact_as_pytorch, assert_gumbel_numbers, assert_same_bits
from torch import Tensor
from torch.utils._pytree import tree_leaves

from visgen_fast import ops, reference

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
DIFFERENTIABLE = [case for case in CASES if case.differentiable]
SMALL = [case for case in DIFFERENTIABLE if case.small]
FUNCTIONS = [case for case in CASES if case not in NOISE]  # of tensors, not of seeds alone
FIRST_OF_EACH = list({case.operation: case for case in reversed(CASES)}.values())
# What is in ops.__all__ and no operation of tensors that a case could describe.
WITHOUT_CASES = {
    "Purpose": "an enumeration",
    "draw_seeds": "draws from torch's random state, so that two calls differ; see test_noise.py",
    "adamw_": "overwrites its arguments; see test_optimize.py",
    "solver_step_": "overwrites its arguments; test_solve.py holds it to solver_step, which has cases",
}
WITHOUT_KERNEL = {"confident_mask"}  # plain PyTorch: there are few codes to sort
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_function = pytest.mark.parametrize("case", FUNCTIONS, ids=str)
each_differentiable_case = pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
each_small_case = pytest.mark.parametrize("case", SMALL, ids=str)
each_operation = pytest.mark.parametrize("case", FIRST_OF_EACH, ids=str)


def test_every_operation_has_a_case():
    assert {case.operation for case in CASES} == set(ops.__all__) - set(WITHOUT_CASES)


@pytest.mark.parametrize("case", NOISE, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d)[6:])
def test_random_numbers_equal_the_references(case, dtype, backend, device):
    arguments = case.arguments(dtype, device)
    for result, expected in zip(outputs(ops, case, arguments), outputs(reference, case, arguments), strict=True):
        assert result.dtype == expected.dtype and result.shape == expected.shape
        if case.operation == "gumbel":
            assert_gumbel_numbers(result, reference.gumbel(**{**arguments, "dtype": torch.float64}))
        elif case.operation != "gaussian":
            assert torch.equal(result, expected)
        elif result.numel():
            ulp = torch.finfo(dtype).eps * expected.double().abs()  # both were rounded
            assert ((result.double() - expected.double()).abs() <= NORMAL_NUMBERS + ulp).all()


@each_function
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d)[6:])
def test_equals_the_reference(case, dtype, backend, device):
    arguments = case.arguments(dtype, device)
    before = [value.clone() for value in tree_leaves(arguments) if isinstance(value, Tensor)]
    actual = outputs(ops, case, arguments)
    after = [value for value in tree_leaves(arguments) if isinstance(value, Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "an argument was changed"
    arguments = with_given_noise(arguments)
    expected = outputs(reference, case, arguments)
    truth = outputs(reference, case, in_float64(arguments))
    for result, pytorch, true in zip(actual, expected, truth, strict=True):
        if pytorch.is_floating_point():
            assert_as_exact_as_pytorch(result, pytorch, true)
        else:
            assert result.dtype == pytorch.dtype and torch.equal(result, pytorch) and torch.equal(result, true)


@each_differentiable_case
@pytest.mark.parametrize(
    "dtype, gradient_layout",
    [
        (torch.float32, "contiguous"),
        (torch.float32, "expanded"),
        (torch.float32, "transposed"),
        (torch.bfloat16, "contiguous"),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_gradients_equal_the_references(case, dtype, gradient_layout, backend, device):
    arguments = case.arguments(dtype, device)
    results = real_outputs(ops, case, arguments)
    upstream = [random(tuple(out.shape), torch.float32, device, 9 + i).to(out.dtype) for i, out in enumerate(results)]
    fewest = 3 if gradient_layout == "transposed" else 1
    upstream = [lay_out(g, gradient_layout) if g.dim() >= fewest else g for g in upstream]
    actual = gradients(ops, case, arguments, upstream)
    arguments = with_given_noise(arguments)
    expected = gradients(reference, case, arguments, upstream)
    truth = gradients(reference, case, in_float64(arguments), upstream)
    for name in case.differentiable:
        assert_as_exact_as_pytorch(actual[name], expected[name], truth[name], name)


@pytest.mark.parametrize("case", [case for case in SMALL if not case.straight_through], ids=str)
def test_numerical_derivatives_agree_twice(case, backend, device):
    arguments = leaves(case, case.arguments(torch.float64, device))
    inputs = tuple(arguments[name] for name in case.differentiable)

    def function(*values):
        return real_outputs(ops, case, {**arguments, **dict(zip(case.differentiable, values, strict=True))})

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@each_small_case
def test_second_derivatives_equal_the_references(case, library, device):
    def second(module):
        arguments = leaves(case, case.arguments(torch.float64, device))
        inputs = [arguments[name] for name in case.differentiable]
        results = real_outputs(module, case, arguments)
        first = torch.autograd.grad(sum(out.square().sum() for out in results), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs, materialize_grads=True)

    for actual, expected in zip(second(ops), second(reference), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@each_small_case
def test_forward_mode_is_right(case, library, device):
    arguments = case.arguments(torch.float64, device)
    for name in case.differentiable:
        tangent = random(tuple(arguments[name].shape), torch.float64, device, 20)

        def function(module, value, name=name):
            return real_outputs(module, case, {**arguments, name: value})

        _, actual = torch.func.jvp(partial(function, ops), (arguments[name],), (tangent,))
        _, expected = torch.func.jvp(partial(function, reference), (arguments[name],), (tangent,))
        assert any(e.any() for e in expected) or name == "coefficients"
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


@each_small_case
def test_vmap_equals_a_loop(case, library, device):
    arguments = case.arguments(torch.float32, device)
    for name in {"seeds", *case.differentiable} & set(arguments):
        stacked = torch.stack([arguments[name], arguments[name] * 2 + 1])

        def function(value, name=name):
            return outputs(ops, case, {**arguments, name: value})

        actual = torch.func.vmap(function)(stacked)
        for i, value in enumerate(stacked):
            for a, expected in zip(actual, function(value), strict=True):
                torch.testing.assert_close(a[i], expected, rtol=1e-5, atol=1e-5)


TRANSFORMS = {
    "grad": lambda loss, x, v: torch.func.grad(loss)(x),
    "grad of grad": lambda loss, x, v: torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(x),
    "vjp of grad": lambda loss, x, v: torch.func.vjp(torch.func.grad(loss), x)[1](v)[0],
    "hessian": lambda loss, x, v: torch.func.hessian(loss)(x),
    "jacrev of jacrev": lambda loss, x, v: torch.func.jacrev(torch.func.jacrev(loss))(x),
    "grad of samples": lambda loss, x, v: torch.func.vmap(torch.func.grad(loss))(torch.stack((x, 2 * x))),
}


@each_small_case
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_functional_derivatives_are_right(case, transform, library, device):
    arguments = case.arguments(torch.float64, device)
    for name in case.differentiable:

        def loss(module, value, name=name):
            results = real_outputs(module, case, {**arguments, name: value})
            return sum((out * (out + 1)).sum() for out in results if out.numel())

        value = arguments[name]
        direction = random(tuple(value.shape), torch.float64, device, 21)
        actual, expected = (transform(partial(loss, module), value, direction) for module in (ops, reference))
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_a_tangent_is_not_lost_within_another_transform(library, device):
    x, coefficients, seeds = random((2, 5), torch.float64, device), random((2, 4), torch.float64, device, 1), None
    noise, tangent = random((2, 5), torch.float64, device, 2), random((2, 5), torch.float64, device, 3)

    def function(x):
        def of_scale(scale):
            return (scale * ops.add_noise(x, coefficients, seeds, noise=noise)).sum()

        return torch.func.grad(of_scale)(torch.ones((), dtype=torch.float64, device=device))

    _, actual = torch.func.jvp(function, (x,), (tangent,))
    torch.testing.assert_close(actual, (coefficients[:, :1] * tangent).sum())


def test_a_tangent_of_an_incoming_gradient_is_not_lost(library, device):
    x = random((2, 5), torch.float64, device).requires_grad_()
    coefficients, seeds = random((2, 4), torch.float64, device, 1), torch.arange(2, device=device)
    out, tangent = ops.add_noise(x, coefficients, seeds), random((2, 5), torch.float64, device, 2)
    with torch.autograd.forward_ad.dual_level():
        incoming = torch.autograd.forward_ad.make_dual(torch.ones_like(out), tangent)
        (gradient,) = torch.autograd.grad(out, x, incoming)
        actual = torch.autograd.forward_ad.unpack_dual(gradient).tangent
    torch.testing.assert_close(actual, coefficients[:, :1] * tangent)


def test_batched_gradients_equal_a_loop(library, device):
    x = random((2, 3), torch.float64, device).requires_grad_()
    out = ops.add_noise(x, random((2, 4), torch.float64, device, 1), torch.arange(2, device=device))
    incoming = random((4, 2, 3), torch.float64, device, 2)
    (actual,) = torch.autograd.grad(out, x, incoming, is_grads_batched=True, retain_graph=True)
    for i, gradient in enumerate(incoming):
        torch.testing.assert_close(actual[i], torch.autograd.grad(out, x, gradient, retain_graph=True)[0])


def test_compiling_a_forward_derivative_keeps_it(library, device):
    coefficients, seeds = random((2, 4), torch.float32, device, 1), torch.arange(2, device=device)
    x, tangent = random((2, 5), torch.float32, device), random((2, 5), torch.float32, device, 2)

    def derivative(x, tangent):
        return torch.func.jvp(lambda x: ops.add_noise(x, coefficients, seeds), (x,), (tangent,))[1]

    torch._dynamo.reset()
    actual = torch.compile(derivative, backend="eager")(x, tangent)
    torch.testing.assert_close(actual, coefficients[:, :1] * tangent)


def test_second_derivatives_keep_the_precision_of_wide_results(library, device):
    """Gradients beyond float16's range, as loss scaling makes them, of float32 results of float16 pictures."""
    x = random((2, 5), torch.float16, device).requires_grad_()
    coefficients = random((2, 4), torch.float32, device, 1).requires_grad_()
    out = ops.add_noise(x, coefficients, noise=random((2, 5), torch.float16, device, 2), out_dtype=torch.float32)
    incoming = torch.full_like(out, 1e6)
    (first,) = torch.autograd.grad(out, coefficients, incoming, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum() * 1e-6, x)
    assert torch.equal(second, torch.ones_like(second))


def test_empty_batches_have_second_derivatives(library, device):
    x = torch.zeros(0, 3, device=device, requires_grad=True)
    coefficients = torch.zeros(0, 4, device=device, requires_grad=True)
    out = ops.add_noise(x, coefficients, torch.arange(0, device=device))
    (first,) = torch.autograd.grad(out.square().sum(), coefficients, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.shape == (0, 3)


@pytest.mark.parametrize("case", DIFFUSE, ids=str)
def test_pictures_keep_their_memory_layout(case, backend, device):
    arguments = case.arguments(torch.float32, device)
    expected = torch.empty_like(arguments["x"]).stride()
    for result in outputs(ops, case, arguments):
        assert result.stride() == expected


@each_case
def test_a_second_run_and_another_number_of_threads_give_the_same_bits(case, backend, device):
    threads = torch.get_num_threads()

    def run():
        arguments = case.arguments(torch.float32, device)
        if not case.differentiable:
            return outputs(ops, case, arguments)
        arguments = leaves(case, arguments)
        result = outputs(ops, case, arguments)
        sum(out.float().square().sum() for out in result if out.is_floating_point()).backward()
        return [*result, *(arguments[name].grad for name in case.differentiable)]

    first = run()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        second = run()
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(first, second, strict=True):
        assert_same_bits(a, b)


@each_differentiable_case
def test_autocast_leaves_the_operation_as_it_is(case, library, device):
    arguments = case.arguments(torch.float32, device)
    plain = outputs(ops, case, arguments)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        under_autocast = outputs(ops, case, arguments)
    for p, a in zip(plain, under_autocast, strict=True):
        assert p.dtype == a.dtype and torch.equal(p, a)


@pytest.mark.parametrize("case", DIFFUSE, ids=str)
def test_autocast_takes_lower_coefficients(case, library, device):
    arguments = case.arguments(torch.float32, device)
    low = {**arguments, "coefficients": arguments["coefficients"].bfloat16()}
    with torch.autocast(device.type, dtype=torch.bfloat16):
        raised = outputs(ops, case, low)
    rounded = outputs(ops, case, {**arguments, "coefficients": low["coefficients"].float()})
    for a, b in zip(raised, rounded, strict=True):
        assert torch.equal(a, b)


def _one_for_each_way_to_give_arguments() -> list[Case]:
    """Of every operation; to leave one out takes a reason here."""
    cpu = torch.device("cpu")
    compiled = [case for case in reversed(CASES) if case.operation not in WITHOUT_KERNEL]
    return list({(c.operation, *sorted(c.arguments(torch.float32, cpu))): c for c in compiled}.values())


class _Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the calls of compiled operations, as the dispatcher sees them."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "visgen_fast":
            self.calls.append((function, args, kwargs or {}))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", _one_for_each_way_to_give_arguments(), ids=str)
def test_opcheck_finds_nothing(case, library, device):
    # What is traced is the same for every library; what its kernels return is not.
    tests = ("test_schema", "test_faketensor") if library == "cuda-on-host" else "ALL"
    with _Recorder() as recorder:
        arguments = leaves(case, case.arguments(torch.float32, device))
        result = outputs(ops, case, arguments)
        if case.differentiable:
            sum(out.sum() for out in result if out.is_floating_point()).backward()
    assert recorder.calls
    for function, args, kwargs in recorder.calls:
        names = [argument.name for argument in function._schema.arguments]
        args = tuple(
            value.detach().clone().requires_grad_(name in case.differentiable) if isinstance(value, Tensor) else value
            for name, value in zip(names, args, strict=True)
        )
        torch.library.opcheck(function, args, kwargs, test_utils=tests)


@each_operation
def test_compiles_to_one_graph_that_gives_the_same(case, library, device):
    arguments = case.arguments(torch.float32, device)
    torch._dynamo.reset()
    compiled = torch.compile(lambda kwargs: outputs(ops, case, kwargs), fullgraph=True)
    for actual, expected in zip(compiled(arguments), outputs(ops, case, arguments), strict=True):
        assert actual.stride() == expected.stride() and torch.equal(actual, expected)


_COMPILED = [case for case in _one_for_each_way_to_give_arguments() if case.differentiable]


@pytest.mark.parametrize("case", [case for case in _COMPILED if case.operation != "add_noise"], ids=str)
def test_compiled_gradients_are_the_same(case, library, device):
    def train(kwargs):
        return sum(out.square().sum() for out in real_outputs(ops, case, kwargs))

    torch._dynamo.reset()
    eager = leaves(case, case.arguments(torch.float32, device))
    train(eager).backward()
    traced = leaves(case, case.arguments(torch.float32, device))
    torch.compile(train, fullgraph=True, backend="aot_eager")(traced).backward()
    for name in case.differentiable:
        torch.testing.assert_close(traced[name].grad, eager[name].grad, rtol=1e-6, atol=1e-6)


def test_a_new_size_does_not_recompile(library, device):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(lambda x, c, s: ops.diffuse(x, c, s), fullgraph=True, backend=counter, dynamic=True)
    for batch, side in ((2, 8), (3, 12), (5, 17), (7, 23)):
        x = random((batch, 3, side, side), torch.float32, device)
        compiled(x, random((batch, 4), torch.float32, device), torch.arange(batch, device=device))
    assert counter.frame_count == 1


def test_devices_without_kernels_run_the_reference_and_warn_once(monkeypatch):
    from visgen_fast import _library

    monkeypatch.setattr(_library, "_DEVICES", set())
    _library._warn_once.cache_clear()
    x, coefficients = random((2, 3), torch.float32, torch.device("cpu")), torch.ones(2, 4)
    with pytest.warns(UserWarning, match="no compiled kernels for cpu: the PyTorch reference runs") as caught:
        first = ops.add_noise(x, coefficients, torch.arange(2))
        ops.add_noise(x, coefficients, torch.arange(2))
    assert len(caught) == 1
    assert torch.equal(first, reference.add_noise(x, coefficients, torch.arange(2)))
