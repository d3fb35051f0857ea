"""A guided loop of DPM-Solver++ 2M around a network that costs nothing, against diffusers' own.

The network's two outputs lie ready, so what is left is what a sampler costs: here `diffusion.sample`, there the lines
of diffusers' pipelines around its scheduler. Counted are the images that the steps must read and write; the initial
noise is drawn besides, by both.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visgen_fast.diffusion import ClassifierFree, CosineVP, Plan, plan, sample

from ..contenders import ours, shape_name
from ..promises import Promise, ours_entry, times_faster, times_memory_floor
from ..workload import Contender, Workload

_SCALE, _STEPS = 3.0, 20


@dataclass(frozen=True)
class Case:
    """A batch of images."""

    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{_STEPS} guided steps of DPM-Solver++ 2M float32 {shape_name(self.shape)}"


@dataclass(frozen=True)
class Loop:
    """What the network says, whatever it is asked, with and without the condition."""

    outputs: tuple[Tensor, Tensor]
    labels: Tensor
    seeds: Tensor


def cases(device: str) -> list[Case]:
    return [Case((64, 3, 256, 256))] if device == "cuda" else [Case((16, 3, 256, 256)), Case((1, 4, 64, 64))]


def workload(case: Case, device: str) -> Workload:
    steps, batch = plan("dpm++2m", CosineVP(), "v", steps=_STEPS), case.shape[0]
    guidance, shape = ClassifierFree(_SCALE, null_label=0, batched=False), case.shape[1:]

    def make_inputs(index: int) -> Loop:
        generator = torch.Generator(device).manual_seed(index)
        outputs = (torch.randn(case.shape, device=device, generator=generator) for _ in range(2))
        numbers = torch.arange(batch, device=device)
        return Loop((next(outputs), next(outputs)), numbers + 1, numbers)

    def compute(loop: Loop) -> Tensor:
        says = itertools.cycle(loop.outputs)
        return sample(lambda x, t, labels: next(says), steps, shape, loop.labels, loop.seeds, guidance=guidance)

    contenders = ours(compute, None, device)
    if importlib.util.find_spec("diffusers"):
        contenders.append(Contender("diffusers", _diffusers_loop(case), is_peer=True))
    reads, writes = _images_moved(steps)
    numbers = math.prod(case.shape)
    return Workload(
        name=case.name,
        make_inputs=make_inputs,
        contenders=contenders,
        read_bytes=4 * numbers * reads,
        written_bytes=4 * numbers * writes,
        vector_operations=7 * numbers * _STEPS,
    )


def _images_moved(steps: Plan) -> tuple[int, int]:
    """How many images the steps read and write: the state, two outputs and the history; the state and the history."""
    table = steps.table
    reads = writes = 0
    for row in table:
        written = [row[8:16]] + [row[first : first + 8] for first, slot in ((16, row[6]), (24, row[7])) if slot >= 0]
        used = torch.stack(written).ne(0).any(0)
        state = bool(used[0] or (used[1] and row[1] != 0))
        reads += state + 2 + int(used[3:7].sum())
        writes += len(written)
    return reads, writes


def _diffusers_loop(case: Case) -> Callable[[Loop], Tensor]:
    from diffusers import DPMSolverMultistepScheduler

    scheduler: Any = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", algorithm_type="dpmsolver++", solver_order=2
    )

    @torch.no_grad()
    def loop(inputs: Loop) -> Tensor:
        conditional, unconditional = inputs.outputs
        generator = torch.Generator(conditional.device).manual_seed(0)
        x = torch.randn(case.shape, generator=generator, device=conditional.device)
        scheduler.set_timesteps(_STEPS)
        for t in scheduler.timesteps:
            output = unconditional + _SCALE * (conditional - unconditional)
            x = scheduler.step(output, t, x).prev_sample
        return x

    return loop


_LARGE, _SMALL = (Case(shape).name for shape in ((16, 3, 256, 256), (1, 4, 64, 64)))

PROMISES = [
    Promise(
        "times a copy of the bytes that the steps must move, AVX-512",
        lambda cases: times_memory_floor(cases[_LARGE], ours_entry(cases[_LARGE], "avx512")),
        at_most=1.6,
        needs=[_LARGE],
        beside=lambda cases: (
            f"{times_faster(cases[_LARGE], ours_entry(cases[_LARGE], 'avx512'), 'diffusers'):.1f} times faster than "
            "diffusers there"
        ),
    ),
    Promise(
        "times faster than diffusers, AVX-512",
        lambda cases: times_faster(cases[_SMALL], ours_entry(cases[_SMALL], "avx512"), "diffusers"),
        at_least=8,
        needs=[_SMALL],
    ),
]
