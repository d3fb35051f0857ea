"""What few-step objectives reach where the truth is known, and what a step costs: `python -m benchmarks.flow_maps`.

mixture: on a mixture of two Gaussians of variance 1 in one dimension, where the exact map keeps quantiles, each rule
trains a small network; the root mean square error of its one step stands beside that of the teacher's Euler step.
step: a `consistency` step around networks of no cost (guided teacher's step, noise, target, loss, gradient), against
the same in plain PyTorch, with the peak memory in pictures.

Written to benchmarks/results/flow_maps: results.json.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import (
    CosineVP,
    FlowMap,
    LevelTimes,
    Normal,
    RectifiedFlow,
    Schedule,
    TrajectoryObjective,
    as_prediction,
)

from . import studies
from .machine import describe, provenance
from .timing import peak_memory

PLACE, SPREAD = 0.95, math.sqrt(1 - 0.95**2)  # of the two Gaussians at ±PLACE
RULES: dict[str, dict[str, Any]] = {
    "progressive": {"steps": 16, "boundary": 0.0},
    "shortcut": {"steps": 32, "boundary": 0.25},
    "consistency": {"steps": 32, "boundary": 0.0},
    "scm": {"boundary": 0.25},
    "mean_flow": {"boundary": 0.25},
    "lagrangian": {"boundary": 0.25},
    "mean_flow from data": {"boundary": 0.5},
    "improved mean_flow from data": {"boundary": 0.5, "tangent": "predicted"},
    "consistency_training from data": {"steps": 8, "boundary": 0.5},
}


class Network(nn.Module):
    """x [B, 1], t and s [B] to a prediction [B, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(layer for size in (6, 128, 128) for layer in (nn.Linear(size, 128), nn.SiLU())))
        self.output = nn.Linear(128, 1)

    def forward(self, x: Tensor, t: Tensor, labels: object, s: Tensor) -> Tensor:
        t, s = t[:, None], s[:, None]
        return self.output(self.layers(torch.cat((x, t, s, t - s, (2 * t).cos(), (2 * s).cos()), 1)))


def draw(seeds: Tensor) -> Tensor:
    """Samples of the mixture, [B, 1]."""
    side = torch.where(ops.uniform(seeds, (1,), stream=101) > 0.5, PLACE, -PLACE)
    return side + SPREAD * ops.gaussian(seeds, (1,), stream=102)


def exact_teacher(schedule: Schedule, prediction: str) -> Callable[..., Tensor]:
    """The best prediction of the mixture."""

    def teacher(x: Tensor, t: Tensor, labels: object) -> Tensor:
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        spread = (alpha * SPREAD) ** 2 + sigma**2
        side = PLACE * torch.tanh(alpha * PLACE * x / spread)
        image = side + alpha * SPREAD**2 / spread * (x - alpha * side)
        c, d = as_prediction(prediction).weights(alpha, sigma)
        return c * image + d * (x - alpha * image) / sigma.clamp_min(1e-6)

    return teacher


