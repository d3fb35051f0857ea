"""Samplers as the papers write them, under k-diffusion's names: they stand for that package where it is not installed.

Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, algorithm 2 (euler, heun);
Lu et al., "DPM-Solver", 2022, algorithms 1 and 2 and appendix D.4 (fast); "DPM-Solver++", 2022, algorithm 2 (2M), and
its form with noise.
"""

from __future__ import annotations

import math

import torch
from tqdm.auto import tqdm, trange

__all__ = ["tqdm", "trange"]


def get_sigmas_karras(n, sigma_min, sigma_max, rho=7.0, device="cpu"):
    levels = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n, device=device) ** rho
    return torch.cat([levels, torch.zeros(1, device=device)])


def default_noise_sampler(x):
    return lambda *levels: torch.randn_like(x)


class BrownianTreeNoiseSampler:
    """Noise as a function of the levels' last bits, like that of a Brownian path."""

    def __init__(self, x, sigma_min, sigma_max):
        self.x, self.ends, self.seed = x, (float(sigma_min), float(sigma_max)), torch.initial_seed()

    def __call__(self, sigma, sigma_next):
        of = hash((*self.ends, float(sigma), float(sigma_next), self.seed)) % 2**62
        generator = torch.Generator().manual_seed(of)
        return torch.randn(self.x.shape, generator=generator, dtype=torch.float64).to(self.x)


def _steps(model, x, sigmas, extra_args, callback, disable, churn=None):
    """(where the step begins and ends, the state there, its denoised image, the network at any level), a step each.

    What is sent becomes the state. Samplers with `churn` = (amount, least, most, loudness) draw noise in every step.
    """
    amount, least, most, loudness = churn or (0.0, 0.0, math.inf, 1.0)

    ones = torch.ones(len(x), dtype=x.dtype)

    def network(x, level):
        return model(x, level * ones, **(extra_args or {}))

    for i in trange(len(sigmas) - 1, disable=disable):
        fresh, level = torch.randn_like(x) if churn else None, sigmas[i]
        if amount > 0 and least <= level <= most:
            level = level * (1 + min(amount / (len(sigmas) - 1), 0.41421356237309515))
            x = x + loudness * fresh * (level.square() - sigmas[i].square()).sqrt()
        denoised = network(x, level)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": level, "denoised": denoised})
        x = yield level, sigmas[i + 1], x, denoised, network


def _slope(level, x, denoised):
    """With the type of `level` too, as k-diffusion's."""
    return (x - denoised) / level.view([1] * x.dim())


def _run(steps, follow):
    x, at = None, None
    while True:
        try:
            at = next(steps) if at is None else steps.send(x)
        except StopIteration:
            return x
        x = follow(*at)


@torch.no_grad()
def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None, s_churn=0.0, s_tmin=0.0,
                 s_tmax=float("inf"), s_noise=1.0):  # fmt: skip
    steps = _steps(model, x, sigmas, extra_args, callback, disable, (s_churn, s_tmin, s_tmax, s_noise))
    return _run(steps, lambda level, end, x, denoised, _: denoised + end * _slope(level, x, denoised))


@torch.no_grad()
def sample_heun(model, x, sigmas, extra_args=None, callback=None, disable=None, s_churn=0.0, s_tmin=0.0,
                s_tmax=float("inf"), s_noise=1.0):  # fmt: skip
    def follow(level, end, x, denoised, network):
        first = denoised + end * _slope(level, x, denoised)
        if end == 0:
            return first
        slopes = _slope(level, x, denoised) + _slope(end, first, network(first, end))
        return x + 0.5 * (end - level) * slopes

    return _run(_steps(model, x, sigmas, extra_args, callback, disable, (s_churn, s_tmin, s_tmax, s_noise)), follow)


@torch.no_grad()
def sample_euler_ancestral(model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0, s_noise=1.0,
                           noise_sampler=None):  # fmt: skip
    noise = default_noise_sampler(x) if noise_sampler is None else noise_sampler

    def follow(level, end, x, denoised, _):
        up = torch.minimum(end, eta * end * (1 - (end / level) ** 2).sqrt())
        down = (end.square() - up.square()).sqrt()
        x = denoised + down * _slope(level, x, denoised)
        return x + s_noise * up * noise(level, end) if end > 0 else x

    return _run(_steps(model, x, sigmas, extra_args, callback, disable), follow)


