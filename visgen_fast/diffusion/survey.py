"""What samplers cost and how exact they are, read off their tables and measured: for a table of all of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from visgen_fast import ops

from ..reference.solve import MOST_SLOTS, NEXT, SLOT_A, SLOT_B, WRITE_A, WRITE_B, U, V
from .plan import Plan, plan
from .predictions import convert
from .sampling import sample
from .schedules import CosineVP
from .solvers import SAMPLERS

_SCHEDULE = CosineVP()
_COARSE, _FINE, _EXACT = 60, 120, 600  # steps
_STARTS, _STOCHASTIC = 64, 250
_OF_THE_FLOW = "consistency"
_UNKNOWN = "tcd"  # whose exact network would have to know where a step ends
_VARIANTS: dict[str, list[dict[str, Any]]] = {
    "dpm++3m": [{"variant": "corrected"}],
    "dpm++2m-sde": [{"eta": 0}],
    "dpm++3m-sde": [{"eta": 0}],
    "unipc": [{"order": order, "lower_order_final": False} for order in (1, 2, 3)],
    "deis": [{"order": 3}],
    "adams-bashforth": [{"order": 2}],
    "sa-solver": [{"eta": 0}],
}


@dataclass(frozen=True)
class SamplerFacts:
    """A sampler with these options: what a step in the middle of a plan costs, and the order of its error.

    calls: of the network. slots: that the plan keeps. read, written: states, outputs and slots, each as large as the
    images, of one network output (guidance by two reads one more a call). noise: yes, no, or the option that adds some.
    order: measured, None where it adds noise. spread: measured, None where it adds none, and of tcd.
    """

    name: str
    options: dict[str, Any]
    calls: int
    slots: int
    read: int
    written: int
    noise: str
    order: float | None
    spread: float | None


def survey() -> Iterator[SamplerFacts]:
    """Every sampler, and some of their variants."""
    for name in SAMPLERS:
        for options in ({}, *_VARIANTS.get(name, ())):
            yield facts(name, **options)


def facts(name: str, **options: Any) -> SamplerFacts:
    """What there is to say of one sampler; ValueError as `plan` raises it."""
    made = _plan(name, 12, options)
    middle = [row for row, step in zip(made.table.tolist(), made.step_of_row, strict=True) if step == 6]
    return SamplerFacts(
        name,
        options,
        len(middle),
        made.slots,
        sum(_read(row) for row in middle),
        sum(1 + (row[SLOT_A] >= 0) + (row[SLOT_B] >= 0) for row in middle),
        _noise(name, made, options),
        None if made.noisy else measured_order(name, **options),
        measured_spread(name, **options) if made.noisy and name != _UNKNOWN else None,
    )


def measured_order(name: str, **options: Any) -> float:
    """The order of the error when the number of steps is doubled, from 60 to 120.

    Of a sampler without noise, on a mixture of three Gaussians from σ/α = 10 to 0.1, in steps that are even in its
    logarithm, in float64; the first steps, of lower order where a sampler has history, are among them.
    """
    coarse, fine = ((_end(name, n, **options) - _exact()).square().mean().sqrt() for n in (_COARSE, _FINE))
    return math.log2(coarse / fine)


def measured_spread(name: str, **options: Any) -> float:
    """By which share the images' standard deviation is off, for data N(0, ½²), its exact denoiser and 250 steps.

    From σ/α = 10 to 0.1, as of `measured_order`. Each row is linear in state, slots and noise, so their covariance is
    followed exactly. For a consistency model the denoised image is the flow's end.
    """
    made, data = _plan(name, _STOCHASTIC, options), 0.5
    first, last = (math.hypot(level.alpha * data, level.sigma) for level in (made.ends[0], made.ends[-1]))
    covariance = torch.zeros(1 + MOST_SLOTS, 1 + MOST_SLOTS, dtype=torch.float64)
    covariance[0, 0] = first**2
    for row, level in zip(made.table, made.levels, strict=True):
        spread = math.hypot(level.alpha * data, level.sigma)
        gain = data / spread if name == _OF_THE_FLOW else level.alpha * data**2 / spread**2
        moved, fresh = torch.eye(1 + MOST_SLOTS, dtype=torch.float64), torch.zeros(1 + MOST_SLOTS, dtype=torch.float64)
        for place, start in ((0, NEXT), (1 + int(row[SLOT_A]), WRITE_A), (1 + int(row[SLOT_B]), WRITE_B)):
            if start == NEXT or place > 0:
                state, denoised, _, *slots, noise = row[start : start + 8].tolist()
                moved[place] = torch.tensor([state + gain * denoised, *slots], dtype=torch.float64)
                fresh[place] = noise
        covariance = moved @ covariance @ moved.mT + torch.outer(fresh, fresh)
    return covariance[0, 0].sqrt().item() / last - 1


def _read(row: list[float]) -> int:
    """Images that a row reads: what has the coefficient 0 is not."""
    used = [NEXT, *(first for slot, first in ((SLOT_A, WRITE_A), (SLOT_B, WRITE_B)) if row[slot] >= 0)]
    state, denoised, last, *slots = (any(row[first + k] for first in used) for k in range(7))
    return sum(((state or (denoised and row[U] != 0)), ((denoised and row[V] != 0) or last), *slots))


def _noise(name: str, made: Plan, options: dict[str, Any]) -> str:
    if made.noisy:
        return "yes"
    choices = [choice for choice in ("eta", "churn") if choice in inspect.signature(SAMPLERS[name]).parameters]
    return choices[0] if choices else "no"


def _plan(name: str, steps: int, options: dict[str, Any]) -> Plan:
    log_ratios = torch.linspace(math.log(10), math.log(0.1), steps + 1, dtype=torch.float64)
    return plan(name, _SCHEDULE, "v", times=_SCHEDULE.time(-2 * log_ratios), **options)


def _end(name: str, steps: int, **options: Any) -> Tensor:
    seeds = ops.derive_seeds(0, torch.arange(_STARTS))
    labels = torch.zeros_like(seeds)
    return sample(_mixture, _plan(name, steps, options), (1,), labels, seeds, dtype=torch.float64)


@cache
def _exact() -> Tensor:
    return _end("rk4", _EXACT)


def _mixture(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """The v that is expected of three Gaussians, each with a mean, a standard deviation and a share of the samples."""
    means, spreads, shares = torch.tensor([[-1.0, 0.4, 1.2], [0.2, 0.35, 0.15], [0.3, 0.5, 0.2]]).to(x_t)
    alpha, sigma = _SCHEDULE.alpha(t)[:, None], _SCHEDULE.sigma(t)[:, None]
    variance = (alpha * spreads) ** 2 + sigma**2
    gap = x_t - alpha * means
    weight = (shares.log() - variance.log() / 2 - gap**2 / (2 * variance)).softmax(1)
    denoised = (weight * (means + alpha * spreads**2 / variance * gap)).sum(1, keepdim=True)
    return convert(denoised, x_t, alpha, sigma, "x", "v")
