"""Codes without a table: FSQ, LFQ and BSQ against the lines people write and against vector-quantize-pytorch.

The lines are the papers' own, at their leanest. For entropies those are a softmax over all codes of a group of bits for
every vector, as each published implementation has it. The error of FSQ is by how much more than half a level the level
chosen is away from the exact bounded value; that of the others is the entropies'.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visgen_fast import ops, reference

from ..contenders import dtype_name, ours, shape_name
from ..promises import Promise, ours_entry, times_faster
from ..workload import Contender, Workload

# Lanes of vector instructions for an element, at least. The exponential takes three to reduce its argument, six for its
# polynomial and two to scale; tanh one more polynomial of five, a division and three; then a multiply-add, rounding,
# a division and the code. A bit's entropy: an exponential, a logarithm (a division, two products and a polynomial of
# four), a division and five.
LEVEL_OPERATIONS = 11 + 5 + 1 + 3 + 5
BIT_OPERATIONS = 11 + 7 + 6

_PACKAGE = "vector-quantize-pytorch"

Run = Callable[["Vectors"], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """Vectors to quantize: to levels, or to bits whose entropies are taken by groups."""

    operation: str
    vectors: int
    levels: tuple[int, ...] = ()
    bits: int = 0
    group_size: int = 0
    dtype: torch.dtype = torch.float32
    backward: bool = False

    @property
    def columns(self) -> int:
        return len(self.levels) or self.bits

    @property
    def name(self) -> str:
        size = shape_name((self.vectors, self.columns))
        kind = f"levels {','.join(map(str, self.levels))}" if self.levels else f"groups of {self.group_size}"
        return " ".join([self.operation, dtype_name(self.dtype), size, kind] + ["backward"] * self.backward)


@dataclass(frozen=True)
class Vectors:
    """What there is to quantize, and the gradient that the quantized vectors get."""

    x: Tensor
    incoming: Tensor


FINITE = Case("finite_scalar_quantize", 65536, (8, 5, 5, 5))
LOOKUP_FREE = Case("lookup_free_quantize", 65536, bits=18, group_size=9)
WHOLE = Case("lookup_free_quantize", 16384, bits=10, group_size=10)


def cases(device: str) -> list[Case]:
    forward = [
        FINITE,
        replace(FINITE, levels=(8, 8, 8, 6, 5)),
        replace(FINITE, dtype=torch.bfloat16),
        LOOKUP_FREE,
        WHOLE,
        Case("binary_spherical_quantize", 16384, bits=36, group_size=9),
    ]
    backward = [replace(case, backward=True) for case in (FINITE, LOOKUP_FREE, WHOLE)]
    if device == "cuda":
        return [replace(case, vectors=case.vectors * (16 if case.levels else 4)) for case in forward + backward]
    return forward + backward


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""

    def compute(inputs: Vectors, module=ops) -> tuple[Tensor, ...]:
        if case.levels:
            return module.finite_scalar_quantize(inputs.x, case.levels)
        return getattr(module, case.operation)(inputs.x, inverse_temperature=1.0, group_size=case.group_size)

    def define(inputs: Vectors) -> tuple[Tensor, ...]:
        return compute(inputs, reference)

    def run_of(run: Run) -> Run:
        return _with_gradients(run) if case.backward else run

    def accuracy_of(run: Run):
        return None if case.backward else lambda inputs: _errors(case, inputs, run(inputs))

    peers = [Contender(name, run_of(run), True, accuracy_of(run)) for name, run in _peers(case, device)]
    package = _package(case, device)
    if package is not None:  # it averages the entropies of samples, so that they cannot be compared
        peers.append(Contender(_PACKAGE, run_of(package), True, accuracy_of(package) if case.levels else None))

    columns, itemsize = case.vectors * case.columns, case.dtype.itemsize
    groups = 0 if case.levels else math.ceil(case.bits / case.group_size)
    operations = columns * (LEVEL_OPERATIONS if case.levels else BIT_OPERATIONS)
    operations += case.vectors * groups * 2**case.group_size * (3 if case.backward else 1)
    return Workload(
        name=case.name,
        make_inputs=lambda index: _inputs(case, device, index),
        contenders=[
            *ours(run_of(compute), accuracy_of(compute), device),
            *peers,
            Contender("reference", run_of(define), accuracy=accuracy_of(define)),
        ],
        read_bytes=columns * itemsize * (2 if case.backward else 1),
        written_bytes=columns * itemsize * (2 if case.backward else 1)
        + 8 * case.vectors
        + 4 * case.vectors * bool(groups),
        vector_operations=operations,
    )


def _inputs(case: Case, device: str, index: int) -> Vectors:
    generator = torch.Generator(device).manual_seed(index)
    x, incoming = torch.randn(2, case.vectors, case.columns, device=device, generator=generator).to(case.dtype)
    return Vectors(x, incoming)


def _with_gradients(run: Run) -> Run:
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
    if not case.levels:
        exact = getattr(reference, case.operation)(
            inputs.x.double(), inverse_temperature=1.0, group_size=case.group_size
        )
        return list(results[2:]), list(exact[2:])
    levels = torch.tensor(case.levels, dtype=torch.float64, device=inputs.x.device)
    half, offset = (levels - 1) * 1.001 / 2, (levels % 2 == 0) / 2
    bounded = torch.tanh(inputs.x.double() + torch.atanh(offset / half)) * half - offset
    level = (results[0].double() * (levels // 2)).round()
    away = (level - bounded).abs().clamp_min(0.5)
    return [away], [torch.full_like(away, 0.5)]


def _peers(case: Case, device: str) -> list[tuple[str, Run]]:
    lines = _finite_scalar_lines(case, device) if case.levels else _entropy_lines(case, device)
    return [("eager", lines), ("torch.compile", torch.compile(lines, dynamic=False))]


def _package(case: Case, device: str) -> Run | None:
    """vector-quantize-pytorch, where it is installed and has the operation: it normalises each group by itself."""
    if case.operation == "binary_spherical_quantize":
        return None
    try:
        import vector_quantize_pytorch
    except ImportError as reason:
        print(f"{_PACKAGE} is not measured: {reason}", file=sys.stderr)
        return None
    if case.levels:
        module = vector_quantize_pytorch.FSQ(list(case.levels)).to(device)
        return lambda inputs: tuple(part[0] for part in module(inputs.x[None]))
    groups = case.bits // case.group_size
    module = vector_quantize_pytorch.LFQ(dim=case.bits, codebook_size=2**case.group_size, num_codebooks=groups)
    module.to(device).train()

    def run(inputs: Vectors) -> tuple[Tensor, ...]:
        result, losses = module(inputs.x[None], inv_temperature=1.0, return_loss_breakdown=True)
        return result.quantized[0], result.indices[0], losses.per_sample_entropy, losses.batch_entropy

    return run


def _finite_scalar_lines(case: Case, device: str) -> Run:
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


def _entropy_lines(case: Case, device: str) -> Run:
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


def _faster(case: Case, *rivals: str) -> Callable[..., float]:
    return lambda cases: times_faster(cases[case.name], ours_entry(cases[case.name], "avx512"), *rivals)


def _promise(case: Case, rival: str, at_least: float) -> Promise:
    return Promise(f"times faster than {rival}, AVX-512", _faster(case, rival), at_least=at_least, needs=[case.name])


PROMISES = [
    _promise(FINITE, "eager", 3),
    _promise(FINITE, "torch.compile", 2),
    _promise(LOOKUP_FREE, "eager", 20),
    _promise(LOOKUP_FREE, "torch.compile", 20),
]
