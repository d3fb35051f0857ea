"""LFQ and BSQ against the lines people write and against vector-quantize-pytorch.

The lines are the papers' own, at their leanest: a softmax over all codes of a group of bits for every vector, as each
published implementation has it. The error is that of the entropies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visgen_fast import ops, reference

from ..contenders import dtype_name, ours, shape_name
from ..workload import Contender, Workload
from .finite_scalar import PACKAGE, Run, Vectors, package, promise, random_vectors, with_gradients

# Lanes of vector instructions for an element, at least. A bit's entropy: an exponential of eleven, a logarithm (a
# division, two products and a polynomial of four), a division and five.
BIT_OPERATIONS = 11 + 7 + 6


@dataclass(frozen=True)
class Case:
    """Vectors whose bits' entropies are taken by groups."""

    operation: str
    vectors: int
    bits: int
    group_size: int
    backward: bool = False

    @property
    def name(self) -> str:
        parts = [self.operation, dtype_name(torch.float32), shape_name((self.vectors, self.bits))]
        return " ".join([*parts, f"groups of {self.group_size}"] + ["backward"] * self.backward)


LOOKUP_FREE = Case("lookup_free_quantize", 65536, bits=18, group_size=9)
WHOLE = Case("lookup_free_quantize", 16384, bits=10, group_size=10)
SPHERICAL = Case("binary_spherical_quantize", 16384, bits=36, group_size=9)


def cases(device: str) -> list[Case]:
    found = [LOOKUP_FREE, WHOLE, SPHERICAL, replace(LOOKUP_FREE, backward=True), replace(WHOLE, backward=True)]
    return [replace(case, vectors=4 * case.vectors) for case in found] if device == "cuda" else found


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""

    def compute(inputs: Vectors, module=ops) -> tuple[Tensor, ...]:
        return getattr(module, case.operation)(inputs.x, inverse_temperature=1.0, group_size=case.group_size)

    def define(inputs: Vectors) -> tuple[Tensor, ...]:
        return compute(inputs, reference)

    def run_of(run: Run) -> Run:
        return with_gradients(run) if case.backward else run

    def accuracy_of(run: Run):
        return None if case.backward else lambda inputs: _errors(case, inputs, run(inputs))

    lines, packaged = _lines(case, device), _package(case, device)
    peers = [("eager", lines), ("torch.compile", torch.compile(lines, dynamic=False))]
    moved = case.vectors * case.bits * torch.float32.itemsize * (2 if case.backward else 1)
    of_codes = case.vectors * math.ceil(case.bits / case.group_size) * 2**case.group_size
    return Workload(
        name=case.name,
        make_inputs=lambda index: random_vectors((case.vectors, case.bits), torch.float32, device, index),
        contenders=[
            *ours(run_of(compute), accuracy_of(compute), device),
            *(Contender(name, run_of(run), True, accuracy_of(run)) for name, run in peers),
            # The package averages the entropies of samples, so that they cannot be compared.
            *([Contender(PACKAGE, run_of(packaged), True)] if packaged else []),
            Contender("reference", run_of(define), accuracy=accuracy_of(define)),
        ],
        read_bytes=moved,
        written_bytes=moved + (8 + 4) * case.vectors,
        vector_operations=case.vectors * case.bits * BIT_OPERATIONS + of_codes * (3 if case.backward else 1),
    )


def _errors(case: Case, inputs: Vectors, results: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    exact = getattr(reference, case.operation)(inputs.x.double(), inverse_temperature=1.0, group_size=case.group_size)
    return list(results[2:]), list(exact[2:])


def _package(case: Case, device: str) -> Run | None:
    """The package normalises each group of BSQ by itself, which is another operation."""
    found = package() if case.operation == "lookup_free_quantize" else None
    if found is None:
        return None
    groups = case.bits // case.group_size
    module = found.LFQ(dim=case.bits, codebook_size=2**case.group_size, num_codebooks=groups).to(device).train()

    def run(inputs: Vectors) -> tuple[Tensor, ...]:
        result, losses = module(inputs.x[None], inv_temperature=1.0, return_loss_breakdown=True)
        return result.quantized[0], result.indices[0], losses.per_sample_entropy, losses.batch_entropy

    return run


def _lines(case: Case, device: str) -> Run:
    """A softmax over the codes of each group."""
    bits, size = case.bits, case.group_size
    spherical = case.operation == "binary_spherical_quantize"
    corner = 1 / math.sqrt(bits) if spherical else 1.0
    basis = 2 ** torch.arange(bits - 1, -1, -1, device=device)
    of_group = torch.arange(2**size, device=device)[:, None] >> torch.arange(size - 1, -1, -1, device=device)
    codebook = ((of_group & 1) * 2 - 1) * corner

    def lines(inputs: Vectors) -> tuple[Tensor, ...]:
        x = torch.nn.functional.normalize(inputs.x, dim=-1) if spherical else inputs.x
        signs = torch.where(x > 0, corner, -corner)
        codes = ((x > 0) * basis).sum(-1)
        logits = 2 * x.unflatten(-1, (-1, size)) @ codebook.T
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        mean = p.mean(0)
        per_sample = -(p * log_p).sum((-1, -2))
        return x + (signs - x).detach(), codes, per_sample, -(mean * (mean + 1e-9).log()).sum()

    return lines


PROMISES = [promise(LOOKUP_FREE.name, rival, 20) for rival in ("eager", "torch.compile")]
