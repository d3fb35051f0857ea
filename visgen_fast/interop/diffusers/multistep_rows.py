"""The rows of diffusers' multistep schedulers, for every order that a step may have.

Both integrate exactly along h, the growth of ln(α/σ), either the denoised image, where the state shrinks by σ'/σ, or
the noise, where it shrinks by α'/α. With z = −h and the scale α', or z = h and the scale σ', both are one formula:

    x' = kept·x − scale·(φ1(z)·m + what the changes of m add), m the image or the noise

Where a step is infinitely long, or none, nothing can be said of changes along it, and m counts as constant.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from .tables import S1, S2, D, O, Sums, Table, X, Z, converted, filled, levels, phi, times


@dataclass(frozen=True)
class _Steps:
    """The numbers of that formula, and h and ln(α/σ) at the start, of each step: all [steps]."""

    start: np.ndarray
    h: np.ndarray
    z: np.ndarray
    kept: np.ndarray
    scale: np.ndarray
    first: np.ndarray  # scale·φ1(z)

    @classmethod
    def between(cls, alpha: np.ndarray, sigma: np.ndarray, half_log_snr: np.ndarray, to_noise: bool) -> _Steps:
        h = half_log_snr[1:] - half_log_snr[:-1]
        shrinking, other = (alpha, sigma) if to_noise else (sigma, alpha)
        kept, scale, z = shrinking[1:] / shrinking[:-1], other[1:], h if to_noise else -h
        first = np.where(np.isfinite(h), scale * phi(1, z), kept * other[:-1] - scale)
        return cls(half_log_snr[:-1], h, z, kept, scale, first)

    def before(self) -> _Steps:
        """Those of the steps before; before the first one there is NaN."""
        return _Steps(*(_moved(values, 1) for values in vars(self).values()))


@functools.lru_cache(maxsize=64)
def dpm_solver(
    algorithm: str, solver: str, order: int, prediction: str, flow: bool, thresholding: bool, sigmas: tuple[float, ...]
) -> Table | None:
    """DPM-Solver and DPM-Solver++, and their SDEs: row i·order + k − 1 takes step i with order k.

    Slot 0 takes the new m; slots 1 and 2 hold those before. Lu et al., "DPM-Solver++", 2022. Of order 3 the last term
    is diffusers', which lacks a factor of 2, and for the SDE has another sign of its ½.
    """
    to_noise, sde = algorithm in ("dpmsolver", "sde-dpmsolver"), algorithm.startswith("sde-")
    by_image = thresholding and to_noise  # the image is thresholded, and the noise follows from it
    if not 1 <= order <= 3 or (order == 3 and algorithm == "sde-dpmsolver"):
        return None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        alpha, sigma, half_log_snr = levels(sigmas, flow)
        denoise = converted(prediction, alpha[:-1], sigma[:-1], to_noise=to_noise and not by_image)
        if denoise is None:
            return None
        m = times(1 / sigma[:-1], X) - times(alpha[:-1] / sigma[:-1], D) if by_image else D
        steps = _Steps.between(alpha, sigma, half_log_snr, to_noise)
        h, z = steps.h, -2 * steps.h if sde and not to_noise else steps.z
        gain = -2 * steps.scale if sde and to_noise else -steps.scale
        kept = steps.kept * np.exp(-h) if sde and not to_noise else steps.kept
        first = times(kept, X) - times(steps.first, m)
        if sde:
            first = times(kept, X) + times(gain * phi(1, z), m)
            first = first + times(sigma[1:] * np.sqrt(np.abs(np.expm1(2 * h if to_noise else -2 * h))), Z)
        # The changes of m, over the last step and over the one before, as slopes times h.
        newer, older = _moved(h, 1), _moved(h, 2)
        slope, slope_before = times(_ratio(h, newer), m - S1), times(_ratio(h, older), S1 - S2)
        bend = slope - slope_before
        slope_here = slope + times(_ratio(newer, newer + older), bend)
        second = times(gain * (0.5 * phi(1, z) if solver == "midpoint" else phi(2, z)), slope)
        curve = _ratio(h, newer + older) * (phi(2, z) / z + 0.5 if sde else phi(3, z))
        third = times(gain * phi(2, z), slope_here) + times(gain * curve, bend)
        changing = (np.isfinite(h) & (h != 0))[:, None]
        sums = [first, first + np.where(changing, second, 0), first + np.where(changing, third, 0)][:order]
        return Table.of(np.stack([filled(denoise, following, {0: m}) for following in sums], 1))


@functools.lru_cache(maxsize=64)
def unipc(
    solver: str, order: int, prediction: str, flow: bool, predict_x0: bool, sigmas: tuple[float, ...]
) -> Table | None:
    """UniPC: row (i·(order + 1) + c)·order + p − 1 corrects with order c, 0 not at all, then predicts with order p.

    Slot 0 takes the new m, and the slot behind the earlier ones the corrected state. The last two m before lie in slots
    1 and 2, the third one in the place of the last output, the last corrected state in that of the noise. Zhao et al.,
    "UniPC", 2023.
    """
    if not 1 <= order <= 3 or solver not in ("bh1", "bh2"):
        return None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        alpha, sigma, half_log_snr = levels(sigmas, flow)
        denoise = converted(prediction, alpha[:-1], sigma[:-1], to_noise=not predict_x0)
        if denoise is None:
            return None
        steps = _Steps.between(alpha, sigma, half_log_snr, not predict_x0)
        before, count = steps.before(), len(steps.h)
        rows = []
        for corrector in range(order + 1):
            state = np.tile(X, (count, 1))
            if corrector:
                corrected = _unified(before, Z, S1, (S2, O)[: corrector - 1], solver, new=D)
                state = np.where(np.isfinite(corrected).all(1, keepdims=True), corrected, X)
            for predictor in range(1, order + 1):
                last = 1 + min(max(corrector, predictor - 1), 2)
                following = _unified(steps, state, D, (S1, S2)[: predictor - 1], solver)
                rows.append(filled(denoise, following, {0: D, last: state} if corrector else {0: D}))
        return Table.of(np.stack(rows, 1))


def _unified(
    steps: _Steps, state: Sums, m: Sums, history: tuple[Sums, ...], solver: str, *, new: Sums | None = None
) -> Sums:
    """A step from `state` with m and the ones before; with `new`, that at the end of the step, it is a correction.

    Equations 7 to 12 of the paper: the weights of the differences (m_k − m)/r_k solve a system of moments.
    """
    h, z, count = steps.h, steps.z, len(steps.h)
    base = times(steps.kept, state) - times(steps.first, m)
    ratios = [(_moved(steps.start, k + 1) - steps.start) / h for k in range(len(history))]
    differences = [times(1 / r, one - m) for r, one in zip(ratios, history, strict=True)]
    nodes = np.stack([*ratios, np.ones(count)], -1)
    scale = z if solver == "bh1" else np.expm1(z)
    size = len(history) + (new is not None)
    if size == 0:
        return base
    if size == 1:
        weights = np.full((count, 1), 0.5)
    else:
        powers = range(size)
        moments = nodes[:, None, :size] ** np.arange(size)[:, None]
        right = np.stack([phi(k + 2, z) * math.factorial(k + 1) / scale for k in powers], -1)
        sound = np.isfinite(moments).all((1, 2)) & np.isfinite(right).all(1)
        sound[sound] &= np.linalg.det(moments[sound]) != 0
        weights = np.full((count, size), np.nan)
        weights[sound] = np.linalg.solve(moments[sound], right[sound][..., None])[..., 0]
    if new is not None:
        differences.append(np.tile(new - m, (count, 1)))
    change = np.sum([times(weights[:, k], difference) for k, difference in enumerate(differences)], 0)
    added = times(steps.scale * scale, change)
    return base - np.where(np.isfinite(added).all(1, keepdims=True), added, 0 if new is None else np.nan)


def _moved(values: np.ndarray, by: int) -> np.ndarray:
    """values[i − by] at i, NaN where there is none."""
    return np.concatenate([np.full(min(by, len(values)), np.nan), values[:-by]])


def _ratio(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """one/other, 0 where that is no number."""
    ratio = one / other
    return np.where(np.isfinite(ratio), ratio, 0.0)
