"""The fit of E + Σ A·x^−α to losses: many least problems at once, each by damped steps on reweighted squares."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

# Hoffmann et al.'s; of the logarithm: errors beyond 0.1% of the loss count by their size, not by its square.
_DELTA = 1e-3
_SHARES = (0.1, 0.5, 0.9)  # of E in the loss, where a fit starts
_EXPONENTS = (0.05, 0.2, 0.5, 1.0, 2.0)
_MOST_STEPS = 1000


def starts(terms: int) -> Tensor:
    """Where fits begin, float64 [S, 1 + 2·terms]: ln E, each ln A, each α, where logarithms of sizes have mean 0."""
    rows = []
    for share in _SHARES:
        for exponents in itertools.product(_EXPONENTS, repeat=terms):
            rows.append([share, *[(1 - share) / terms] * terms, *exponents])
    found = torch.tensor(rows, dtype=torch.float64)
    found[:, : 1 + terms] = found[:, : 1 + terms].log()
    return found


def log_loss(theta: Tensor, log_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """ln(E + Σ A·x^−α) [P, N] of P laws at N runs, and its derivatives [P, K, N]; `log_sizes` is [terms, N]."""
    terms, runs = log_sizes.shape
    powers = theta[:, 1 : 1 + terms, None] - theta[:, 1 + terms :, None] * log_sizes
    summands = torch.cat((theta[:, :1, None].expand(-1, -1, runs), powers), 1)
    total = summands.logsumexp(1)
    shares = (summands - total[:, None]).exp()
    return total, torch.cat((shares, -log_sizes * shares[:, 1:]), 1)


def minimize(
    theta: Tensor, log_sizes: Tensor, target: Tensor, weights: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Minimizes Σ weights·huber(log_loss − target) from each of `theta` [P, K], with `weights` [P, N].

    Ends where no step lowers a sum by more than this part of it. Returns the laws and their sums [P].

    The squares are weighted by min(1, δ / |error|), which has the gradient of Huber's loss; the damping is Levenberg
    and Marquardt's. A step that would raise the sum is not taken.
    """
    theta, sums = theta.clone(), torch.empty(len(theta), dtype=torch.float64)
    damping = torch.full((len(theta),), 1e-3, dtype=torch.float64)
    predicted, slopes = log_loss(theta, log_sizes)
    sums = _sums(predicted - target, weights)
    active = torch.arange(len(theta))
    for _ in range(_MOST_STEPS):
        here = theta[active]
        predicted, slopes = log_loss(here, log_sizes)
        errors = predicted - target
        step = _step(errors, slopes, weights[active], damping[active])
        there = here - step
        before, after = sums[active], _sums(log_loss(there, log_sizes)[0] - target, weights[active])
        better = after <= before
        theta[active] = there.where(better[:, None], here)
        sums[active] = after.where(better, before)
        damping[active] = (damping[active] * torch.where(better, 0.3, 4.0)).clamp(1e-12, 1e12)
        # A rejected step that changes nothing is the end too: rounding decides what is lower there.
        going = ((before - after).abs() > tolerance * before) & (before > 1e-28)
        active = active[going]
        if not len(active):
            break
    return theta, sums


def _sums(errors: Tensor, weights: Tensor) -> Tensor:
    size = errors.abs()
    huber = torch.where(size <= _DELTA, size.square() / 2, _DELTA * (size - _DELTA / 2))
    return (weights * huber).sum(1).nan_to_num(torch.inf)


def _step(errors: Tensor, slopes: Tensor, weights: Tensor, damping: Tensor) -> Tensor:
    weighted = slopes * (weights * (_DELTA / errors.abs().clamp_min(_DELTA)))[:, None]
    gradient = (weighted @ errors[..., None])[..., 0]
    curvature = weighted @ slopes.mT
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    # The second term lets a summand that has vanished rest.
    damped = damping[:, None] * diagonal + 1e-14 * diagonal.amax(1, keepdim=True) + torch.finfo(torch.float64).tiny
    return torch.linalg.solve_ex(curvature + torch.diag_embed(damped), gradient)[0]
