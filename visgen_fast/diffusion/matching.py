"""Distillation by distributions: what a few-step model draws should be distributed as what its teacher draws.

The student draws x̃, which is noised again; a frozen and a learning network, the teacher and the critic, say what image
they see in it. Where the critic knows the student's own distribution, the difference of the two is the direction in
which the student leaves its teacher, and it goes back.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from visgen_fast import ops

from .. import _check as check
from ..nn.conditions import AnyCondition
from .flow_map import FlowMap, combined, without_gradient

Matching = Literal["dmd2", "moment_matching"]


@torch.no_grad()
def matching_direction(kind: Matching, x: Tensor, teacher_x: Tensor, critic_x: Tensor) -> Tensor:
    """The gradient [B, ...] of the student's loss in its samples x [B, ...].

    teacher_x, critic_x: the image that teacher and critic see in the sample noised again.

    dmd2: (critic_x − teacher_x)/mean|x − teacher_x|, the mean over a sample (Yin et al., "Improved distribution
    matching distillation", 2024). moment_matching: critic_x − teacher_x (Salimans et al., "Multistep distillation of
    diffusion models via moment matching", 2024). ValueError for another kind.
    """
    check.one_of(kind, "kind", get_args(Matching))
    direction = critic_x - teacher_x
    if kind == "moment_matching":
        return direction
    apart = (x - teacher_x).abs().flatten(1).mean(1).clamp_min(1e-6)
    return direction / apart.view(-1, *[1] * (x.dim() - 1))


def matching_loss(x: Tensor, direction: Tensor) -> Tensor:
    """A loss [B] of which the gradient in x is `direction` over the size of a sample: ½·mean square of x − (x − g)."""
    return 0.5 * (x - (x - direction).detach()).square().flatten(1).mean(1)


def critic_loss(kind: Matching, x: Tensor, teacher_x: Tensor | None, critic_x: Tensor, weight: Tensor) -> Tensor:
    """The critic's loss [B]: the student's sample, seen in its noised version; moment matching adds the teacher's view.

    x, teacher_x: without their graph; teacher_x is read for moment_matching alone. weight: [B], of the sample's error.
    """
    error = (critic_x - x).square()
    if kind == "moment_matching":
        assert teacher_x is not None
        error = error + (critic_x - teacher_x).square()
    return weight * error.flatten(1).mean(1)


def distillation_loss(x: Tensor, teacher_x: Tensor, weight: Tensor) -> Tensor:
    """ADD's second term, [B]: weight·mean square of x − teacher_x, the image that the teacher sees in x noised again.

    weight: [B], α of the teacher's time. Sauer et al., "Adversarial diffusion distillation", 2023, equation 4.
    """
    return weight * (x - teacher_x.detach()).square().flatten(1).mean(1)


def own_states(
    student: FlowMap, seeds: Tensor, shape: tuple[int, ...], labels: AnyCondition, times: Tensor, place: Tensor
) -> Tensor:
    """The states [B, *shape] that a student of several steps comes to by its own earlier steps, before step `place`.

    Trained on images noised instead, it would meet states in sampling that it never saw. Steps are those of the
    sampler "consistency": to the image, and to the next time by fresh noise. The noise is that of `sample` for the same
    seeds, so these are the states of that.

    times: falling from 1, [steps], where the steps begin; place: int64 [B], in [0, steps). Without gradient.
    """
    schedule, dtype = student.schedule, torch.promote_types(times.dtype, torch.float32)
    first = times[:1].double()
    state = ops.gaussian(seeds, shape, stream=ops.Purpose.INITIAL_STATE.stream(), dtype=dtype)
    state = state * schedule.sigma(first).to(dtype)
    found = state
    zero = torch.zeros_like(seeds, dtype=dtype)
    with without_gradient():
        for step, (start, end) in enumerate(zip(times, times[1:], strict=False)):
            image = student(state, zero + start, zero, labels)
            noise = ops.gaussian(seeds, shape, stream=ops.Purpose.SAMPLER.stream(step), dtype=dtype)
            level = schedule.alpha(end.double()), schedule.sigma(end.double())
            state = combined(*((zero.double() + part, of) for part, of in zip(level, (image, noise), strict=True)))
            found = torch.where((place > step).view(-1, *[1] * len(shape)), state, found)
    return found