def exact_end(noise: Tensor) -> Tensor:
    """Where the exact map leads from pure noise: the quantile that it has, among the mixture's, by bisection."""
    share = torch.special.ndtr(noise.double())
    low, high = torch.full_like(share, -6.0), torch.full_like(share, 6.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = sum(0.5 * torch.special.ndtr((middle - side * PLACE) / SPREAD) for side in (-1, 1))
        low, high = torch.where(below < share, middle, low), torch.where(below < share, high, middle)
    return (low + high) / 2


def mixture(name: str, steps: int, *, batch: int = 1024, rate: float = 2e-3) -> dict[str, Any]:
    """The one-step error of a network that learned by this rule, and of its teacher."""
    torch.manual_seed(0)
    rule = name.removesuffix(" from data").removeprefix("improved ")
    schedule, prediction = (CosineVP(), "v") if rule == "scm" else (RectifiedFlow(), "velocity")
    teacher = exact_teacher(schedule, prediction)
    options = dict(RULES[name])
    if rule == "scm":
        options["times"] = LevelTimes(schedule, Normal(-1.0, 3.5))
    objective = TrajectoryObjective(
        rule, schedule, prediction, teacher=None if name.endswith("from data") else teacher, **options
    )
    network = Network()
    optimizer = torch.optim.Adam(network.parameters())
    average = copy.deepcopy(network)
    began = time.monotonic()
    for step in range(steps):
        _enter(name, objective, average, step, steps)
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        seeds = ops.derive_seeds(0, torch.arange(batch) + step * batch)
        optimizer.zero_grad()
        objective(network, draw(seeds), torch.zeros_like(seeds), seeds).mean().backward()
        optimizer.step()
        with torch.no_grad():
            for mean, own in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(own, 1 - min(0.995, (1 + step) / (10 + step)))
    seconds = time.monotonic() - began
    noise = ops.gaussian(ops.derive_seeds(1, torch.arange(4096)), (1,))
    start, end = torch.ones(4096), torch.zeros(4096)
    with torch.no_grad():
        ends = [
            one(noise, start, end, None)
            for one in (
                FlowMap(average, schedule, prediction),
                FlowMap.of_diffusion(teacher, schedule, prediction),
            )
        ]
    errors = [float((found - exact_end(noise)).square().mean().sqrt()) for found in ends]
    return {"rule": name, "error": errors[0], "euler": errors[1], "steps": steps, "seconds": seconds}


def _enter(name: str, objective: TrajectoryObjective, average: Network, step: int, steps: int) -> None:
    """Grids that change with the step: rounds that halve, or intervals that double."""
    if objective.name == "scm":
        objective.warmup = min(1.0, 4 * step / steps)
    if objective.name == "consistency_training":
        objective.steps = 8 * 2 ** (3 * step // steps)
    if objective.name == "progressive":
        number = 5 * step // steps
        if number > 0 and objective.steps != 16 // 2**number:
            objective.teacher = FlowMap(copy.deepcopy(average), objective.schedule, objective.prediction)
        objective.steps = 16 // 2**number


def consistency_step(shape: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Milliseconds and peak memory of a step around networks of no cost, ours and in plain PyTorch."""
    seeds = ops.derive_seeds(0, torch.arange(shape[0]))
    x, labels = ops.gaussian(seeds, shape[1:]), torch.zeros_like(seeds)
    objective = TrajectoryObjective(
        *("consistency", RectifiedFlow(), "velocity"),
        teacher=lambda x, t, labels: x,
        guidance=2.0,
        null_label=1,
        boundary=0.0,
    )

    def ours(_: Any = None) -> None:
        objective(_free, x, labels, seeds).sum().backward()

    def plain(_: Any = None) -> None:
        span = objective.span(seeds)
        t, middle = (time.view(-1, 1, 1, 1) for time in (span.t, span.middle))
        noise = torch.randn_like(x)
        with torch.no_grad():
            x_t = (1 - t) * x + t * noise
            guided = x_t + (2.0 - 1) * (x_t - x_t)
            state = x_t - (t - middle) * guided
            target = (x_t - (state - middle * state)) / t
        output = x_t.clone().requires_grad_()
        torch.nn.functional.mse_loss(output, target, reduction="none").flatten(1).mean(1).sum().backward()

    times: dict[str, list[float]] = {"ours": [], "eager": []}
    for _ in range(repeats):
        for name, run in (("ours", ours), ("eager", plain)):
            began = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - began))
    best = {name: min(values) for name, values in times.items()}
    picture = x.numel() * x.element_size()
    memory = {name: peak_memory(run, None, "cpu") / picture for name, run in (("ours", ours), ("eager", plain))}
    return {
        "shape": list(shape),
        "milliseconds": best,
        "times_faster": best["eager"] / best["ours"],
        "pictures": memory,
    }


def _free(x: Tensor, t: Tensor, labels: Tensor, s: Tensor) -> Tensor:
    """A network that costs nothing: it predicts the image that it is given, and requires a gradient."""
    return x.detach().requires_grad_() if torch.is_grad_enabled() else x


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow_maps", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["mixture", "step"], default=["mixture", "step"])
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=studies.Path, default=studies.RESULTS / "flow_maps")
    options = parser.parse_args(arguments)
    entries = []
    if "mixture" in options.parts:
        for rule in options.rules:
            entries.append({"part": "mixture", **mixture(rule, options.steps)})
            print(entries[-1], flush=True)
    if "step" in options.parts:
        entries.append({"part": "step", **consistency_step((16, 3, 256, 256), options.repeats)})
        print(entries[-1], flush=True)
    studies.write_results(options.out / "results.json", {"study": "flow maps", **provenance(describe("cpu"))}, entries)
    return 0


if __name__ == "__main__":
    sys.exit(main())
