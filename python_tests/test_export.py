"""Graphs with sizes left open: every operation and every quantizer, exported and compiled, at other sizes too."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import CASES
from torch import Tensor, nn
from torch.export import Dim, export
from torch.utils._pytree import tree_leaves

from visgen_fast import nn as quantizers
from visgen_fast import ops

CPU = torch.device("cpu")
OF_A_BATCH = (
    *("pred", "target", "x", "codes", "seeds", "index", "seed", "coefficients", "noise", "endpoint", "outputs"),
    *("logits", "log_probability", "unknown", "branch", "gate", "scale", "shift"),
)
LISTS_OF_A_BATCH = ("outputs", "slots", "gradients")
WITH_A_BATCH = [case for case in CASES if case.label in ("primes", "seed_each", "picture")]
OPERATIONS = list({case.operation: case for case in reversed(WITH_A_BATCH)}.values())


class Call(nn.Module):
    """A function of tensors, or a module's method, as a module."""

    def __init__(self, target, method: str) -> None:
        super().__init__()
        self.target, self.method = target, method

    def forward(self, *tensors):
        return getattr(self.target, self.method)(*tensors)


def larger(tensor: Tensor) -> Tensor:
    return torch.cat((tensor, tensor, tensor[:1]))


def open_sizes(tensors: tuple[Tensor, ...], dims: int) -> tuple[dict, ...]:
    """The first dimensions of the tensors, which they share."""
    names = [Dim(f"size_{d}", min=2, max=10**6) for d in range(dims)]
    return tuple({d: names[d] for d in range(min(dims, tensor.dim()))} for tensor in tensors)


def check(target, tensors: tuple[Tensor, ...], how: str, *, method: str = "__call__", dims: int = 1) -> None:
    """A graph made with the tensors does what the target does, with them and with larger ones after them."""
    call, twin = Call(target, method), copy.deepcopy(target)
    if how == "compile":
        torch._dynamo.reset()
        graph = torch.compile(call, dynamic=True, fullgraph=True, backend="aot_eager")
    else:
        shapes = {"tensors": open_sizes(tensors, dims)}
        graph = export(call, tensors, dynamic_shapes=shapes, strict=how == "strict export").module()
    for sizes in (tensors, tuple(map(larger, tensors))):
        pairs = zip(tree_leaves(graph(*sizes)), tree_leaves(getattr(twin, method)(*sizes)), strict=True)
        for actual, expected in pairs:
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


each_way = pytest.mark.parametrize("how", ["compile", "export", "strict export"])
each_graph = pytest.mark.parametrize(
    "how", ["compile", "export"]
)  # what a strict export traces with, the first has too


def test_every_operation_of_tensors_is_here():
    assert {case.operation for case in OPERATIONS} == {case.operation for case in CASES}


class Operation(nn.Module):
    """The operation of a case, as a function of those of its tensors that a batch lengthens."""

    def __init__(self, case) -> None:
        super().__init__()
        self.operation, self.arguments = case.operation, case.arguments(torch.float32, CPU)
        self.names = [name for name in OF_A_BATCH if isinstance(self.arguments.get(name), Tensor)]
        self.lists = [name for name in LISTS_OF_A_BATCH if isinstance(self.arguments.get(name), list)]

    def tensors(self) -> tuple[Tensor, ...]:
        alone = [self.arguments[name] for name in self.names]
        return (*alone, *(tensor for name in self.lists for tensor in self.arguments[name]))

    def forward(self, *tensors):
        given = {**self.arguments, **dict(zip(self.names, tensors, strict=False))}
        first = len(self.names)
        for name in self.lists:
            count = len(self.arguments[name])
            given[name] = list(tensors[first : first + count])
            first += count
        return getattr(ops, self.operation)(**given)


@each_way
@pytest.mark.parametrize("case", OPERATIONS, ids=str)
def test_operations_leave_the_batch_open(case, how):
    module = Operation(case)
    check(module, module.tensors(), how)


QUANTIZERS = {
    "ResidualQuantizer": lambda: quantizers.ResidualQuantizer(2, 7, 4),
    "ResidualQuantizer rotation": lambda: quantizers.ResidualQuantizer(2, 7, 4, gradient="rotation", shared=True),
    "ResidualQuantizer gradient": lambda: quantizers.ResidualQuantizer(2, 7, 4, learning="gradient"),
    "ResidualQuantizer beam": lambda: quantizers.ResidualQuantizer(2, 7, 4, beam=3),
    "VectorQuantizer": lambda: quantizers.VectorQuantizer(7, 4),
    "VectorQuantizer cosine": lambda: quantizers.VectorQuantizer(7, 4, metric="cosine"),
    "FSQ": lambda: quantizers.FSQ((8, 5, 5, 5)),
    "LookupFree": lambda: quantizers.LookupFree(4),
    "BSQ": lambda: quantizers.BSQ(4),
}
each_quantizer = pytest.mark.parametrize("name", QUANTIZERS)


@each_graph
@each_quantizer
def test_quantizers_leave_the_sizes_of_their_input_open(name, how):
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    check(QUANTIZERS[name]().eval(), (x,), how, dims=2)


class WithSeeds(nn.Module):
    def __init__(self, quantizer: quantizers.Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x, seeds):
        return self.quantizer(x, seeds=seeds)


@each_graph
@each_quantizer
def test_training_quantizers_leave_the_batch_open(name, how):
    x, seeds = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2)), torch.arange(3)
    check(WithSeeds(QUANTIZERS[name]().train()), (x, seeds), how)


@each_graph
@each_quantizer
def test_decoding_leaves_the_sizes_of_the_codes_open(name, how):
    module = QUANTIZERS[name]().eval()
    codes = torch.randint(4, (3, 5, module.depth), generator=torch.Generator().manual_seed(3))
    check(module, (codes,), how, method="decode", dims=2)


OF_GRIDS = {
    "MultiscaleQuantizer": (lambda: quantizers.MultiscaleQuantizer(7, 4, (1, 2, 3)), (3, 4, 3, 3)),
    "QuantizerSequence": (
        lambda: quantizers.QuantizerSequence([quantizers.VectorQuantizer(7, 4) for _ in range(2)], (2, 3)),
        (3, 5, 4),
    ),
}


@each_graph
@pytest.mark.parametrize("name", OF_GRIDS)
def test_quantizers_of_whole_grids_leave_the_batch_open(name, how):
    make, shape = OF_GRIDS[name]
    module, x = make().eval(), torch.randn(shape, generator=torch.Generator().manual_seed(4))
    check(module, (x,), how)
    check(module, (module(x).codes,), how, method="decode")
