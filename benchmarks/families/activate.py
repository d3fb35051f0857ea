"""Activations against the lines people write.

Every contender does what a training step does: the result, and the gradients of all inputs under a given upstream
gradient. A floor is the bytes of inputs and outputs, each moved once: two tensors forward and three backward, or, where
one half of the columns is the gate of the other, three halves forward and five backward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from visgen_fast import ops, reference

from ..contenders import dtype_name, ours, shape_name
from ..promises import Promise, avx512_entry, times_faster, times_memory_floor
from ..workload import Contender, Workload

_GATED = ("swiglu", "geglu")


@dataclass(frozen=True)
class Case:
    """Tokens between two matrix products."""

    shape: tuple[int, ...]
    kind: str = "gelu_tanh"
    dtype: torch.dtype = torch.float32
    bias: bool = False

    @property
    def name(self) -> str:
        parts = [self.kind, dtype_name(self.dtype), shape_name(self.shape), "with bias" if self.bias else None]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Batch:
    """What is differentiated, x and perhaps its bias, and the upstream gradient."""

    inputs: list[Tensor]
    upstream: Tensor


def cases(device: str) -> list[Case]:
    if device == "cuda":
        return [Case((128, 256, 4608), kind, dtype, bias) for dtype in (torch.float32, torch.bfloat16)
                for kind, bias in (("gelu_tanh", False), ("gelu_tanh", True), ("swiglu", False))]  # fmt: skip
    return [Case(_TOKENS), Case(_TOKENS, bias=True), Case(_TOKENS, "gelu"), Case(_TOKENS, "silu"),
            Case(_TOKENS, "swiglu"), Case(_TOKENS, "geglu", bias=True), Case(_TOKENS, dtype=torch.bfloat16),
            Case((5, 257, 148), bias=True)]  # fmt: skip


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""
    gated = case.kind in _GATED

    @torch.enable_grad()
    def with_gradients(batch: Batch, function) -> list[Tensor]:
        leaves = [value.detach().requires_grad_() for value in batch.inputs]
        result = function(*leaves)
        return [result.detach(), *torch.autograd.grad(result, leaves, batch.upstream)]

    def by(module):
        operation = module.gated_activate if gated else module.activate
        return lambda batch: with_gradients(batch, lambda x, bias=None: operation(x, case.kind, bias))

    def accuracy_of(run):
        def accuracy(batch: Batch):
            exact = Batch([value.double() for value in batch.inputs], batch.upstream.double())
            return run(batch), by(reference)(exact)

        return accuracy

    def lines(x: Tensor, bias: Tensor | None = None) -> Tensor:
        """As people write it."""
        if bias is not None:
            x = x + bias
        if gated:
            gate, value = x.chunk(2, -1)
            return (F.silu(gate) if case.kind == "swiglu" else F.gelu(gate)) * value
        return F.silu(x) if case.kind == "silu" else F.gelu(x, approximate="none" if case.kind == "gelu" else "tanh")

    compiled_lines = torch.compile(lines, dynamic=False)
    runs = {
        "eager": lambda batch: with_gradients(batch, lines),
        "torch.compile": lambda batch: with_gradients(batch, compiled_lines),
    }
    mine, sample = by(ops), _batch(case, device, 0)
    of_x, of_y = sample.inputs[0].nbytes, sample.upstream.nbytes
    return Workload(
        name=case.name,
        make_inputs=lambda index: _batch(case, device, index),
        contenders=[
            *ours(mine, accuracy_of(mine), device),
            *(Contender(name, run, is_peer=True, accuracy=accuracy_of(run)) for name, run in runs.items()),
            Contender("reference", by(reference), accuracy=accuracy_of(by(reference))),
        ],
        read_bytes=2 * of_x + of_y,
        written_bytes=of_x + of_y,
        vector_operations=math.prod(case.shape) * 80,
    )


def _batch(case: Case, device: str, index: int) -> Batch:
    generator = torch.Generator(device).manual_seed(index)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(case.dtype)

    *leading, width = case.shape
    inputs = [draw(*case.shape)] + ([draw(width)] if case.bias else [])
    return Batch(inputs, draw(*leading, width // 2 if case.kind in _GATED else width))


_TOKENS = (16, 256, 1536)
_HERE = Case(_TOKENS).name
_GPU = Case((128, 256, 4608), dtype=torch.bfloat16).name


def _faster(peer: str, at_least: float) -> Promise:
    return Promise(
        f"times faster than {peer}, AVX-512",
        lambda cases: times_faster(cases[_HERE], avx512_entry(cases[_HERE]), peer),
        at_least=at_least,
        needs=[_HERE],
    )


PROMISES = [
    _faster("eager", 2),
    _faster("torch.compile", 2.5),
    Promise(
        "of the copy's bandwidth, bfloat16 on a GPU",
        lambda cases: 1 / times_memory_floor(cases[_GPU], cases[_GPU]["entries"]["ours"]),
        at_least=0.85,
        needs=[_GPU],
    ),
]
