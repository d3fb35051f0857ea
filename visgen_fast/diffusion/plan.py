"""A plan: everything that sampling does but the network, decided before the first image: a table of numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _check as check
from ..reference.solve import COLUMNS, L0, L1, MOST_SLOTS, NEXT, SLOT_A, SLOT_B, TIME, WRITE_A, WRITE_B, U, V
from .path import Level, Path
from .predictions import Prediction, as_prediction
from .schedules import Schedule, check_schedule
from .solvers import SAMPLERS, Sampler
from .solvers.rows import Row
from .spacings import SPACINGS, Spacing, shifted

_NOT_FINITE = "{} has no finite table for these options and times on {}: {!s:.80}"
_NO_NOISE = "an inversion, whose times rise, must add no noise, but {} does: give eta=0, or another sampler"


@dataclass(frozen=True, eq=False)
class Plan:
    """A sampler on a path, for a kind of prediction. It is immutable, and any number of threads may share it.

    table: float64 [rows, 32], a row for each network call, as `ops.solver_step` reads it. times: float64 [rows], what
    the network is told. slots: how many the table uses. step_of_row: which step each row belongs to; rows of one step
    follow each other. levels: of the rows; after churn, above that where the step begins. ends: those of the steps,
    [steps + 1]. initial: (signal, noise), what image and noise are multiplied by to make the first state. noisy:
    whether any row adds noise.
    """

    sampler: str
    schedule: Schedule
    prediction: Prediction
    table: Tensor
    times: Tensor
    slots: int
    step_of_row: tuple[int, ...]
    levels: tuple[Level, ...]
    ends: tuple[Level, ...]
    initial: tuple[float, float]
    noisy: bool
    _along: Callable[[Path], Plan] = field(repr=False)  # the same sampler on another path

    @property
    def steps(self) -> int:
        return len(self.ends) - 1

    @cached_property
    def learned_variance(self) -> bool:
        """Whether the noise's variance is the network's to say, in a second half of its channels."""
        return bool(self.table[:, [L0, L1]].any())

    @property
    def calls(self) -> int:
        """Network calls of a whole run."""
        return len(self.table)

    def after(self, step: int) -> Plan:
        """The plan of the steps that are left after `step` of them: a sampler with history begins anew there."""
        return self if step == 0 else self._along(Path(self.schedule, self.ends[step:]))

    def input_scale(self, at: Level) -> float:
        """What x_t is multiplied by before the network reads it at this level."""
        return _input_scale(self.prediction, at)


def plan(
    sampler: str | Sampler,
    schedule: Schedule,
    prediction: Prediction | str,
    *,
    steps: int | None = None,
    times: Tensor | Sequence[float] | None = None,
    spacing: str | Spacing = "linear",
    shift: float | None = None,
    clamp: float = 0.0,
    **options: Any,
) -> Plan:
    """The table of `sampler` for this schedule and this kind of prediction.

    Args:
        sampler: a name in `SAMPLERS`, or a function like those.
        schedule, prediction: of the network.
        steps: how many (50 by default), placed by `spacing`, a name in `SPACINGS` or a function (schedule, steps) to
            times; `shift` moves the times towards noise as Stable Diffusion 3 does.
        times: where steps begin and end instead, in [0, 1]: falling to draw images, rising to invert them. The state
            ends at the last one.
        clamp: the denoised image is held in ±clamp; 0 leaves it.
        options: of the sampler: order, eta, variant, variance, churn, lower_order_final …

    Raises:
        TypeError: an argument of another kind.
        ValueError: an unknown name (those known are listed), an option that the sampler does not have, a schedule that
            is none, a negative clamp, steps that are no whole number of at least 1, times that are not monotone in
            [0, 1] or begin without noise, ε-prediction where no signal is left, noise in an inversion.
    """
    function, name = _named(sampler, SAMPLERS, "sampler")
    check_schedule(schedule)
    check.number(clamp, "clamp")
    if not 0 <= clamp < math.inf:
        raise ValueError(f"clamp must be at least 0 and finite, got {clamp}")
    prediction = as_prediction(prediction)
    grid = _times(schedule, steps, times, spacing, shift)
    return _plan_along(Path.through(schedule, grid), function, name, prediction, clamp, options)


def check_plan(plan: Any) -> None:
    """TypeError unless it is one."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be a Plan, as plan(sampler, schedule, prediction) makes it, got {plan!r:.80}")


def _plan_along(
    path: Path, function: Sampler, name: str, prediction: Prediction, clamp: float, options: dict[str, Any]
) -> Plan:
    times = [level.time for level in path.levels]
    rising = times[-1] > times[0]
    if path.levels[0].sigma == 0:
        raise ValueError(f"times must begin where there is noise to go by: a little above 0, got {times}")
    try:
        rows, step_of_row = _rows(path, function, name, options)
    except OverflowError as error:
        raise ValueError(_NOT_FINITE.format(name, path.schedule, times)) from error
    if rising and any(np.iscomplexobj(row.next) for row in rows):  # the root of a negative variance
        raise ValueError(_NO_NOISE.format(name))
    scales = [_input_scale(prediction, row.at) for row in rows]
    table = np.zeros((len(rows), COLUMNS))
    for number, row in enumerate(rows):
        following = scales[number + 1] if number + 1 < len(rows) else 1.0
        table[number] = _filled(row, prediction, scales[number], following, clamp)
    noisy = bool((table[:, [NEXT + 7, WRITE_A + 7, WRITE_B + 7]] != 0).any())
    if rising and noisy:
        raise ValueError(_NO_NOISE.format(name))
    if not np.isfinite(table).all():
        raise ValueError(_NOT_FINITE.format(name, path.schedule, times))
    first = rows[0].at
    return Plan(
        name,
        path.schedule,
        prediction,
        torch.from_numpy(table),
        torch.tensor([row.at.time for row in rows], dtype=torch.float64),
        1 + max((slot for row in rows for slot in row.write), default=-1),
        tuple(step_of_row),
        tuple(row.at for row in rows),
        path.levels,
        (scales[0] * first.alpha, scales[0] * first.sigma),
        noisy,
        partial(_plan_along, function=function, name=name, prediction=prediction, clamp=clamp, options=options),
    )


