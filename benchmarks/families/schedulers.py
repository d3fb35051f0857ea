"""A step of diffusers' schedulers, with our step in them and by themselves, in the middle of a run.

Read are the state, the network's output and what the scheduler remembers; written are the next state and what it will
remember, or the denoised image. All is allocated anew in each step, as diffusers does.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contenders import ours, shape_name
from ..promises import Promise, ours_entry, times_faster, times_memory_floor
from ..workload import Contender, Workload

_STEPS, _STEP = 20, 8  # in the middle, at full order
# Each scheduler's pictures read and written, and vector operations a number.
_SCHEDULERS = {
    "DPMSolverMultistepScheduler": (3, 2, 5),
    "UniPCMultistepScheduler": (5, 3, 10),
    "EulerDiscreteScheduler": (2, 2, 4),
    "DDIMScheduler": (2, 2, 4),
}
_REMEMBERED = ("_step_index", "model_outputs", "lower_order_nums", "last_sample", "this_order")


@dataclass(frozen=True)
class Case:
    """A scheduler with its default settings, and the shape of its float32 state."""

    scheduler: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.scheduler}.step float32 {shape_name(self.shape)}"


@dataclass(frozen=True)
class Step:
    """What a step reads: the state, the network's output, and what earlier steps left in the scheduler."""

    x: Tensor
    output: Tensor
    state: dict[str, Any]


def cases(device: str) -> list[Case]:
    if importlib.util.find_spec("diffusers") is None:
        return []
    shapes = [(64, 3, 256, 256)] if device == "cuda" else [(16, 3, 256, 256), (1, 4, 64, 64)]
    return [Case(name, shape) for name in _SCHEDULERS for shape in shapes]


def workload(case: Case, device: str) -> Workload:
    import diffusers

    from visgen_fast.interop import diffusers as with_ours

    both = [getattr(package, case.scheduler)() for package in (with_ours, diffusers)]
    for scheduler in both:
        scheduler.set_timesteps(_STEPS, device=device)
        scheduler.is_scale_input_called = True

    def make_inputs(index: int) -> Step:
        generator = torch.Generator(device).manual_seed(index)
        x, *outputs = (torch.randn(case.shape, device=device, generator=generator) for _ in range(5))
        scheduler = copy.deepcopy(both[1])
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(_STEP - 3)
        for k, output in enumerate(outputs[:3]):
            scheduler.step(output, scheduler.timesteps[_STEP - 3 + k], x)
        return Step(x, outputs[3], {name: vars(scheduler)[name] for name in _REMEMBERED if name in vars(scheduler)})

    def stepped(scheduler: Any, step: Step) -> Tensor:
        scheduler.__dict__.update(step.state)
        if "model_outputs" in step.state:
            scheduler.model_outputs = list(step.state["model_outputs"])
        return scheduler.step(step.output, scheduler.timesteps[_STEP], step.x, return_dict=False)[0]

    def compute(step: Step) -> Tensor:
        return stepped(both[0], step)

    def accuracy(step: Step):
        return [compute(step)], [compute(_in_double(step))]

    numbers = math.prod(case.shape)
    read, written, operations = _SCHEDULERS[case.scheduler]
    return Workload(
        name=case.name,
        make_inputs=make_inputs,
        contenders=[
            *ours(compute, accuracy, device),
            Contender("diffusers", lambda step: stepped(both[1], step), is_peer=True),
        ],
        read_bytes=4 * read * numbers,
        written_bytes=4 * written * numbers,
        vector_operations=operations * numbers,
    )


def _in_double(step: Step) -> Step:
    def double(value: Any) -> Any:
        if isinstance(value, list):
            return [double(one) for one in value]
        return value.double() if isinstance(value, Tensor) else value

    state = {name: double(value) for name, value in step.state.items()}
    return Step(double(step.x), double(step.output), state)


def _promises(scheduler: str, small: float, large: float) -> list[Promise]:
    big, latents = Case(scheduler, (16, 3, 256, 256)).name, Case(scheduler, (1, 4, 64, 64)).name
    return [
        Promise(
            f"times faster than diffusers' {scheduler}.step, AVX-512",
            lambda cases, name=name: times_faster(cases[name], ours_entry(cases[name], "avx512"), "diffusers"),
            at_least=bound,
            needs=[name],
        )
        for name, bound in ((latents, small), (big, large))
    ] + [
        Promise(
            "times a copy of the same bytes, AVX-512",
            lambda cases: times_memory_floor(cases[big], ours_entry(cases[big], "avx512")),
            at_most=1.8,
            needs=[big],
        )
    ]


# Where memory is fast, the large steps are 10 times faster rather than 4.
PROMISES = [*_promises("DPMSolverMultistepScheduler", 4, 4), *_promises("UniPCMultistepScheduler", 8, 4)]
