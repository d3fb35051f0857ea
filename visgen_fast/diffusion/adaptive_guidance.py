"""Guidance whose weights or limit depend on the state: on lengths, angles and quantiles of each sample.

A pass over the outputs gives the sums of their products in float64. The weights, a few numbers a sample, follow from
them, and the step stays one pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen_fast import ops

from .. import _check as check
from ..nn.conditions import Null
from ..reference.solve import U, V
from .guiding import (
    Guidance,
    Guided,
    Guiding,
    Interval,
    Run,
    Scale,
    Unguided,
    check_guidance,
    check_interval,
    check_null,
    in_interval,
    is_number,
    of_row,
)


@dataclass(frozen=True)
class Projected(Guidance):
    """Adaptive projected guidance: x̂ = x̂_c + (scale − 1)·update, all of it on denoised images.

    The difference x̂_c − x̂_u, with its running sum where there is momentum, is shortened to `limit` and split into the
    part along x̂_c, of which the update has the share η, and the rest, which it has whole. With η = 1, no limit and no
    momentum this is classifier-free guidance.

    scale: as of `Guidance`; 1 is the conditional network alone. null_label, interval, batched: as of
    `ClassifierFree`.
    eta: 0 in the paper. limit: the greatest norm of a sample's difference, None for any; the paper's is 2.5 for latent
    images of ImageNet. momentum: β of running = difference + β·running at each network call; the paper's is −0.75
    there, 0 is none.

    ValueError unless limit is positive.

    Source: Sadat et al., "Eliminating oversaturation and artifacts of high guidance scales in diffusion models", 2024,
    algorithm 1.
    """

    scale: Scale
    null_label: Null
    eta: float = 0.0
    limit: float | None = None
    momentum: float = 0.0
    interval: Interval | None = None
    batched: bool = True

    def __post_init__(self) -> None:
        check_null(self.scale, self.null_label)
        check_interval(self.interval)
        check.real(self.eta, "eta")
        check.real(self.momentum, "momentum")
        if self.limit is not None:
            check.number(self.limit, "limit")
        if self.limit is not None and not self.limit > 0:
            raise ValueError(f"limit must be positive, or None for none, got {self.limit}")

    def begin(self, run: Run) -> Guiding:
        if is_number(self.scale, 1):
            return Unguided().begin(run)
        outputs, gains = run.with_and_without(self.null_label, self.batched), run.numbers(self.scale) - 1
        u, v = run.plan.table[:, U], run.plan.table[:, V]
        zero, one = torch.zeros_like(v), torch.ones_like(v)
        per_output = torch.where(v == 0, 0, 1 / torch.where(v == 0, 1, v))

        def by_row(*sums: Tensor) -> tuple[Tensor, ...]:
            return torch.stack(sums, -1).to(run.device).unbind()

        # As sums of (x, c, other): x̂_c, the difference, and the part u·x of x̂, which is no output's.
        whole, state = by_row(u, v, zero), by_row(u, zero, zero)
        apart = by_row(zero, zero, one) if self.momentum else by_row(zero, v, -v)
        inverse, lengths, running = per_output.to(run.device).unbind(), v.tolist(), None

        def evaluate(x: Tensor, t: Tensor, row: int) -> Guided:
            nonlocal running
            conditional, other = outputs(x, t)
            if self.momentum:
                difference = lengths[row] * (conditional - other).to(x.dtype)
                running = difference if running is None else difference + self.momentum * running
                other = running
            products = ops.output_products((conditional, other), x)[:, 1:, 1:]
            along, short = self.split(products, whole[row], apart[row])
            gain = of_row(gains, row)
            total = whole[row] * (1 - gain * along)[:, None] + apart[row] * (gain * short)[:, None]
            return Guided((x, conditional, other), ((total - state[row]) * inverse[row])[None])

        return in_interval(run, self.interval, evaluate, self.scale)

    def split(self, products: Tensor, whole: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
        """(share of x̂_c to take away, factor of the difference), each [B]."""
        spread = products @ apart
        length = (spread @ apart).clamp_min(0).sqrt()
        short = torch.ones_like(length) if self.limit is None else (self.limit / length).clamp_max(1)
        square = (products @ whole @ whole).clamp_min(1e-24)
        return (1 - self.eta) * short * (spread @ whole) / square, short


@dataclass(frozen=True)
class ZeroStar(Guidance):
    """CFG-Zero*: a·u + scale·(c − a·u) with a = ⟨c, u⟩/‖u‖² per sample; in the first steps the output counts as 0.

    Made for networks that predict a velocity: a step whose velocity is 0 leaves the state as it is.

    scale: as of `Guidance`; 1 is the conditional network alone. null_label, interval, batched: as of `ClassifierFree`.
    zero_steps: how many of the plan's first steps call no network.

    Source: Fan et al., "CFG-Zero*: improved classifier-free guidance for flow matching models", 2025.
    """

    scale: Scale
    null_label: Null
    zero_steps: int = 1
    interval: Interval | None = None
    batched: bool = True

    def __post_init__(self) -> None:
        check_null(self.scale, self.null_label)
        check_interval(self.interval)
        check.integer(self.zero_steps, "zero_steps", 0)

    def begin(self, run: Run) -> Guiding:
        guided = Unguided().begin(run) if is_number(self.scale, 1) else self.guided(run)
        nothing = torch.zeros(1, 1, 1, dtype=torch.float64, device=run.device)
        steps = run.plan.step_of_row

        def evaluate(x: Tensor, t: Tensor, row: int) -> Guided:
            return Guided((x,), nothing) if steps[row] < self.zero_steps else guided.evaluate(x, t, row)

        inner = guided.kind
        kind = None if inner is None else lambda row: "zero" if steps[row] < self.zero_steps else inner(row)
        return Guiding(guided.table, evaluate, kind)

    def guided(self, run: Run) -> Guiding:
        outputs, scales = run.with_and_without(self.null_label, self.batched), run.numbers(self.scale)

        def evaluate(x: Tensor, t: Tensor, row: int) -> Guided:
            both = outputs(x, t)
            products = ops.output_products(both)
            share = products[:, 1, 2] / (products[:, 2, 2] + 1e-8)
            scale = of_row(scales, row).expand(run.batch)
            return Guided(both, torch.stack((scale, share * (1 - scale)), -1)[None])

        return in_interval(run, self.interval, evaluate, self.scale, alike=len(scales) == 1)


@dataclass(frozen=True)
class DynamicThresholding(Guidance):
    """Any guidance, with x̂ held within ±s and divided by s; s is this quantile of its magnitudes, from 1 to `most`.

    It takes the place of the plan's clamp. For pixels in [−1, 1], not for latent images.

    guidance: the one whose x̂ is meant. ValueError unless quantile lies in [0, 1] and most is at least 1.

    Source: Saharia et al., "Photorealistic text-to-image diffusion models with deep language understanding", 2022,
    section 2.3.
    """

    guidance: Guidance
    quantile: float = 0.995
    most: float = math.inf

    def __post_init__(self) -> None:
        check_guidance(self.guidance)
        check.real(self.quantile, "quantile", 0, 1)
        check.number(self.most, "most")
        if not self.most >= 1:
            raise ValueError(f"most must be at least 1, got {self.most}")

    def begin(self, run: Run) -> Guiding:
        inner = self.guidance.begin(run)

        def evaluate(x: Tensor, t: Tensor, row: int) -> Guided:
            guided = inner.evaluate(x, t, row)
            limit = ops.denoised_quantile(x, guided.outputs, inner.table, row, self.quantile, guided.weights)
            return guided._replace(limit=limit.clamp(1, self.most))

        return Guiding(inner.table, evaluate)
