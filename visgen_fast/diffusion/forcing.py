"""Diffusion forcing: each frame of a clip has a noise level of its own, in training and in sampling.

Chen et al., "Diffusion forcing: next-token prediction meets full-sequence diffusion", 2024. Then one network draws
whole clips, continues them, and goes on frame by frame: these differ in the plan of levels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from visgen_fast import ops

from .. import _check as check
from ..nn.conditions import AnyCondition, apply_to_parts
from ..reference.solve import COLUMNS, NEXT, SLOT_A, SLOT_B
from .guidance import drop_labels
from .guiding import Guidance, Guided, Run, Unguided, check_guidance
from .networks import check_asked
from .objective import DiffusionObjective
from .path import Path
from .plan import Plan, check_plan
from .steps import Steps
from .times import TimeSampling
from .weights import Weight

KINDS = ("together", "pyramid", "one_by_one")


def frame_plan(
    frames: int,
    steps: int,
    kind: Literal["together", "one_by_one", "pyramid"] = "together",
    context: int = 0,
) -> Tensor:
    """When each frame of a clip is how noisy: float64 [rows, frames], from 1, noise, to 0, data.

    A time is the share of the plan's steps that a frame has still before it; from one row to the next a frame takes one
    step or rests.

    Args:
        frames, steps: of the clip, and of the plan for each frame; at least 1.
        kind: "together", all frames at one level, in `steps` steps; "one_by_one", each when the one before it is done;
            "pyramid", each one step behind the one before it.
        context: how many frames at the start are given, clean from the first row on; below `frames`.

    Raises:
        TypeError, ValueError: an argument that is none of these.
    """
    check.integer(frames, "frames", 1)
    check.integer(steps, "steps", 1)
    check.integer(context, "context", 0, frames - 1)
    wait = (0, 1, steps)[check.one_of(kind, "kind", KINDS)]  # how many steps behind the frame before it
    begins = (torch.arange(frames - context) * wait)[None]
    row = torch.arange(int(begins.max()) + steps + 1)[:, None]
    left = (steps + begins - row).clamp(0, steps)
    return torch.cat((left.new_zeros(len(row), context), left), 1).double() / steps


@torch.no_grad()
def sample_frames(
    model: Callable[..., Tensor],
    plan: Plan,
    times: Tensor,
    shape: Sequence[int],
    labels: AnyCondition,
    seeds: Tensor,
    *,
    context: Tensor | None = None,
    context_time: float = 0.0,
    guidance: Guidance | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw clips whose frames go along a plan each at its own time.

    With all frames at one level it gives what `sample` does. A clip depends on its seed and its condition alone.

    Args:
        model: model(x [B, C, T, …], t [B, T], labels) → the prediction that the plan is for.
        plan: see `plan`; of a sampler with one network call a step, its times falling.
        times: [rows, T], as `frame_plan` makes them for the plan's steps.
        shape: of one clip, (C, T, …).
        labels, seeds, dtype, device: as of `sample`.
        context: the frames that are given, [B, C, n, …]: those whose times are 0 in the first row.
        context_time: the level at which the network reads frames that are done. A little above 0, for example 0.015,
            makes long clips stable: the network then forgives the faults of what it drew itself.
        guidance: one that does the same in all steps.

    Raises:
        TypeError, ValueError: an argument of another kind, or that does not fit the above.
    """
    check_asked(model, labels, seeds)
    check_plan(plan)
    check.real(context_time, "context_time", 0, 1)
    guiding = Unguided() if guidance is None else guidance
    check_guidance(guiding)
    device = torch.device(seeds.device if device is None else device)
    labels, seeds = apply_to_parts(labels, lambda part: part.to(device)), seeds.to(device)
    shape = (len(seeds), *check.integers(shape, "shape", 0))
    left = _steps_left(plan, times, shape)
    steps = Steps(Run(model, plan, labels, len(seeds), dtype, device), guiding)
    _check_alike(steps, plan)

    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    noise = ops.gaussian(seeds, shape[1:], stream=ops.Purpose.INITIAL_STATE.stream(), dtype=state_dtype)
    x = noise * plan.initial[1]
    _give(x, context, int((left[0] == 0).sum()))
    done = Path(plan.schedule, plan.ends).at_time(context_time) if context_time > 0 else plan.ends[-1]
    scale, (signal, sigma) = plan.input_scale(done), (done.alpha, done.sigma) if context_time > 0 else (1.0, 0.0)
    told = torch.cat((torch.tensor([done.time], dtype=torch.float64), plan.times.flip(0))).to(device, state_dtype)
    rows = plan.steps - left.to(device)  # the last one is that of rest
    steps.table = torch.cat((steps.table, _rest(steps.table)))
    per_frame = (1, 1, -1, *[1] * (len(shape) - 3))
    with steps.on(x, seeds, labels):
        for now, after in zip(rows, rows[1:], strict=False):
            clean = scale * (signal * x + sigma * noise)
            read = torch.where((now == plan.steps).view(per_frame), clean, x)
            steps.run.variances.clear()
            guided = steps.guiding.evaluate(read, told[plan.steps - now].expand(shape[0], -1), 0)
            taken = torch.where(after > now, now, plan.steps)
            steps.step(taken.expand(*shape[:2], -1), _with_rest(guided))
    return x