@torch.no_grad()
def sample_dpmpp_2m(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return _second_order(_steps(model, x, sigmas, extra_args, callback, disable), 0.0, None)


@torch.no_grad()
def sample_dpmpp_2m_sde(model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0, s_noise=1.0,
                        noise_sampler=None, solver_type="midpoint"):  # fmt: skip
    given = sigmas[sigmas > 0].min(), sigmas.max()
    noise = BrownianTreeNoiseSampler(x, *given) if noise_sampler is None else noise_sampler
    steps = _steps(model, x, sigmas, extra_args, callback, disable)
    return _second_order(steps, eta, lambda *levels: s_noise * noise(*levels), solver_type)


def _second_order(steps, eta, noise, solver_type="midpoint"):
    """The denoised image as a line in ln σ, integrated with the noise that shrinks at the rate 1 + η."""
    known = []  # (ln σ, denoised)

    def follow(level, end, x, denoised, _):
        known.append((level.log(), denoised))
        if end == 0:
            return denoised
        h = level.log() - end.log()
        gain = 1 - torch.exp(-(1 + eta) * h)
        x = end / level * torch.exp(-eta * h) * x + gain * denoised
        if len(known) > 1:
            slope = (denoised - known[-2][1]) / (known[-2][0] - level.log())
            x = x + slope * (0.5 * gain * h if solver_type == "midpoint" else h - gain / (1 + eta))
        if eta:
            x = x + end * (1 - torch.exp(-2 * eta * h)).sqrt() * noise(level, end)
        return x

    return _run(steps, follow)


@torch.no_grad()
def sample_dpm_fast(model, x, sigma_min, sigma_max, n, extra_args=None, callback=None, disable=None, eta=0.0,
                    s_noise=1.0, noise_sampler=None):  # fmt: skip
    noise = default_noise_sampler(x) if noise_sampler is None else noise_sampler
    orders = [3] * (n // 3 - 1) + [2, 1] if n % 3 == 0 else [3] * (n // 3) + [n % 3]
    ends = [torch.tensor(sigma).log() for sigma in (sigma_max, sigma_min)]
    logs = torch.linspace(*ends, len(orders) + 1)
    with tqdm(total=n, disable=disable) as bar:

        def slope(x, log):
            bar.update()
            return (x - model(x, log.exp() * torch.ones(len(x), dtype=x.dtype), **(extra_args or {}))) / log.exp()

        for i, order in enumerate(orders):
            start, to = logs[i], logs[i + 1]
            first = slope(x, start)
            if callback is not None:
                level = start.exp()
                known = {"x": x, "i": i, "t": -start, "t_up": -start, "denoised": x - level * first}
                callback({**known, "sigma": level, "sigma_hat": level})
            up = torch.zeros(())
            if eta:
                up = torch.minimum(to.exp(), eta * to.exp() * (1 - (2 * (to - start)).exp()).sqrt())
                low = torch.maximum(ends[1], 0.5 * (to.exp().square() - up.square()).log())
                up, to = (to.exp().square() - low.exp().square()).sqrt(), low
            x = _single(order, slope, x, first, start, to)
            if eta:
                x = x + s_noise * up * noise(start.exp(), logs[i + 1].exp())
    return x


def _single(order, slope, x, first, start, to):
    """One step of DPM-Solver-1, -2 or -3 in ln σ, whose first slope is known."""

    def moved(log, later=None, share=1.0):
        h = start - log
        straight = x + (log.exp() - start.exp()) * first
        return straight if later is None else straight - log.exp() / share * ((h.exp() - 1) / h - 1) * (later - first)

    if order == 1:
        return moved(to)
    if order == 2:
        middle = 0.5 * (start + to)
        return x + (to.exp() - start.exp()) * slope(moved(middle), middle)
    third, two_thirds = (start + share * (to - start) for share in (1 / 3, 2 / 3))
    later = slope(moved(third), third)
    return moved(to, slope(moved(two_thirds, later, 1 / 2), two_thirds), 2 / 3)
