"""Diffusion models so simple that their errors and gradients are known, for tests of measures by noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import DiffusionObjective, Schedule, convert


def seeds(count: int) -> Tensor:
    return ops.derive_seeds(3, torch.arange(count))


def gaussian_pictures(count: int, std: float, shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    return std * ops.gaussian(seeds(count), shape, stream=ops.Purpose.LABEL.stream())


def exact_denoiser(objective: DiffusionObjective, std: float):
    """What the objective's network would be for data N(0, std²)."""
    schedule: Schedule = objective.schedule

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        alpha, sigma = (level[:, None, None, None].double() for level in (schedule.alpha(t), schedule.sigma(t)))
        state = x_t.double() / objective.prediction.scale_input(torch.ones_like(alpha), alpha, sigma)
        x_hat = alpha * std**2 / (alpha**2 * std**2 + sigma**2) * state
        return convert(x_hat, state, alpha, sigma, "x", objective.prediction)

    return network


class Halves(nn.Module):
    """A network told λ, of which each half serves the levels on one side of 0: a linear map of a picture's pixels."""

    def __init__(self, pixels: int = 16) -> None:
        super().__init__()
        self.below, self.above = (nn.Linear(pixels, pixels) for _ in range(2))

    def forward(self, x_t: Tensor, log_snr: Tensor, labels: Tensor) -> Tensor:
        flat = x_t.flatten(1)
        return torch.where(log_snr[:, None] < 0, self.below(flat), self.above(flat)).view(x_t.shape)


class Opposed(nn.Module):
    """A network told λ that says one picture below λ = 0, and its negative above."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.picture = nn.Parameter(torch.zeros(shape))

    def forward(self, x_t: Tensor, log_snr: Tensor, labels: Tensor) -> Tensor:
        return log_snr.sign().view(-1, 1, 1, 1) * self.picture


class Gain(nn.Module):
    """x_t times a number."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.gain * x_t


class Restless(nn.Module):
    """A network with everything that a measure could change: buffers that count, dropout, random numbers of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout, self.frozen = nn.Conv2d(1, 1, 3, padding=1), nn.Dropout(0.5), nn.BatchNorm2d(1)
        self.frozen.eval().requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))
        self.layer.weight.grad = torch.ones_like(self.layer.weight)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert not self.training and not self.dropout.training
        self.calls += 1
        return self.dropout(self.frozen(self.layer(x_t))) + 1e-3 * torch.rand(())

    def state(self) -> dict[str, object]:
        """All there is to see of it, and of torch's random state."""
        grads = {f"{name}.grad": p.grad for name, p in self.named_parameters()}
        asked = {f"{name}.asked": p.requires_grad for name, p in self.named_parameters()}
        modes = {f"{name}.mode": module.training for name, module in self.named_modules()}
        tensors = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        return {**tensors, **grads, **asked, **modes, "random": torch.get_rng_state()}