class ForcingObjective(DiffusionObjective):
    """`DiffusionObjective` for clips [B, C, T, …], with a time for each frame, independent of all others.

    ValueError for times that adapt to losses, and for a weight that learns: they are told of whole samples.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        if type(self.times).observe is not TimeSampling.observe:
            raise ValueError("times must not adapt to losses where each frame has a time of its own")
        if self.weight is not None and type(self.weight).offset is not Weight.offset:
            raise ValueError("weight must not learn where each frame has a time of its own")

    def forward(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        labels: AnyCondition,
        seeds: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """The loss of each clip, float32 [B]; arguments as of `DiffusionObjective`, of a model that takes t [B, T]."""
        if self.null_label is not None:
            labels = drop_labels(labels, seeds, self.label_drop, self.null_label)
        shares = ops.uniform(seeds, (x.shape[2],), stream=ops.Purpose.TIME.stream())
        return self.losses_at(model, x, labels, seeds, self.times.quantile(shares))


def _steps_left(plan: Plan, times: Tensor, shape: tuple[int, ...]) -> Tensor:
    """How many of the plan's steps each frame has before it, int64 [rows, T]; ValueError unless the times are such."""
    if plan.calls != plan.steps or plan.ends[0].time < plan.ends[-1].time:
        raise ValueError(
            f"plan must have falling times and one network call a step, got {plan.calls} calls of "
            f"{plan.sampler} in {plan.steps} steps"
        )
    check.floats(times, "times")
    if len(shape) < 3 or times.dim() != 2 or times.shape[1] != shape[2]:
        raise ValueError(f"times must be [rows, T] for clips (C, T, …), got {list(times.shape)} for {shape[1:]}")
    exact = times.double().cpu() * plan.steps
    left = exact.round().long()
    falls = -left.diff(dim=0)
    if not torch.allclose(exact, left.double(), atol=1e-3, rtol=0) or not bool(((falls == 0) | (falls == 1)).all()):
        raise ValueError(
            f"times must be multiples of 1/{plan.steps}, and stay or fall by that from row to row: those "
            f"of frame_plan for {plan.steps} steps"
        )
    if not bool(((left[0] == 0) | (left[0] == plan.steps)).all()) or bool(left[-1].any()):
        raise ValueError("times must begin with 0 for given frames and 1 for all others, and end with 0")
    return left


def _give(x: Tensor, context: Tensor | None, count: int) -> None:
    """Writes the given frames into the state."""
    expected = [*x.shape[:2], count, *x.shape[3:]]
    found = None if context is None else list(context.shape)
    if found != (expected if count else None):
        raise ValueError(f"context must be {expected if count else None}, as times say, got {found}")
    if context is not None:
        x[:, :, :count] = context


def _check_alike(steps: Steps, plan: Plan) -> None:
    kind = steps.guiding.kind
    if kind is None or len({kind(row) for row in range(plan.calls)}) > 1:
        raise ValueError(f"guidance must do the same in all steps where frames differ in theirs, got {steps.guidance}")


def _rest(table: Tensor) -> Tensor:
    """The row that leaves the state, and all slots, as they are: float64 [1, 32]."""
    row = torch.zeros(1, COLUMNS, dtype=torch.float64, device=table.device)
    row[:, [SLOT_A, SLOT_B]] = -1
    row[:, NEXT] = 1
    return row


def _with_rest(guided: Guided) -> Guided:
    """Weights of each row, and of the row of rest behind them."""
    weights = guided.weights
    if weights is None or weights.dim() < 3 or len(weights) == 1:
        return guided
    return guided._replace(weights=torch.cat((weights, weights[-1:])))
