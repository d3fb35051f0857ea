"""Sampling: one loop executes any plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from visgen_fast import ops

from .. import _check as check
from ..nn.conditions import AnyCondition, apply_to_parts
from ..reference.solve import NEXT, SLOT_A, SLOT_B
from . import graphs
from .guiding import Guidance, Guided, Run, Unguided, check_guidance
from .networks import check_asked, check_callable
from .plan import Plan, check_plan
from .steps import Steps

Callback = Callable[[int, float, Tensor, Tensor], None]


@torch.no_grad()
def sample(
    model: Callable[..., Tensor],
    plan: Plan,
    shape: Sequence[int],
    labels: AnyCondition,
    seeds: Tensor,
    *,
    guidance: Guidance | None = None,
    initial: tuple[Tensor, float] | None = None,
    known: tuple[Tensor, Tensor] | None = None,
    noise: Tensor | None = None,
    callback: Callback | None = None,
    graph: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw images by a plan, from noise to data; or take images along it where its times rise.

    An image depends on its seed and its condition alone, never on the batch it is drawn in. The state is stepped in
    place: a model that keeps the x it was given must copy it.

    Args:
        model: model(x, t [B], labels) → [B, *shape], predicting what the plan is for (put it into eval mode first). Of
            an output with twice the channels, the second half is a learned variance: read where the plan's noise
            depends on it, else left out.
        plan: see `plan`.
        shape: of one image.
        labels: int64 [B], or any condition (`nn.conditions`).
        seeds: int64 [B]. They and the condition are moved to `device` (default: where the seeds are).
        guidance: how several network outputs become one; none by default.
        initial: (images [B, *shape], strength): begins with these images, noised, at the first step whose time is at
            most `strength`, in [0, 1]; 1 is the plan's beginning. With a plan whose times rise, the images themselves
            begin it.
        known: (images, mask), both broadcastable to [B, *shape]: where the mask is 1 the result is the images'. Where
            it is 0, the images may be anything.
        noise: [B, *shape], what the first state is made of in the place of the seeds' normal numbers, as of `invert`.
        callback: called with (step, t, x, denoised) at the first network call of each step that is taken, from 0 on.
        graph: on CUDA, captures each kind of step, network included, and replays it, which spares a small model most of
            its time. What cannot be captured runs eagerly, with a warning that names why. `release_graphs` lets go of
            the graphs.
        dtype: of what the network is given; the state itself is float32, and float64 for a float64 dtype.

    Returns:
        [B, *shape] in the state's dtype.

    Raises:
        TypeError, ValueError: an argument of another kind; labels and seeds of different lengths, images, mask or noise
            of another shape, a strength outside [0, 1], a model that returns anything but its prediction, a plan whose
            noise has a learned variance with a model that gives none.
    """
    check_asked(model, labels, seeds)
    check_plan(plan)
    check.float_type(dtype, "dtype")
    guiding = Unguided() if guidance is None else guidance
    check_guidance(guiding)
    if callback is not None:
        check_callable(callback, "callback", "(step, t, x, denoised)")
    device = torch.device(seeds.device if device is None else device)
    labels, seeds = apply_to_parts(labels, lambda part: part.to(device)), seeds.to(device)
    shape = (len(seeds), *check.integers(shape, "shape", 0))
    if known is not None:
        known = _expanded(known, shape, device, _state_dtype(dtype))
    if initial is not None:
        first = _first_step(plan, shape, *_pair(initial, "initial", "(images, strength)"))
        if first == plan.steps:
            images = initial[0].to(device, _state_dtype(dtype), copy=True)
            return images if known is None else _merged(images, *known)
        plan = plan.after(first)
    told = Run(model, plan, labels, len(seeds), dtype, device)
    steps = graphs.steps(told, guiding, shape, _state_dtype(dtype)) if graph else Steps(told, guiding)
    run = _Images(plan, steps.table, seeds, shape, _state_dtype(dtype), noise, keeps_noise=known is not None)
    first_state = run.begin(None if initial is None else initial[0])
    if known is not None:
        first_state = run.with_known(first_state, known, 0)
    with steps.on(first_state, seeds, labels):
        for row in range(plan.calls):
            watch = None
            if callback is not None and run.begins_step(row):
                watch = partial(run.show, callback, row)
            steps.take(row, watch)
            if known is not None and run.ends_step(row):
                steps.x.copy_(run.with_known(steps.x, known, row + 1))
        return steps.end()


