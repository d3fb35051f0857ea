"""Schedules that are lists of numbers: λ at some times, or the ᾱ of discrete diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .schedules import SMALLEST, VariancePreserving, angle


class Table(VariancePreserving):
    """λ on straight lines between given points, and along the first and the last line beyond them.

    times: rising, in [0, 1]. log_snr: λ at these times, finite and falling. At least two of each; ValueError otherwise.
    """

    def __init__(self, times: Tensor | Sequence[float], log_snr: Tensor | Sequence[float]) -> None:
        self._times, self._log_snr = _numbers(times, "times"), _numbers(log_snr, "log_snr")
        if self._times.shape != self._log_snr.shape:
            raise ValueError(
                f"times and log_snr must be as many, got {len(self._times)} times and {len(self._log_snr)} log_snr"
            )
        if not bool((self._times.diff() > 0).all()) or not 0 <= self._times[0] < self._times[-1] <= 1:
            raise ValueError(f"times must rise in [0, 1], got {self._times.tolist()}")
        if not bool((self._log_snr.diff() < 0).all()) or not bool(self._log_snr.isfinite().all()):
            raise ValueError(f"log_snr must be finite and fall, got {self._log_snr.tolist()}")

    def __repr__(self) -> str:
        return f"Table({len(self._times)} points from λ = {self._log_snr[0]:g} to {self._log_snr[-1]:g})"

    def log_snr(self, t: Tensor) -> Tensor:
        """The line's λ."""
        return _on_lines(t, self._times, self._log_snr)

    def time(self, log_snr: Tensor) -> Tensor:
        """The line's time."""
        return _on_lines(-log_snr, -self._log_snr, self._times)


