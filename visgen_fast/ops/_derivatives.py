"""Derivatives of operations, once for every family: by a kernel where there is one, by the definition everywhere else.

The gradient of an operation is an operation too, its backward. Second derivatives, and whatever carries a forward-mode
tangent or a `torch.func.vmap` dimension, come from the definition in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from .. import _trust
from .._library import has_kernels

Values = Mapping[str, Any]  # by the names of arguments and results in the schema
Definition = Callable[..., tuple[Tensor, ...]]

_library = torch.ops.visgen_fast
_registrations = torch.library.Library("visgen_fast", "IMPL")  # noqa: TOR901  (for as long as the process lives)


def gate(family: str) -> Callable[..., bool]:
    """For a family: the function (tensors…) that says whether the reference must serve a call instead of its kernels.

    So it is where no kernels were built for the device, where they are not to be trusted (`_trust.py`), and where a
    forward-mode tangent or a `torch.func.vmap` dimension rides on an input: PyTorch would drop the one silently and has
    no rule for the other.

    The first tensor must be there. Small calls spend much of their time here: a list is made where one is needed.
    """

    def runs_reference(*tensors: Tensor | None) -> bool:
        device = tensors[0].device  # type: ignore[union-attr]
        if not has_kernels(device):
            return True
        if device.type in _trust.UNPROVEN_DEVICES and not _trust.serves(family, device, _complaint_about):
            return True
        forward_mode = forward_ad._current_level >= 0
        if torch.compiler.is_compiling():
            return forward_mode
        in_transforms = torch._C._are_functorch_transforms_active()
        if not (in_transforms or forward_mode):
            return False
        given = [tensor for tensor in tensors if tensor is not None]
        if in_transforms:  # inner ones hide the tangents of outer ones
            return any(forward_mode and tensor.is_floating_point() or _is_batched(tensor) for tensor in given)
        return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in given)

    return runs_reference


def _complaint_about(family: str, device: torch.device) -> str:
    from ._self_test import complaint_about  # it calls the families, which come after this

    return complaint_about(family, device)


def _is_batched(tensor: Tensor) -> bool:
    if torch._C._functorch.is_gradtrackingtensor(tensor):
        return _is_batched(torch._C._functorch.get_unwrapped(tensor))
    return torch._C._functorch.is_batchedtensor(tensor)


def run(name: str, *arguments: Any) -> Any:
    """Calls a differentiable operation, past the Python of its derivatives where nothing asks for them."""
    operation = getattr(_library, name).default
    is_plain = not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
    if is_plain and not (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
        with torch._C._AutoDispatchBelowAutograd():
            return operation(*arguments)
    return operation(*arguments)


def differentiable(
    *operations: str,
    definition: Definition,
    inputs: Sequence[str],
    contiguous: Sequence[str] = (),
    by_definition: Sequence[str] = (),
    made: str | None = None,
    added: Mapping[str, str] | None = None,
) -> None:
    """Registers `<operation>_backward` as the gradient of an operation into `inputs`; its fake and its own gradient.

    The schema of the backward says what is kept for it. Its arguments are, by name: `grad_<result>`, the gradients of
    the operation's results, where None stands for 0; then arguments and results of the operation; last, where there are
    several inputs, `needs`, which of them want a gradient. It returns a gradient for each input, shaped like it, or
    without elements where none is wanted.

    Args:
        operations: the operation, and others that have its arguments and first result.
        definition: the results that have gradients, in plain PyTorch, from what is kept for the backward, by name.
        inputs: the arguments to differentiate into; integer tensors and None among them have no gradient.
        contiguous: the gradients that the backward takes in no other layout.
        by_definition: the inputs whose gradient the backward does not make, but the definition.
        made: the result that is the gradient into the first input where the upstream gradient is 1, if it has its type.
        added: inputs that are added to a result, with the name of its gradient, which is theirs where shape and type
            are the same.
    """
    backward = f"{operations[0]}_backward"
    runs_reference = gate(definition.__module__.rpartition(".")[2])
    derivative = getattr(_library, backward).default
    told = [argument.name for argument in derivative._schema.arguments]
    incoming = [name for name in told if name.startswith("grad_")]
    kept = [name for name in told if name not in incoming and name != "needs"]

    def first(needs: Values, values: Values, upstream: Values) -> Values:
        given: dict[str, Any] = {name: upstream.get(name) for name in incoming}
        given[incoming[0]] = upstream.get("grad", given[incoming[0]])
        if all(gradient is None for gradient in given.values()):
            return {}
        if runs_reference(*(value for value in values.values() if isinstance(value, Tensor)), *given.values()):
            gradients, there, at = _from_definition(definition, values, inputs, given)
            return gradients(there, at)
        exact = [name for name in by_definition if needs[name]]
        found: dict[str, Any] = {}
        for name, gradient in (added or {}).items():
            if needs[name] and given[gradient] is not None and _are_alike(values[name], given[gradient]):
                found[name] = given[gradient]
        wanted = [needs[name] and name not in exact and name not in found for name in inputs]
        if made and wanted == [True] + [False] * (len(inputs) - 1) and _serves(values[made], values[inputs[0]], given):
            found[inputs[0]] = values[made]
        elif any(wanted):
            given |= {name: gradient.contiguous() for name in contiguous if (gradient := given[name]) is not None}
            results = run(backward, *given.values(), *values.values(), *([wanted] if "needs" in told else []))
            made_now = zip(inputs, (results,) if isinstance(results, Tensor) else results, wanted, strict=True)
            found |= {name: gradient for name, gradient, want in made_now if want}
        if exact:
            gradients, there, at = _from_definition(definition, values, exact, given)
            found |= gradients(there, at)
        return found

    def second(_: Values, values: Values, upstream: Values) -> Values:
        given, seen = ({name: values[name] for name in names} for names in (incoming, kept))
        gradients, there, at = _from_definition(definition, seen, inputs, given)
        toward = zip(inputs, values.get("needs", [True]), upstream.values(), strict=True)
        directions = {name: direction for name, wanted, direction in toward if wanted and direction is not None}
        zeros = {name: torch.zeros_like(value) for name, value in at.items() if name not in directions}
        to_given, to_inputs = torch.func.vjp(gradients, there, at)[1]({name: (directions | zeros)[name] for name in at})
        return {**to_given, **to_inputs}

    def fake(*arguments: Any) -> Tensor | tuple[Tensor, ...]:
        values = dict(zip(told, arguments, strict=True))
        wanted = zip(inputs, values.get("needs", [True]), strict=True)
        like = values[inputs[0]]
        found = [torch.empty_like(values[name]) if want else like.new_empty(0).float() for name, want in wanted]
        return tuple(found) if len(inputs) > 1 else found[0]

    for name in operations:
        register_autograd(name, lambda values: {name: values[name] for name in kept}, first)
    register_autograd(backward, lambda values: {name: values[name] for name in told}, second)
    register_fake(backward, fake)


def _serves(made: Tensor, of: Tensor, given: Values) -> bool:
    """Whether a gradient made beforehand is right as it is: on a CPU the upstream gradient can be looked at.

    A leaf would keep it as its own, and add to it.
    """
    (upstream,) = given.values()
    is_plain = type(upstream) is Tensor and not (torch.is_grad_enabled() or of.is_leaf)
    return is_plain and made.dtype == of.dtype and upstream.device.type == "cpu" and bool((upstream == 1).all())


def _are_alike(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and tensor.dtype == other.dtype


def register_fake(operation: str, results: Callable[..., Any]) -> None:
    """What a compiler sees in the place of the operation: empty results, from its arguments."""
    torch.library.register_fake(f"visgen_fast::{operation}", results)


def register_autograd(operation: str, keep: Callable[[Values], Values], gradients: Callable[..., Values]) -> None:
    """As `torch.library.register_autograd`, but for `torch.func`'s transforms too, and by names.

    keep: what `gradients` will need of the arguments and results. gradients(needs, kept, upstream): those of the
    arguments, from which of them are wanted, what was kept, and `grad_<result>`, `grad` where there is one result.
    """
    compiled, below = getattr(_library, operation).default, torch._C._after_autograd_keyset
    arguments = [argument.name for argument in compiled._schema.arguments]
    results = [result.name or str(place) for place, result in enumerate(compiled._schema.returns)]
    upstream_names = [f"grad_{name}" for name in results] if len(results) > 1 else ["grad"]

    def forward(ctx: Any, keyset: Any, *given: Any) -> Any:
        with torch.enable_grad():  # for the outer ones of nested `torch.func.grad`
            returned = without_autograd(keyset, *given)
        values = (*given, *(returned if isinstance(returned, tuple) else (returned,)))
        ctx.kept = dict(keep(dict(zip((*arguments, *results), values, strict=True))))
        ctx.tensors = [name for name, value in ctx.kept.items() if isinstance(value, Tensor)]
        ctx.save_for_backward(*map(ctx.kept.get, ctx.tensors))
        ctx.kept.update(dict.fromkeys(ctx.tensors))
        ctx.set_materialize_grads(False)
        return returned

    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = dict(zip(arguments, ctx.needs_input_grad[1:], strict=True))
        values = ctx.kept | dict(zip(ctx.tensors, ctx.saved_tensors, strict=True))
        found = gradients(needs, values, dict(zip(upstream_names, upstream, strict=True)))
        return None, *(found.get(name) if needed else None for name, needed in needs.items())

    def without_autograd(keyset: Any, *given: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return compiled.redispatch(keyset & below, *given)

    def autograd(keyset: Any, *given: Any) -> Any:
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*given)):
            return without_autograd(keyset, *given)
        with enable_single_level_autograd_function():
            return function.apply(keyset, *given)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(operation, (_SingleLevelFunction,), methods)
    _registrations.impl(operation, autograd, "Autograd", with_keyset=True)


def _from_definition(
    definition: Definition, values: Values, inputs: Sequence[str], given: Values
) -> tuple[Callable[[Values, Values], Values], Values, Values]:
    """In plain PyTorch the backward as a function of (given, inputs), and these two without what has no derivative."""
    at = {name: values[name] for name in inputs if values[name] is not None and values[name].is_floating_point()}
    there = {name: gradient for name, gradient in given.items() if gradient is not None}

    def gradients(there: Values, at: Values) -> Values:
        results, pull, *_ = torch.func.vjp(lambda at: definition(**{**values, **at}), at)
        pairs = zip(results, given, strict=True)
        return pull(tuple(there[g].to(r.dtype) if g in there else torch.zeros_like(r) for r, g in pairs))[0]

    return gradients, there, at
