"""Contrastive divergence: the energy of images goes down, that of what chains from them find goes up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import _check as check
from .. import ops
from ..reference.solve import COLUMNS, NEXT, SLOT_A, SLOT_B

_STATE, _OUTPUT, _NOISE = 0, 2, 7  # operands of a row of `ops.solver_step`


@torch.no_grad()
def langevin(
    energy: Callable[[Tensor], Tensor], start: Tensor, seeds: Tensor, *, steps: int, step_size: float
) -> Tensor:
    """`steps` of x − h·∇E + √(2h)·z from `start`: samples of exp(−E), in the end and for small h.

    Args:
        energy: x [B, …] → [B], differentiable. start: [B, …]. seeds: int64 [B], of the noise.
        steps: at least 1. step_size: h, positive.

    Returns:
        [B, …], which depends on each sample's start and seed alone.
    """
    check.seeds(seeds, len(start), start.device)
    check.integer(steps, "steps", 1)
    check.number(step_size, "step_size", positive=True)
    table = torch.zeros(1, COLUMNS, dtype=torch.float64, device=start.device)
    table[:, [SLOT_A, SLOT_B]] = -1
    table[:, NEXT + _STATE], table[:, NEXT + _OUTPUT], table[:, NEXT + _NOISE] = 1, -step_size, (2 * step_size) ** 0.5
    state = start
    for step in range(steps):
        with torch.enable_grad():
            at = state.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy(at).sum(), at)
        state, _ = ops.solver_step(state, slope, table, 0, seeds=seeds, stream=ops.Purpose.SAMPLER.stream(step))
    return state


def contrastive_divergence(
    energy: Callable[[Tensor], Tensor],
    x: Tensor,
    seeds: Tensor,
    *,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
    penalty: float = 0.0,
) -> Tensor:
    """E(x) − E(x′) + penalty·(E(x)² + E(x′)²), [B], with x′ what `langevin` makes of `start`.

    Its gradient is that of −ln p(x) where the chains have found exp(−E).

    start: [B, …], by default x itself; a buffer of former x′ begins chains where others ended. Other arguments as of
    `langevin`; penalty: keeps energies near 0, where they are known best.

    Sources: Hinton, "Training products of experts by minimizing contrastive divergence", 2002; Du and Mordatch,
    "Implicit generation and modeling with energy-based models", 2019, for the penalty and the buffer.
    """
    check.real(penalty, "penalty", 0)
    found = langevin(energy, x if start is None else start, seeds, steps=steps, step_size=step_size)
    own, other = energy(x), energy(found)
    return own - other + penalty * (own.square() + other.square())
