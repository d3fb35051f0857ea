"""A guided step of DPM-Solver++ 2M in place, against the lines people write, eager and under torch.compile.

Read are the state, two outputs of the network and the denoised image of the step before; written are the state and the
new denoised image, over the old ones. The peers allocate theirs, as the codebases do from which they are taken.

And the quantile of the denoised image's magnitudes that dynamic thresholding needs, against torch.quantile's. It reads
the state and two outputs three times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import CosineVP, plan

from ..contenders import dtype_name, ours, shape_name
from ..promises import Promise, ours_entry, seconds, times_faster, times_memory_floor
from ..workload import Contender, Workload, inputs_bytes

_SCALE = 3.0
_STEPS = plan("dpm++2m", CosineVP(), "v", steps=20)
_ROW = 8  # in the middle, of second order
_SHARE = 0.995  # the quantile of dynamic thresholding


@dataclass(frozen=True)
class Case:
    """A state of this shape, with outputs and history of the same type."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        return f"guided DPM-Solver++ 2M {dtype_name(self.dtype)} {shape_name(self.shape)}"


@dataclass(frozen=True)
class Quantile:
    """Of a state of this shape, guided by two outputs."""

    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"denoised_quantile float32 {shape_name(self.shape)}"


@dataclass(frozen=True)
class Step:
    """What a sampler's loop has at hand after the network was called."""

    x: Tensor
    conditional: Tensor
    unconditional: Tensor
    before: Tensor
    table: Tensor
    weights: Tensor

    @property
    def images(self) -> list[Tensor]:
        return [self.x, self.conditional, self.unconditional, self.before]


def cases(device: str) -> list[Case | Quantile]:
    large, latents = ((64, 3, 256, 256) if device == "cuda" else (16, 3, 256, 256)), (1, 4, 64, 64)
    steps = [Case(large), Case(large, torch.bfloat16), Case((16, 4, 64, 64)), Case(latents)]
    return [*steps, Quantile(large), Quantile((16, 3, 64, 64))]


def workload(case: Case | Quantile, device: str) -> Workload:
    return _quantile(case, device) if isinstance(case, Quantile) else _step(case, device)


def _inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str, index: int) -> Step:
    generator = torch.Generator(device).manual_seed(index)
    images = (torch.randn(shape, device=device, generator=generator).to(dtype) for _ in range(4))
    weights = torch.tensor([[[_SCALE, 1 - _SCALE]]], dtype=torch.float64, device=device)
    return Step(*images, _STEPS.table.to(device), weights)


def _quantile(case: Quantile, device: str) -> Workload:
    def compute(step: Step) -> Tensor:
        outputs = step.conditional, step.unconditional
        return ops.denoised_quantile(step.x, outputs, step.table, _ROW, _SHARE, step.weights)

    def eager(step: Step) -> Tensor:
        denoised = lines(*step.images)[1]
        return torch.quantile(denoised.abs().flatten(1), _SHARE, dim=1)

    def accuracy(step: Step):
        exact = lines(*(image.double() for image in step.images))[1]
        return [compute(step)], [torch.quantile(exact.abs().flatten(1), _SHARE, dim=1)]

    numbers = math.prod(case.shape)
    return Workload(
        name=case.name,
        make_inputs=lambda index: _inputs(case.shape, torch.float32, device, index),
        contenders=[*ours(compute, accuracy, device), Contender("torch.quantile", eager, is_peer=True)],
        read_bytes=3 * 4 * numbers,
        written_bytes=4 * case.shape[0],
        vector_operations=3 * 3 * numbers,
    )


def _step(case: Case, device: str) -> Workload:
    def compute(step: Step) -> Tensor:
        outputs, slots = (step.conditional, step.unconditional), (step.before,)
        return ops.solver_step_(step.x, outputs, step.table, _ROW, slots=slots, weights=step.weights)

    def copied(step: Step) -> Step:
        return Step(*(image.clone() for image in step.images), step.table, step.weights)

    def accuracy(step: Step):
        computed, exact = copied(step), lines(*(image.double() for image in step.images))
        return [compute(computed), computed.before], list(exact)

    def eager(step: Step) -> tuple[Tensor, Tensor]:
        return lines(*step.images)

    compiled, sample = torch.compile(eager, dynamic=False), _inputs(case.shape, case.dtype, device, 0)
    numbers = math.prod(case.shape)
    return Workload(
        name=case.name,
        make_inputs=lambda index: _inputs(case.shape, case.dtype, device, index),
        contenders=[
            *ours(compute, accuracy, device),
            Contender("eager", eager, is_peer=True),
            Contender("torch.compile", compiled, is_peer=True),
            Contender("torch.add of two images", lambda step: step.x + step.before),
        ],
        read_bytes=inputs_bytes(sample.images),
        written_bytes=2 * numbers * case.dtype.itemsize,
        vector_operations=7 * numbers,
    )


def lines(x: Tensor, conditional: Tensor, unconditional: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """The step as it is written everywhere: guidance, the denoised image, its line through the last two, the state."""
    row = _STEPS.table[_ROW].tolist()
    output = unconditional + _SCALE * (conditional - unconditional)
    denoised = row[1] * x + row[2] * output
    return row[8] * x + (row[9] * denoised + row[11] * before), denoised


_LARGE, _SMALL = Case((16, 3, 256, 256)).name, Case((1, 4, 64, 64)).name

PROMISES = [
    Promise(
        "times faster than eager, AVX-512",
        lambda cases: times_faster(cases[_LARGE], ours_entry(cases[_LARGE], "avx512"), "eager"),
        at_least=4,
        needs=[_LARGE],
    ),
    Promise(
        "times faster than torch.compile, AVX-512",
        lambda cases: times_faster(cases[_LARGE], ours_entry(cases[_LARGE], "avx512"), "torch.compile"),
        at_least=1,
        needs=[_LARGE],
    ),
    Promise(
        "times a copy of the same bytes, AVX-512",
        lambda cases: times_memory_floor(cases[_LARGE], ours_entry(cases[_LARGE], "avx512")),
        at_most=1.4,
        needs=[_LARGE],
    ),
    Promise(
        "times torch.add of the same size, the whole Python call, AVX-512",
        lambda cases: (
            seconds(ours_entry(cases[_SMALL], "avx512")) / seconds(cases[_SMALL]["entries"]["torch.add of two images"])
        ),
        at_most=8,
        needs=[_SMALL],
    ),
]
