"""Calls the compiled operations with arguments that nobody checked: a fuzzer of the raw schemas.

    cd python_tests && python -m fuzz_schemas [--seed N] [--calls N] [--backend cpu-avx2 | cuda-on-host]

It begins with the calls that the cases of the tests make, and changes one to three arguments of each: a tensor's type,
sizes, strides, values, or its presence; a number to one that is negative, huge or not a number. What is called must
return or answer with one sentence. What it reads and writes is for the sanitizers to see (tools/sanitize.py).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from backends import BACKENDS, OPERATIONS, running_on
from case_optimize import IN_PLACE
from cases import CASES, Case
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from visgen_fast import ops

Call = tuple[str, tuple[Any, ...]]

LARGEST = 600  # elements of a tensor that a call begins with
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.int32]
DTYPES += [torch.bool, torch.complex64]
# Between what is quick and what no machine has: a call that fills the memory finds nothing.
INTEGERS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 4, 5, 7, 20, 21, 62, 63, 65536, 2**48, 2**62, 2**63 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-310, 1e-30, 1e30, 1e308, float("inf"), float("-inf"), float("nan")]
CODES = [-(2**63), -2, -1, 0, 1, 2, 5, 2**31, 2**62, 2**63 - 1]


class _Recorder(TorchDispatchMode):
    """Notes the calls of the package's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "visgen_fast":
            self.calls.append((function._schema.name.removeprefix("visgen_fast::"), args))
        return function(*args, **(kwargs or {}))


def recorded_calls() -> list[Call]:
    """The raw calls of the small cases, forward and backward."""
    calls: list[Call] = []
    for case in CASES + IN_PLACE:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            calls += _calls_of(case, dtype)
    return calls


def _calls_of(case: Case, dtype: torch.dtype) -> list[Call]:
    arguments = case.arguments(dtype, torch.device("cpu"))
    if any(isinstance(value, Tensor) and value.numel() > LARGEST for value in tree_leaves(arguments)):
        return []
    for name in case.differentiable:
        arguments[name] = arguments[name].detach().requires_grad_()
    with _Recorder() as recorder:
        result = getattr(ops, case.operation)(**arguments)
        real = [output for output in tree_leaves(result) if output is not None and output.requires_grad]
        if real:
            inputs = [arguments[name] for name in case.differentiable]
            torch.autograd.grad(real, inputs, [torch.ones_like(output) for output in real])
    return [(name, tuple(_detached(value) for value in args)) for name, args in recorder.calls]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def mutated(draw: random.Random, call: Call) -> Call:
    """The call with one to three arguments changed into others of the schema's types."""
    name, args = call
    schema = getattr(torch.ops.visgen_fast, name).default._schema
    changed = list(args)
    for _ in range(draw.choice((1, 1, 2, 3))):
        place = draw.randrange(len(changed))
        changed[place] = _another(draw, str(schema.arguments[place].real_type), changed[place], args)
    return name, tuple(changed)


def _another(draw: random.Random, kind: str, value: Any, args: tuple[Any, ...]) -> Any:
    if kind.startswith("Optional"):
        if value is not None and draw.random() < 0.3:
            return None
        if value is None and "Tensor" not in kind:
            return draw.choice(DTYPES)  # the one optional that is no tensor is a type
        value = torch.zeros(draw.choice([(1,), (2, 3), (1, 4), ()])) if value is None else value
    if isinstance(value, Tensor):
        return _another_tensor(draw, value, args)
    if isinstance(value, torch.dtype):
        return draw.choice(DTYPES)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice(INTEGERS)
    if isinstance(value, float):
        return draw.choice(FLOATS)
    assert isinstance(value, (list, tuple)), f"the fuzzer does not know the type {kind}"
    changed = list(value)
    if changed and draw.random() < 0.7:
        place = draw.randrange(len(changed))
        changed[place] = _another(draw, "", changed[place], args)
        return changed
    return draw.choice([[], changed[:-1], changed + changed[:1], changed * 20])


