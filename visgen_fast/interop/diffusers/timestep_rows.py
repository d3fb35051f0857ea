"""The rows of diffusers' schedulers that look the signal's share up by the timestep, one for each of `timesteps`.

`alphas` are those shares, ᾱ = α², of all the network's timesteps; `final` is what stands behind the last one.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from .tables import D, O, Sums, Table, X, Z, converted, filled, times

Numbers = tuple[float, ...]
Times = tuple[int, ...]
DATA_STD = 0.5
"""Of the data that consistency models are made for, in diffusers' scalings."""


@functools.lru_cache(maxsize=64)
def ddpm(prediction: str, variance: str, clamp: float, alphas: Numbers, timesteps: Times) -> Table | None:
    """Ho et al., "Denoising diffusion probabilistic models", 2020, equation 7; slot 0 takes x̂."""
    at = _shares(alphas, timesteps)
    before = _shares(alphas, (*timesteps[1:], -1), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        denoise = converted(prediction, np.sqrt(at), np.sqrt(1 - at), to_noise=False)
        if denoise is None or prediction not in _PREDICTIONS:
            return None
        kept = _kept(at, before)
        beta = 1 - kept
        small = np.maximum((1 - before) / (1 - at) * beta, 1e-20)
        noise = {
            "fixed_small": np.sqrt(small),
            "fixed_small_log": np.sqrt(small),
            "fixed_large": np.sqrt(beta),
            "fixed_large_log": np.sqrt(beta),
            "learned_range": np.ones_like(beta),
        }.get(variance)
        if noise is None:
            return None
        following = times(np.sqrt(before) * beta / (1 - at), D) + times(np.sqrt(kept) * (1 - before) / (1 - at), X)
        following = following + times(np.where(np.array(timesteps) > 0, noise, 0.0), Z)
        low, high = np.log(small), np.log(np.maximum(beta, 1e-20))
        middle = ((low + high) / 2, (high - low) / 2)
        return Table.of(filled(denoise, following, {0: D}, clamp=clamp, log_variance=middle), timesteps)


@functools.lru_cache(maxsize=64)
def ddim(
    prediction: str,
    eta: float,
    from_clipped: bool,
    clamp: float,
    alphas: Numbers,
    final: float,
    timesteps: Times,
    by: int,
) -> Table | None:
    """Song et al., "Denoising diffusion implicit models", 2021, equation 12, to the timestep less `by`.

    The noise is what the output says, also where x̂ was clamped, unless `from_clipped`. Slot 0 takes x̂.
    """
    at, before = _shares(alphas, timesteps), _shares(alphas, tuple(time - by for time in timesteps), final)
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha, sigma = np.sqrt(at), np.sqrt(1 - at)
        denoise = converted(prediction, alpha, sigma, to_noise=False)
        if denoise is None or prediction not in _PREDICTIONS:
            return None
        noise = times(1 / sigma, X) - times(alpha / sigma, D) if from_clipped else _noise(prediction, alpha, sigma)
        fresh = eta**2 * (1 - before) / (1 - at) * (1 - _kept(at, before))
        following = times(np.sqrt(before), D) + times(np.sqrt(np.maximum(1 - before - fresh, 0)), noise)
        following = following + times(np.sqrt(np.maximum(fresh, 0)), Z)
        return Table.of(filled(denoise, following, {0: D}, clamp=clamp), timesteps)


@functools.lru_cache(maxsize=64)
def consistency(
    prediction: str, clamp: float, scaling: float, alphas: Numbers, steps: int, timesteps: Times
) -> Table | None:
    """Luo et al., "Latent consistency models", 2023, algorithm 3: denoised, which slot 0 takes, and noised again."""
    at, before = _shares(alphas, timesteps), _shares(alphas, (*timesteps[1:], *timesteps[-1:]))
    with np.errstate(divide="ignore", invalid="ignore"):
        denoise = converted(prediction, np.sqrt(at), np.sqrt(1 - at), to_noise=False)
        if denoise is None or prediction not in _PREDICTIONS:
            return None
        scaled = np.array(timesteps) * scaling
        denoised = times(scaled / np.hypot(scaled, DATA_STD), D) + times(DATA_STD**2 / (scaled**2 + DATA_STD**2), X)
        again = np.arange(len(timesteps)) != steps - 1
        following = times(np.where(again, np.sqrt(before), 1), denoised) + times(
            np.where(again, np.sqrt(1 - before), 0), Z
        )
        return Table.of(filled(denoise, following, {0: denoised}, clamp=clamp), timesteps)


@functools.lru_cache(maxsize=64)
def trajectory_consistency(prediction: str, eta: float, alphas: Numbers, steps: int, timesteps: Times) -> Table | None:
    """Zheng et al., "Trajectory consistency distillation", 2024, algorithm 4: to (1 − η)·t', then noise up to t'.

    Slot 0 takes the state in between.
    """
    ends = (*timesteps[1:], 0)
    between = tuple(torch.floor((1 - eta) * torch.tensor(ends)).long().tolist())  # rounded as diffusers does
    at, before, middle = _shares(alphas, timesteps), _shares(alphas, ends), _shares(alphas, between)
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha, sigma = np.sqrt(at), np.sqrt(1 - at)
        denoise = converted(prediction, alpha, sigma, to_noise=False)
        if denoise is None or prediction not in _PREDICTIONS:
            return None
        noised = times(np.sqrt(middle), D) + times(np.sqrt(1 - middle), _noise(prediction, alpha, sigma))
        again = (np.arange(len(timesteps)) != steps - 1) & (eta > 0)
        kept = np.where(again, before / middle, 1.0)
        following = times(np.sqrt(kept), noised) + times(np.sqrt(np.maximum(1 - kept, 0)), Z)
        return Table.of(filled(denoise, following, {0: noised}), timesteps)


_PREDICTIONS = ("epsilon", "sample", "v_prediction")


def _shares(alphas: Numbers, timesteps: Times, final: float = 1.0) -> np.ndarray:
    return np.array([alphas[time] if time >= 0 else final for time in timesteps], dtype=np.float64)


def _kept(at: np.ndarray, before: np.ndarray) -> np.ndarray:
    """ᾱ/ᾱ', rounded as diffusers does: what is left of 1 − ᾱ/ᾱ' at the last steps owes as much to rounding as to β."""
    single = (at.astype(np.float32), before.astype(np.float32))
    return (single[0] / single[1]).astype(np.float64) if (single[0] == at).all() else at / before


def _noise(prediction: str, alpha: np.ndarray, sigma: np.ndarray) -> Sums:
    """The noise by the output itself, whatever became of x̂."""
    weights = converted(prediction, alpha, sigma, to_noise=True)
    assert weights is not None
    return times(weights[0], X) + times(weights[1], O)
