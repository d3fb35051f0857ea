"""Guidance for images larger than those that a network was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import _check as check
from ..reference.solve import U, V
from .guiding import Guidance, Guided, Guiding, Interval, Run, Scale, Unguided, check_guidance, check_interval, of_row
from .path import Level, Path
from .plan import Plan, inverse


@dataclass(frozen=True)
class Upsample(Guidance):
    """Upsample guidance: what is coarse in a large image is denoised as the small image that the network knows.

        x̂ ← x̂ + scale·up(x̂_small − down(x̂))

    `down` takes the mean of factor × factor pixels, `up` repeats a pixel as often. x̂_small is the network's image for
    down(x_t), in which the noise is smaller by the factor, at the time that has this ratio of noise to signal. In the
    noise that a variance-preserving model predicts this is the published ε + scale·up(ε_small/factor − down(ε)).

    scale: as of `Guidance`; 0 is the network alone. factor: sides of the images over those of training, at least 2.
    guidance: of both images; none by default. interval: as of `ClassifierFree`; the paper's threshold η is the interval
    (1 − η, 1). The network is called for the large and then for the small images, so it must take both sizes.

    ValueError for a factor below 2 or that does not divide the images' sides, and for a guidance that changes the
    plan's table (`PlusPlus`).

    Source: Hwang, Park and Jo, "Upsample guidance: scale up diffusion models without training", 2024.
    """

    scale: Scale
    factor: int
    guidance: Guidance = Unguided()
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        check_guidance(self.guidance)
        check.integer(self.factor, "factor", 2)

    def begin(self, run: Run) -> Guiding:
        plan = run.plan
        small_plan, input_factors = self.small(plan)
        large, small = self.guidance.begin(run), self.guidance.begin(replace(run, plan=small_plan))
        if not torch.equal(large.table.cpu(), plan.table):
            raise ValueError(
                f"Upsample works with guidance that leaves the plan's table as it is, which "
                f"{type(self.guidance).__name__} does not"
            )
        scales, inside = run.numbers(self.scale), run.rows_within(self.interval)
        times = small_plan.times.to(run.device)
        images = [row[[U, V]].tolist() for row in plan.table]
        small_images = [row[[U, V]].tolist() for row in small_plan.table]

        def evaluate(x: Tensor, t: Tensor, row: int) -> Guided:
            guided = large.evaluate(x, t, row)
            if not inside[row] or images[row][1] == 0:
                return guided
            output = summed(guided, row).to(x.dtype)
            read = input_factors[row] * self.down(x)
            found = summed(small.evaluate(read, times[row].to(t.dtype).expand_as(t), row), row).to(x.dtype)
            coarse = _denoised(small_images[row], read, found) - self.down(_denoised(images[row], x, output))
            scale = of_row(scales, row).to(x.dtype).view(-1, *[1] * (x.dim() - 1))
            moved = output + scale / images[row][1] * self.up(coarse)
            return Guided((moved,), limit=guided.limit)

        return Guiding(large.table, evaluate)

    def small(self, plan: Plan) -> tuple[Plan, list[float]]:
        """A plan of the rows for the small images, and by what down(x) is multiplied for the network to read it."""
        levels = [self.small_level(Path(plan.schedule, plan.ends), level) for level in plan.levels]
        table, factors = plan.table.clone(), []
        for row, (level, small) in enumerate(zip(plan.levels, levels, strict=True)):
            scale = plan.input_scale(small)
            u, v = inverse(plan.prediction, small)
            table[row, U], table[row, V] = u / scale, v
            power = math.hypot(small.alpha, small.sigma) / math.hypot(level.alpha, level.sigma / self.factor)
            factors.append(scale * power / plan.input_scale(level))
        times = torch.tensor([level.time for level in levels], dtype=torch.float64)
        return replace(plan, table=table, times=times, levels=tuple(levels)), factors

    def small_level(self, path: Path, level: Level) -> Level:
        """The level at which the noise, divided by the factor, has the same ratio to the signal."""
        if level.alpha == 0 or level.sigma == 0:
            return level
        found = path.at_ratio(level.ratio / self.factor)
        return found if found.time >= 0 else path.at_time(0.0)

    def down(self, x: Tensor) -> Tensor:
        """The mean of each square of pixels."""
        if x.dim() < 3 or x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(
                f"factor {self.factor} must divide the height and width of images of shape {list(x.shape)}"
            )
        return x.unflatten(-1, (-1, self.factor)).unflatten(-3, (-1, self.factor)).mean((-1, -3))

    def up(self, x: Tensor) -> Tensor:
        """Each pixel as a square of pixels."""
        return x.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


def summed(guided: Guided, row: int) -> Tensor:
    """The outputs' sum with their weights."""
    if guided.weights is None:
        return guided.outputs[0]
    weights = guided.weights if guided.weights.dim() == 3 else guided.weights.view(1, 1, -1)
    shape = -1, *[1] * (guided.outputs[0].dim() - 1)
    parts = zip(of_row(weights, row).unbind(-1), guided.outputs, strict=True)
    return sum((weight.view(shape).to(output.dtype) * output for weight, output in parts), torch.zeros(()))


def _denoised(image: list[float], x: Tensor, output: Tensor) -> Tensor:
    """x̂ = u·x + v·output."""
    return image[0] * x + image[1] * output
