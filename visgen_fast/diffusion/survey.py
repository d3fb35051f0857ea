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

from ..reference.solve import NEXT, SLOT_A, SLOT_B, WRITE_A, WRITE_B, U, V
from .plan import Plan, plan
from .predictions import convert
from .sampling import sample
from .schedules import CosineVP
from .solvers import SAMPLERS

_SCHEDULE = CosineVP()
_COARSE, _FINE, _EXACT = 60, 120, 600  # steps
_STARTS = 64
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
    order: measured, None where it adds noise.
    """

    name: str
    options: dict[str, Any]
    calls: int
    slots: int
    read: int
    written: int
    noise: str
    order: float | None


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
    )


def measured_order(name: str, **options: Any) -> float:
    """The order of the error when the number of steps is doubled, from 60 to 120.

    Of a sampler without noise, on a mixture of three Gaussians from σ/α = 10 to 0.1, in steps that are even in its
    logarithm, in float64; the first steps, of lower order where a sampler has history, are among them.
    """
    coarse, fine = ((_end(name, n, **options) - _exact()).square().mean().sqrt() for n in (_COARSE, _FINE))
    return math.log2(coarse / fine)


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
