"""Under activation checkpointing modules learn, count and differentiate as without it, or refuse."""

from __future__ import annotations

import pytest
import torch
from module_cases import DIMENSIONS, LEARNING, MODULES, assert_same_state, inputs, made, state
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visgen_fast.nn import MultiscaleQuantizer, Quantizer


def run(name: str, call, *, order: tuple[int, ...] = (0, 1)) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Two forwards of a network with the module inside, their backwards in some order, a commit and a third forward.

    Returns results and gradients, and the state that the module ends with.
    """
    quantizer = made(name)
    before = nn.Linear(DIMENSIONS, DIMENSIONS)
    parameters = [*before.parameters(), *quantizer.parameters()]
    found = []

    def network(x: Tensor) -> tuple[Tensor, ...]:
        channels_first = isinstance(quantizer, MultiscaleQuantizer)
        z = before(x.movedim(1, -1)).movedim(-1, 1) if channels_first else before(x)
        first = quantizer(z)
        second = quantizer(first.quantized * 1.5 - z)  # twice in one call
        decoded = quantizer.decode(second.codes)
        return (first.quantized * second.quantized).sin(), first.loss + second.loss, decoded.cos()

    xs = [inputs(quantizer, seed).requires_grad_() for seed in range(3)]
    outputs = [call(network, x) for x in xs[:2]]
    for number in order:
        loss = sum((output * (1 + output.detach())).sum() for output in outputs[number])
        found += torch.autograd.grad(loss, [xs[number], *parameters], allow_unused=True)
        found += [output.detach() for output in outputs[number]]
    quantizer.commit()
    outputs = call(network, xs[2])
    found += torch.autograd.grad(sum(output.sum() for output in outputs), [xs[2], *parameters], allow_unused=True)
    return found, state(quantizer)


def assert_same(got: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for number, (tensor, wanted) in enumerate(zip(got, expected, strict=True)):
        assert (tensor is None) == (wanted is None), number
        assert tensor is None or torch.equal(tensor, wanted), number


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "backwards"])
@pytest.mark.parametrize("name", MODULES)
def test_a_checkpointed_network_learns_once_and_has_the_gradients_of_a_plain_one(name, order):
    expected, state_of_plain = run(name, lambda network, x: network(x), order=order)
    got, state_of_checkpointed = run(name, lambda network, x: checkpoint(network, x, use_reentrant=False), order=order)
    assert_same(got, expected)
    assert_same_state(state_of_checkpointed, state_of_plain)


def run_by_backward(quantizer: Quantizer, call) -> tuple[list[Tensor | None], dict[str, Tensor]]:
    """One forward and its gradients by `backward`, the only way that reentrant checkpoints have."""
    x = inputs(quantizer).requires_grad_()
    sum(value.sum() for value in call(lambda v: quantizer(v)[::2], x)).backward()
    return [x.grad, *(parameter.grad for parameter in quantizer.parameters())], state(quantizer)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", MODULES)
def test_a_reentrant_checkpoint_does_as_well_or_is_refused_before_a_gradient_is_wrong(name, training):
    def reentrant(network, x):
        return checkpoint(network, x, use_reentrant=True)

    if training and name in LEARNING:
        with pytest.raises(RuntimeError, match="learns in its forward, .* use_reentrant=False"):
            run_by_backward(made(name), reentrant)
        return
    expected, state_of_plain = run_by_backward(made(name).train(training), lambda network, x: network(x))
    got, state_of_checkpointed = run_by_backward(made(name).train(training), reentrant)
    assert_same(got, expected)
    assert_same_state(state_of_checkpointed, state_of_plain)


def test_checkpoints_in_one_another_are_refused():
    quantizer = made("vector")

    def inner(x: Tensor) -> Tensor:
        return checkpoint(lambda v: quantizer(v).quantized.sin(), x, use_reentrant=False)

    out = checkpoint(lambda v: inner(v.sin()).sin(), inputs(quantizer).requires_grad_(), use_reentrant=False)
    with pytest.raises(RuntimeError, match="without checkpoints in one another"):
        out.sum().backward()


def test_gradients_may_be_taken_twice_and_what_was_kept_goes_with_the_graph():
    from visgen_fast.nn import side_effects

    quantizer = made("residual")
    x = inputs(quantizer).requires_grad_()
    plain = made("residual")(x).loss.sum()
    (expected,) = torch.autograd.grad(plain, x)
    loss = checkpoint(lambda v: quantizer(v).loss, x, use_reentrant=False).sum()
    for _ in range(2):
        (got,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert torch.equal(got, expected)
    assert len(side_effects._kept) == 1
    del loss
    assert len(side_effects._kept) == 0


def test_a_module_that_learns_in_its_forward_may_do_so_inside_no_grad_of_a_checkpoint():
    def network(quantizer: Quantizer, x: Tensor) -> Tensor:
        with torch.no_grad():
            codes = quantizer(x).codes
        return (x * quantizer.decode(codes)).sin()

    gradients = []
    for call in (lambda f, v: f(v), lambda f, v: checkpoint(f, v, use_reentrant=False)):
        quantizer = made("residual")
        x = inputs(quantizer).requires_grad_()
        gradients.append(torch.autograd.grad(call(lambda v, q=quantizer: network(q, v), x).sum(), x)[0])
    assert torch.equal(*gradients)


def both(how: str, quantizer: Quantizer, backend: str):
    """A network with the module inside as a function that is compiled and checkpointed."""
    if how == "a checkpoint in a graph":
        return torch.compile(
            lambda x: checkpoint(lambda v: tuple(quantizer(v.sin())), x, use_reentrant=False), backend=backend
        )
    graph = torch.compile(lambda x: tuple(quantizer(x.sin())), backend=backend)
    return lambda x: checkpoint(graph, x, use_reentrant=False)


@pytest.mark.parametrize("how", ["a checkpoint in a graph", "a graph in a checkpoint"])
@pytest.mark.parametrize("name", ["vector", "residual, manual", "finite scalar"])
def test_compiled_and_checkpointed_at_once_a_module_that_learns_refuses(name, how):
    torch._dynamo.reset()
    quantizer, plain = made(name), made(name)
    x = inputs(quantizer)

    def gradient(function) -> Tensor:
        v = x.clone().requires_grad_()
        out = function(v)
        return torch.autograd.grad((out[0] * x).sum() + out[2].sum(), v)[0]

    function = both(how, quantizer, "aot_eager")
    if name in LEARNING:
        with pytest.raises(Exception, match="cannot learn under activation checkpointing and torch.compile"):
            gradient(function)
    else:
        assert torch.equal(gradient(function), gradient(lambda v: plain(v.sin())))


@pytest.mark.parametrize(
    "name", ["vector", "vector, cosine by gradient", "residual, sequential", "multiscale, averages"]
)
def test_the_backward_of_a_compiled_module_sees_the_codebook_of_its_forward(name):
    torch._dynamo.reset()
    quantizer, plain = made(name), made(name)
    program = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        gradients = []
        for function, module in ((program, quantizer), (plain, plain)):
            x = inputs(module, seed).requires_grad_()
            out = function(x)
            vectors = [x, *module.parameters()]
            gradients.append(torch.autograd.grad((out.quantized.sin().sum() + out.loss.exp().sum()), vectors))
        torch.testing.assert_close(*gradients)
    assert_same_state(state(quantizer), state(plain), rtol=1e-5, atol=1e-6)