def _first_step(plan: Plan, shape: tuple[int, ...], images: Tensor, strength: float) -> int:
    """The step that begins with the initial images, or the number of steps where none of them does."""
    _check_images(images, "the initial images", shape)
    check.real(strength, "the strength of the initial images", 0, 1)
    if _rises(plan):
        return 0
    return next((i for i, level in enumerate(plan.ends[:-1]) if level.time <= strength), plan.steps)


def _expanded(
    known: tuple[Tensor, Tensor], shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The known images and their mask as states are."""
    images, mask = _pair(known, "known", "(images, mask)")
    check.floats(images, "the known images")
    check.tensor(mask, "the mask of the known images")
    images, mask = images.to(device, dtype), mask.to(device, dtype)
    try:
        return images.expand(shape), mask.expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"known images and mask must be broadcastable to {list(shape)}, got {list(images.shape)} and "
            f"{list(mask.shape)}"
        ) from error


def _pair(value: Any, name: str, parts: str) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        found = f"{len(value)} of them" if isinstance(value, tuple | list) else type(value).__name__
        raise TypeError(f"{name} must be {parts}, got {found}")
    return value[0], value[1]


def _check_images(images: Any, name: str, shape: tuple[int, ...]) -> None:
    check.floats(images, name)
    if tuple(images.shape) != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(images.shape)}")


def _merged(x: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """The images where the mask is 1, and x where it is 0: what they hold there may be anything."""
    return torch.where(mask == 0, x, mask * images + (1 - mask) * x)


def _rises(plan: Plan) -> bool:
    return plan.ends[0].time < plan.ends[-1].time


def _state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class _Images:
    """The states of one call of `sample`: the first, those where a part is known, and the denoised images."""

    def __init__(
        self,
        plan: Plan,
        table: Tensor,
        seeds: Tensor,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        noise: Tensor | None,
        keeps_noise: bool,
    ) -> None:
        self.plan, self.table = plan, table
        self.keeps_noise = keeps_noise or noise is not None  # else the state may take its place
        if noise is None:
            noise = ops.gaussian(seeds, shape[1:], stream=ops.Purpose.INITIAL_STATE.stream(), dtype=dtype)
        else:
            _check_images(noise, "noise", shape)
        self.noise = noise.to(seeds.device, dtype)

    def begin(self, images: Tensor | None) -> Tensor:
        """The first state: noise, or the initial images with it, or these alone where the plan leads to noise."""
        signal, noise = self.plan.initial
        if images is None:
            return self.noise * noise if self.keeps_noise else self.noise.mul_(noise)
        images = images.to(self.noise)
        return images * (signal / self.plan.ends[0].alpha) if _rises(self.plan) else self._at(images, 0)

    def begins_step(self, row: int) -> bool:
        return row == 0 or self.plan.step_of_row[row - 1] != self.plan.step_of_row[row]

    def ends_step(self, row: int) -> bool:
        return row + 1 == self.plan.calls or self.plan.step_of_row[row + 1] != self.plan.step_of_row[row]

    def show(self, callback: Callback, row: int, x: Tensor, guided: Guided) -> None:
        """Calls `callback` with the state x before this row, and x̂."""
        step = self.plan.step_of_row[row]
        callback(step, self.plan.ends[step].time, x, self.denoised(x, guided, row))

    def denoised(self, x: Tensor, guided: Guided, row: int) -> Tensor:
        """x̂ at this row."""
        alone = self.table.clone()
        alone[:, SLOT_A:] = 0
        alone[:, [SLOT_A, SLOT_B]] = -1
        alone[:, NEXT + 1] = 1
        return ops.solver_step(x, guided.outputs, alone, row, weights=guided.weights, limit=guided.limit)[0]

    def with_known(self, x: Tensor, known: tuple[Tensor, Tensor], row: int) -> Tensor:
        """The state before `row` with the known part of the images, at the noise level that the state has there."""
        images, mask = known
        if row < self.plan.calls:
            images = self._at(images, row)
        return _merged(x, images, mask)

    def _at(self, images: Tensor, row: int) -> Tensor:
        """The images, noised with the noise of the first state, as the network reads them at `row`."""
        level = self.plan.levels[row]
        scale = self.plan.input_scale(level)
        return scale * (level.alpha * images + level.sigma * self.noise)
