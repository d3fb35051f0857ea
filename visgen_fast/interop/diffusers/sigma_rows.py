"""The rows of diffusers' schedulers that go by `sigmas` alone: x + σ·noise, or a flow."""

from __future__ import annotations

import functools
import math

import numpy as np

from .tables import S1, S2, D, Numbers, O, Sums, Table, X, Z, filled, times

Sigmas = tuple[float, ...]


@functools.lru_cache(maxsize=64)
def euler(prediction: str, churn: tuple[float, float, float], sigmas: Sigmas) -> Table | None:
    """Euler's step for each σ, from where `churn` (amount, least σ, largest σ) has raised it to; slot 0 takes x̂."""
    start, end = _ends(sigmas)
    raised = start * (1 + np.array([churn_of(*churn, sigma, len(start)) for sigma in sigmas[:-1]]))
    with np.errstate(divide="ignore", invalid="ignore"):
        denoise = _denoise(prediction, start if prediction == "v_prediction" else raised)
        if denoise is None:
            return None
        following = X + times(end - raised, _slope(prediction, raised))
        return Table.of(filled(denoise, following, {0: D}))


def churn_of(amount: float, least: float, largest: float, sigma: float, steps: int) -> float:
    """γ: the share by which noise raises σ before a step (Karras et al., 2022, algorithm 2)."""
    return min(amount / steps, math.sqrt(2) - 1) if least <= sigma <= largest else 0.0


@functools.lru_cache(maxsize=64)
def euler_ancestral(prediction: str, sigmas: Sigmas) -> Table | None:
    """Down to σ'²/σ, and noise up to σ'; slot 0 takes x̂."""
    start, end = _ends(sigmas)
    denoise = _denoise(prediction, start)
    if denoise is None or prediction == "sample":
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        up = end * np.sqrt(1 - (end / start) ** 2)
        following = X + times(end**2 / start - start, _slope(prediction, start)) + times(up, Z)
        return Table.of(filled(denoise, following, {0: D}))


@functools.lru_cache(maxsize=64)
def heun(prediction: str, clamp: float, sigmas: Sigmas) -> Table | None:
    """Row 2·i is Euler's step from the i-th σ; row 2·i + 1 repeats the step that ended there with the mean slope.

    Slot 0 takes x̂. Slot 1 takes, and then holds, the slope at the start; slot 2 holds the state there.
    """
    start, end = _ends(sigmas)
    denoise = _denoise(prediction, start)
    if denoise is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = _slope("clamped" if clamp else prediction, start)
        went = np.concatenate([[np.nan], (end - start)[:-1]])
        first = filled(denoise, X + times(end - start, slope), {0: D, 1: slope}, clamp=clamp)
        second = filled(denoise, S2 + times(went / 2, S1 + slope), {0: D}, clamp=clamp)
        return Table.of(np.stack([first, second], 1))


@functools.lru_cache(maxsize=64)
def flow_euler(stochastic: bool, sigmas: Sigmas) -> Table:
    """Euler's step along the velocity, or x̂ noised again; no slots."""
    start, end = _ends(sigmas)
    following = X + times(end - start, O)
    if stochastic:
        following = times(1 - end, X - times(start, O)) + times(end, Z)
    return Table.of(filled((1.0, -start), following, {}))


def _ends(sigmas: Sigmas) -> tuple[np.ndarray, np.ndarray]:
    levels = np.array(sigmas, dtype=np.float64)
    return levels[:-1], levels[1:]


def _denoise(prediction: str, sigma: np.ndarray) -> tuple[Numbers, Numbers] | None:
    """(u, v) of x̂ = u·x + v·output, where x = image + σ·noise and v is that of x/√(σ² + 1)."""
    found: dict[str, tuple[Numbers, Numbers]] = {
        "epsilon": (1.0, -sigma),
        "v_prediction": (1 / (sigma**2 + 1), -sigma / np.sqrt(sigma**2 + 1)),
        "sample": (0.0, 1.0),
        "original_sample": (0.0, 1.0),
    }
    return found.get(prediction)


def _slope(prediction: str, sigma: np.ndarray) -> Sums:
    """dx/dσ: the noise."""
    return np.tile(O, (len(sigma), 1)) if prediction == "epsilon" else times(1 / sigma, X - D)