def _another_tensor(draw: random.Random, tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    change = draw.choice([_dtype, _sizes, _sizes, _strides, _strides, _values, _swapped])
    return change(draw, tensor, args)


def _dtype(draw: random.Random, tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    return torch.zeros(tensor.shape, dtype=draw.choice(DTYPES))


def _sizes(draw: random.Random, tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    sizes = list(tensor.shape)
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.randrange(len(sizes) + 1)
        if not sizes or draw.random() < 0.2:
            sizes.insert(place, draw.choice((0, 1, 2)))
        elif draw.random() < 0.2:
            del sizes[place % len(sizes)]
        else:
            place %= len(sizes)
            sizes[place] = max(0, draw.choice((0, 1, sizes[place] - 1, sizes[place] + 1, 2 * sizes[place], 63)))
    if 0 in sizes and draw.random() < 0.3:  # nothing of a huge size
        sizes = [1 if size else 0 for size in sizes]
        huge = [draw.choice((2**31, 2**45)) if size else 0 for size in sizes[:1]] + sizes[1:]
        return torch.zeros(sizes, dtype=tensor.dtype).expand(huge)
    if torch.Size(sizes).numel() > 100 * LARGEST:
        return tensor
    return torch.ones(sizes, dtype=tensor.dtype)


def _strides(draw: random.Random, tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    if tensor.dim() == 0 or tensor.numel() == 0:
        return tensor.new_zeros(0).as_strided((0, 1, 2), (2**62, 2**62, 2**62))
    first, last = draw.randrange(tensor.dim()), draw.randrange(tensor.dim())
    return draw.choice(
        [
            tensor.transpose(first, last).contiguous().transpose(first, last),
            torch.stack((tensor, tensor), -1)[..., 0],
            torch.cat((tensor.flatten()[:1], tensor.flatten()))[1:].view(tensor.shape),
            tensor.narrow(first, 0, 1).expand(tensor.shape),
        ]
    )


def _values(draw: random.Random, tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    changed = tensor.contiguous().clone().reshape(-1)
    special = CODES if tensor.dtype == torch.int64 else FLOATS if tensor.is_floating_point() else [0, 1]
    wide = torch.int64 if tensor.dtype == torch.int64 else torch.float64
    for _ in range(min(3, changed.numel())):
        changed[draw.randrange(changed.numel())] = torch.tensor(draw.choice(special), dtype=wide).to(tensor.dtype)
    return changed.view(tensor.shape)


def _swapped(draw: random.Random, tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    return draw.choice([value for value in tree_leaves(args) if isinstance(value, Tensor)])


def fault_of(run: Callable[[], object]) -> str:
    """What is wrong with the answer of a call that has returned; empty if nothing is."""
    try:
        run()
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        if "\n" in said or "/" in said or ".h:" in said or ".cpp:" in said:
            return f"no sentence: {said}"
    return ""


def described(call: Call) -> str:
    name, args = call
    return f"{name}({', '.join(map(_shown, args))})"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)} with strides {list(value.stride())}"
    return repr(value)


def calls(seed: int, recorded: list[Call]) -> Iterator[Call]:
    """Mutated calls without an end, of every operation as often."""
    draw = random.Random(seed)
    by_name = {name: [call for call in recorded if call[0] == name] for name in OPERATIONS}
    missing = [name for name, found in by_name.items() if not found]
    assert not missing, f"no small case calls {missing}"
    while True:
        for found in by_name.values():
            call = mutated(draw, draw.choice(found))
            # A call without tensors is torch's to refuse: it knows no device to ask.
            if any(isinstance(value, Tensor) for value in tree_leaves(call[1])):
                yield call


def fuzz(seed: int, count: int, recorded: list[Call], report: Callable[[Call], None] = lambda call: None) -> None:
    """Runs `count` calls; AssertionError at the first that answers with anything but a result or a sentence."""
    for call, _ in zip(calls(seed, recorded), range(count), strict=False):
        report(call)
        operation = getattr(torch.ops.visgen_fast, call[0]).default
        fault = fault_of(lambda operation=operation, call=call: operation(*call[1]))
        assert not fault, f"{described(call)}: {fault}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    parser.add_argument("--verbose", action="store_true", help="say each call before it is made")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recorded = recorded_calls()
    with running_on(options.backend):
        say = (lambda call: print(described(call), flush=True)) if options.verbose else (lambda call: None)
        fuzz(options.seed, options.calls, recorded, say)
    print(f"{options.calls} calls without a fault, seed {options.seed}, on {options.backend}")


if __name__ == "__main__":
    main()