class DiscreteVP(VariancePreserving):
    """Discrete diffusion in T steps as a schedule: entry i of ᾱ is α² at t = (i + 1)/T.

    Between two entries λ is linear in t, as where samplers of k-diffusion and diffusers ask for levels between steps.
    Before the first entry, and before a last one of 0, the angle of (α, σ) is: t = 0 is the image itself.

    alphas_cumprod: ᾱ, at least two numbers in [0, 1) that fall; only the last may be 0. ValueError otherwise.
    """

    def __init__(self, alphas_cumprod: Tensor | Sequence[float]) -> None:
        product = _numbers(alphas_cumprod, "alphas_cumprod")
        if not bool((product.diff() < 0).all()) or not 0 <= product[-1] < product[0] < 1:
            raise ValueError(f"alphas_cumprod must fall, from below 1 to no less than 0, got {product.tolist()}")
        self.alphas_cumprod = product
        finite = product[:-1] if product[-1] == 0 else product
        self._log_snr = finite.log() - torch.log1p(-finite)
        self._times = torch.arange(1, len(finite) + 1, dtype=torch.float64, device="cpu") / self.steps
        # Of the first entry from pure data, and of the last that is above 0 from pure noise.
        self._from_data = angle(-self._log_snr[0].item())
        self._from_noise = angle(self._log_snr[-1].item())

    @property
    def steps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def __repr__(self) -> str:
        return f"DiscreteVP({self.steps} steps down to ᾱ = {self.alphas_cumprod[-1]:.4g})"

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float]) -> DiscreteVP:
        """ᾱ is the running product of 1 − β (Ho et al., "Denoising diffusion probabilistic models", 2020).

        ValueError unless they lie in (0, 1); the last may be 1.
        """
        numbers = _numbers(betas, "betas")
        if not bool(((numbers > 0) & (numbers <= 1)).all()) or bool((numbers[:-1] == 1).any()):
            raise ValueError(f"betas must lie in (0, 1), got {numbers.min():g} to {numbers.max():g}")
        return cls(torch.cumprod(1 - numbers, 0))

    @classmethod
    def linear(cls, steps: int = 1000, *, beta_start: float | None = None, beta_end: float | None = None) -> DiscreteVP:
        """β evenly spaced, by default from 0.1/steps to 20/steps: for 1000 steps 1e-4 to 0.02 (Ho et al., 2020)."""
        _check_steps(steps)
        start, end = 0.1 / steps if beta_start is None else beta_start, 20 / steps if beta_end is None else beta_end
        return cls.from_betas(torch.linspace(start, end, steps, dtype=torch.float64, device="cpu"))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, *, beta_start: float = 0.00085, beta_end: float = 0.012) -> DiscreteVP:
        """√β evenly spaced (Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022)."""
        _check_steps(steps)
        if not (beta_start >= 0 and beta_end >= 0):
            raise ValueError(f"beta_start and beta_end must be at least 0, got {beta_start} and {beta_end}")
        return cls.from_betas(
            torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64, device="cpu") ** 2
        )

    @classmethod
    def cosine(cls, steps: int = 1000, *, offset: float = 0.008, beta_max: float = 0.999) -> DiscreteVP:
        """ᾱ is a squared cosine, but β stays below `beta_max` (Nichol and Dhariwal, 2021, equation 17)."""
        _check_steps(steps)
        shares = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
        product = torch.cos((shares + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls.from_betas((1 - product[1:] / product[:-1]).clamp_max(beta_max))

    @classmethod
    def sigmoid(cls, steps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> DiscreteVP:
        """β rises as the logistic function between −6 and 6 (Xu et al., "GeoDiff", 2022; "sigmoid" in diffusers)."""
        _check_steps(steps)
        shape = torch.linspace(-6, 6, steps, dtype=torch.float64, device="cpu").sigmoid()
        return cls.from_betas(shape * (beta_end - beta_start) + beta_start)

    def with_zero_terminal_snr(self) -> DiscreteVP:
        """√ᾱ shifted and scaled so that the last is 0 and the first stays.

        Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2023, algorithm 1.
        """
        alpha = self.alphas_cumprod.sqrt()
        return DiscreteVP(((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2)

    def alpha(self, t: Tensor) -> Tensor:
        """√ᾱ at the entries; 1 at t = 0."""
        return self._choose(t, torch.cos, self.levels(self._on_the_lines(t))[0], torch.sin)

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − ᾱ) at the entries; 0 at t = 0."""
        return self._choose(t, torch.sin, self.levels(self._on_the_lines(t))[1], torch.cos)

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(ᾱ/(1 − ᾱ)) at the entries; ±175 where α or σ is 0."""

        def of_angle(angle: Tensor) -> Tensor:
            return 2 * angle.clamp_min(SMALLEST).tan().log()

        return self._choose(t, lambda angle: -of_angle(angle), self._on_the_lines(t), of_angle)

    def _on_the_lines(self, t: Tensor) -> Tensor:
        return _on_lines(t, self._times, self._log_snr)

    def _choose(
        self, t: Tensor, first: Callable[[Tensor], Tensor], between: Tensor, last: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Of the angle from data before the first entry, `between`, of the angle from noise before a last 0."""
        place = t * self.steps
        value = torch.where(place < 1, first(self._from_data * place.clamp(0, 1)), between)
        if self.alphas_cumprod[-1] > 0:
            return value
        left = (1 - t) * self.steps
        return torch.where(left < 1, last(self._from_noise * left.clamp(0, 1)), value)

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse; beyond the last entry, where that is above 0, along its line."""
        t = _on_lines(-log_snr, -self._log_snr, self._times)
        first = torch.atan(torch.exp(-log_snr / 2)) / (self._from_data * self.steps)
        t = torch.where(log_snr > self._log_snr[0].item(), first, t)
        if self.alphas_cumprod[-1] > 0:
            return t
        last = 1 - torch.atan(torch.exp(log_snr / 2)) / (self._from_noise * self.steps)
        return torch.where(log_snr < self._log_snr[-1].item(), last, t)


def _check_steps(steps: int) -> None:
    if isinstance(steps, (int, float)) and steps > 2**24:
        raise ValueError(f"steps must be at most 2**24, more than float32 tells apart, got {steps}")
    if not isinstance(steps, int) or steps < 2:
        raise ValueError(f"steps must be a whole number of at least 2, got {steps}")


def _numbers(values: Tensor | Sequence[float], name: str) -> Tensor:
    numbers = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach().cpu()
    if numbers.dim() != 1 or len(numbers) < 2:
        raise ValueError(f"{name} must be two or more numbers in a row, got the shape {list(numbers.shape)}")
    return numbers


def _on_lines(x: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """The value at x on the lines between the points (at, values), `at` rising, and on the outer lines beyond them."""
    at, values = at.to(x), values.to(x)
    if len(at) == 1:  # a schedule's one entry above 0, which has no line, and no time but its own
        return values[0] + 0 * x
    right = torch.searchsorted(at, x.detach().contiguous(), right=True).clamp(1, len(at) - 1)
    start, end = at[right - 1], at[right]
    share = (x - start) / (end - start)
    return values[right - 1] + share * (values[right] - values[right - 1])
