"""What tests of guidance share: networks, and the output that a guidance makes of theirs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from visgen_fast.diffusion import (
    CosineVP,
    Plan,
    RectifiedFlow,
    plan,
    to_x,
)
from visgen_fast.diffusion.guiding import Guidance, Guided, Guiding, Run
from visgen_fast.nn.conditions import AnyCondition

STEPS = plan("euler", RectifiedFlow(), "velocity", steps=4)


LABELS = torch.tensor([3, 5])


KINDS = [(CosineVP(), "v"), (CosineVP(), "epsilon"), (RectifiedFlow(), "velocity"), (CosineVP(), "edm")]


class Recorder:
    """A linear network in x, t and label that counts its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        self.batches.append(len(x_t))
        return self.answer(x_t, t, labels)

    @staticmethod
    def answer(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x_t * (1 + labels[:, None]) + t[:, None]


def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """One that is not linear, for images of any shape."""
    shape = -1, *[1] * (x_t.dim() - 1)
    return torch.sin(3 * x_t + t.view(shape) + labels.view(shape)) + 0.1 * labels.view(shape)


def began(guidance: Guidance, model: Callable, labels: AnyCondition, batch: int, steps: Plan = STEPS) -> Guiding:
    return guidance.begin(Run(model, steps, labels, batch, torch.float64, torch.device("cpu")))


def summed(guided: Guided, row: int) -> Tensor:
    """The output that a sampler's step makes of what the guidance gives."""
    if guided.weights is None:
        return guided.outputs[0]
    batch, shape = len(guided.outputs[0]), (-1, *[1] * (guided.outputs[0].dim() - 1))
    weights = guided.weights[row if len(guided.weights) > 1 else 0].expand(batch, -1)
    return sum(weights[:, j].view(shape) * output for j, output in enumerate(guided.outputs))


def combined(guidance: Guidance, model, x_t: Tensor, labels: AnyCondition, row: int = 2, steps: Plan = STEPS) -> Tensor:
    """The output of the first call of a run that begins with this row."""
    guiding = began(guidance, model, labels, len(x_t), steps)
    return summed(guiding.evaluate(x_t, steps.times[row].expand(len(x_t)), row), row)


def images(key: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(key))


def both(x: Tensor, row: int, steps: Plan = STEPS) -> tuple[Tensor, Tensor]:
    t = steps.times[row].expand(len(x))
    return network(x, t, LABELS), network(x, t, torch.full_like(LABELS, 10))


def as_images(output: Tensor, x: Tensor, row: int, steps: Plan) -> Tensor:
    """x̂ of an output, where x is what the network read."""
    alpha, sigma = steps.schedule.alpha(steps.times[row]), steps.schedule.sigma(steps.times[row])
    scale = steps.prediction.input_scale
    return to_x(output, x if scale is None else x / scale(alpha, sigma), alpha, sigma, steps.prediction)
