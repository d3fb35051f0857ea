"""FSQ against the lines people write and against vector-quantize-pytorch.

The lines are the paper's own, at their leanest. The error is by how much more than half a level the level chosen is
away from the exact bounded value.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from visgen_fast import ops, reference

from ..contenders import dtype_name, ours, shape_name
from ..promises import Promise, ours_entry, times_faster
from ..workload import Contender, Workload

# Lanes of vector instructions for an element, at least. The exponential takes three to reduce its argument, six for its
# polynomial and two to scale; tanh one more polynomial of five, a division and three; then a multiply-add, rounding,
# a division and the code.
LEVEL_OPERATIONS = 11 + 5 + 1 + 3 + 5

PACKAGE = "vector-quantize-pytorch"

Run = Callable[["Vectors"], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """Vectors whose columns are quantized to levels."""

    vectors: int = 65536
    levels: tuple[int, ...] = (8, 5, 5, 5)
    dtype: torch.dtype = torch.float32
    backward: bool = False

    @property
    def name(self) -> str:
        parts = ["finite_scalar_quantize", dtype_name(self.dtype), shape_name((self.vectors, len(self.levels)))]
        return " ".join([*parts, f"levels {','.join(map(str, self.levels))}"] + ["backward"] * self.backward)


@dataclass(frozen=True)
class Vectors:
    """What there is to quantize, and the gradient that the quantized vectors get."""

    x: Tensor
    incoming: Tensor


FINITE = Case()


def cases(device: str) -> list[Case]:
    found = [FINITE, replace(FINITE, levels=(8, 8, 8, 6, 5)), replace(FINITE, dtype=torch.bfloat16),
             replace(FINITE, backward=True)]  # fmt: skip
    return [replace(case, vectors=16 * case.vectors) for case in found] if device == "cuda" else found


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""

    def compute(inputs: Vectors) -> tuple[Tensor, ...]:
        return ops.finite_scalar_quantize(inputs.x, case.levels)

    def define(inputs: Vectors) -> tuple[Tensor, ...]:
        return reference.finite_scalar_quantize(inputs.x, case.levels)

    def run_of(run: Run) -> Run:
        return with_gradients(run) if case.backward else run

    def accuracy_of(run: Run):
        return None if case.backward else lambda inputs: _errors(case, inputs, run(inputs))

    lines = _lines(case, device)
    peers = [("eager", lines), ("torch.compile", torch.compile(lines, dynamic=False))] + _package(case, device)
    moved = case.vectors * len(case.levels) * case.dtype.itemsize * (2 if case.backward else 1)
    return Workload(
        name=case.name,
        make_inputs=lambda index: random_vectors((case.vectors, len(case.levels)), case.dtype, device, index),
        contenders=[
            *ours(run_of(compute), accuracy_of(compute), device),
            *(Contender(name, run_of(run), True, accuracy_of(run)) for name, run in peers),
            Contender("reference", run_of(define), accuracy=accuracy_of(define)),
        ],
        read_bytes=moved,
        written_bytes=moved + 8 * case.vectors,
        vector_operations=case.vectors * len(case.levels) * LEVEL_OPERATIONS,
    )


def random_vectors(shape: tuple[int, int], dtype: torch.dtype, device: str, index: int) -> Vectors:
    generator = torch.Generator(device).manual_seed(index)
    x, incoming = torch.randn(2, *shape, device=device, generator=generator).to(dtype)
    return Vectors(x, incoming)


def with_gradients(run: Run) -> Run:
    """Forward, then the gradients that a decoder and an entropy loss send back."""

    @torch.enable_grad()
    def train(inputs: Vectors) -> tuple[Tensor, ...]:
        x = inputs.x.requires_grad_()
        quantized, _, *entropies = run(Vectors(x, inputs.incoming))
        if not entropies:
            return torch.autograd.grad(quantized, x, inputs.incoming)
        per_sample, batch = entropies
        loss = 0.1 * (per_sample.mean() - batch)
        return torch.autograd.grad((quantized, loss), x, (inputs.incoming, torch.ones_like(loss)))

    return train


def _errors(case: Case, inputs: Vectors, results: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    levels = torch.tensor(case.levels, dtype=torch.float64, device=inputs.x.device)
    half, offset = (levels - 1) * 1.001 / 2, (levels % 2 == 0) / 2
    bounded = torch.tanh(inputs.x.double() + torch.atanh(offset / half)) * half - offset
    level = (results[0].double() * (levels // 2)).round()
    away = (level - bounded).abs().clamp_min(0.5)
    return [away], [torch.full_like(away, 0.5)]


def package() -> ModuleType | None:
    """vector-quantize-pytorch, where it is installed."""
    try:
        import vector_quantize_pytorch
    except ImportError as reason:
        print(f"{PACKAGE} is not measured: {reason}", file=sys.stderr)
        return None
    return vector_quantize_pytorch


def _package(case: Case, device: str) -> list[tuple[str, Run]]:
    found = package()
    if found is None:
        return []
    module = found.FSQ(list(case.levels)).to(device)
    return [(PACKAGE, lambda inputs: tuple(part[0] for part in module(inputs.x[None])))]


def _lines(case: Case, device: str) -> Run:
    """Appendix A.1 of the paper, with the bound that ours has by default."""
    levels = torch.tensor(case.levels, device=device)
    basis = torch.tensor([math.prod(case.levels[:d]) for d in range(len(case.levels))], device=device)
    half, offset = (levels - 1) * 1.001 / 2, (levels % 2 == 0) / 2
    shift, width = torch.atanh(offset / half), levels // 2

    def lines(inputs: Vectors) -> tuple[Tensor, ...]:
        bounded = torch.tanh(inputs.x.float() + shift) * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        codes = ((rounded + width) * basis).sum(-1).round().long()
        return (rounded / width).to(inputs.x.dtype), codes

    return lines


def promise(case_name: str, rival: str, at_least: float) -> Promise:
    return Promise(
        f"times faster than {rival}, AVX-512",
        lambda cases: times_faster(cases[case_name], ours_entry(cases[case_name], "avx512"), rival),
        at_least=at_least,
        needs=[case_name],
    )


PROMISES = [promise(FINITE.name, "eager", 3), promise(FINITE.name, "torch.compile", 2)]