def _named(given: Any, known: dict[str, Any], argument: str) -> tuple[Callable[..., Any], str]:
    if callable(given):
        return given, getattr(given, "__name__", argument)
    if not isinstance(given, str) or given not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}; got {given!r}")
    return known[given], given


def _times(
    schedule: Schedule,
    steps: int | None,
    times: Tensor | Sequence[float] | None,
    spacing: str | Spacing,
    shift: float | None,
) -> Tensor:
    if times is None:
        steps = 50 if steps is None else steps
        check.number(steps, "steps")
        if not steps >= 1 or steps % 1 != 0:
            raise ValueError(f"steps must be a whole number of at least 1, got {steps}")
        grid = _numbers(_named(spacing, SPACINGS, "spacing")[0](schedule, int(steps)), "what spacing makes")
    elif steps is not None:
        raise ValueError("either steps or times must be given, got both")
    else:
        grid = _numbers(times, "times")
    if shift is not None:
        grid = shifted(grid, shift)
    change = torch.atleast_1d(grid).diff()
    monotone = grid.dim() == 1 and len(grid) > 1 and bool((change < 0).all() or (change > 0).all())
    if not monotone or not bool(((grid >= 0) & (grid <= 1)).all()):
        raise ValueError(
            f"times must be two or more numbers in [0, 1] that fall or rise throughout, got {grid.tolist()!s:.80}"
        )
    return grid


def _numbers(values: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a tensor or a sequence of numbers, got {values!r:.80}") from None


def _rows(path: Path, function: Sampler, name: str, options: dict[str, Any]) -> tuple[list[Row], list[int]]:
    taken = list(inspect.signature(function).parameters)[1:]
    unknown = sorted(set(options) - set(taken))
    if unknown:
        raise ValueError(f"{name} has the options {', '.join(taken) or 'none'}; got {', '.join(unknown)}")
    rows = list(function(path, **{key: value for key, value in options.items() if value is not None}) or ())
    if not all(isinstance(row, Row) for row in rows):
        raise TypeError(f"{name} must yield rows, each a Row of solvers.rows, got {rows!r:.80}")
    step_of_row, step = [], 0
    for row in rows:
        step_of_row.append(step)
        step += row.ends
    wanted = len(path.steps())
    if not rows or step != wanted or not rows[-1].ends:
        raise ValueError(f"{name} must yield rows of which {wanted} end a step, the last row among them, got {step}")
    return rows, step_of_row


def _input_scale(prediction: Prediction, at: Level) -> float:
    if prediction.input_scale is None:
        return 1.0
    return float(prediction.input_scale(_number(at.alpha), _number(at.sigma)))


def _filled(row: Row, prediction: Prediction, scale: float, following: float, clamp: float) -> np.ndarray:
    """The row's 32 numbers, of a state that is x_t times `scale` before and times `following` after it."""
    filled = np.zeros(COLUMNS)
    filled[TIME] = row.at.time
    filled[U], filled[V] = inverse(prediction, row.at)
    filled[U] /= scale
    filled[3] = clamp
    filled[L0], filled[L1] = row.log_variance
    filled[NEXT : NEXT + 8] = following * row.next
    filled[[SLOT_A, SLOT_B]] = -1
    if len(row.write) > 2 or any(not 0 <= slot < MOST_SLOTS for slot in row.write):
        raise ValueError(f"a row may write two of the slots 0 to {MOST_SLOTS - 1}, got {sorted(row.write)}")
    for (slot, value), column, first in zip(row.write.items(), (SLOT_A, SLOT_B), (WRITE_A, WRITE_B), strict=False):
        filled[column], filled[first : first + 8] = slot, value
    for first in (NEXT, WRITE_A, WRITE_B):
        filled[first] /= scale
    return filled


def inverse(prediction: Prediction, at: Level) -> tuple[float, float]:
    """(u, v) of x̂ = u·x_t + v·output."""
    c, d = (float(weight) for weight in prediction.weights(_number(at.alpha), _number(at.sigma)))
    determinant = at.alpha * d - at.sigma * c
    if determinant == 0:
        if c == 1 and d == 0:
            return 0.0, 1.0  # the output is the image itself
        raise ValueError(
            f"prediction {prediction.name!r} says nothing of the image at t = {at.time:g}, where the signal is "
            f"{at.alpha:g} and the noise {at.sigma:g}: expected 'x', 'v' or 'velocity'"
        )
    return d / determinant, -at.sigma / determinant


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
