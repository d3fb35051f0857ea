"""Flow maps that are known exactly: of Gaussian data N(mean, deviation²), on straight and on angular paths."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from visgen_fast.diffusion import CosineVP, RectifiedFlow, Schedule
from visgen_fast.diffusion.flow_map import FlowMap

PATHS: dict[str, tuple[Schedule, str]] = {"straight": (RectifiedFlow(), "velocity"), "angles": (CosineVP(), "v")}
MEAN, DEVIATION = 0.4, 0.6


def exact_network(path: str, scale: float = 1.0) -> Callable[..., Tensor]:
    """F of the exact map, without 0/0 where destination = t; times `scale`."""
    schedule = PATHS[path][0]

    def spread(t: Tensor) -> Tensor:
        return (schedule.alpha(t).square() * DEVIATION**2 + schedule.sigma(t).square()).sqrt()

    def network(x: Tensor, t: Tensor, labels: object, destination: Tensor) -> Tensor:
        t, s = (time.view(-1, *[1] * (x.dim() - 1)) for time in (t, destination))
        alpha, sigma, here, there = schedule.alpha(t), schedule.sigma(t), spread(t), spread(s)
        centred = x - alpha * MEAN
        if path == "straight":
            slope = (DEVIATION**2 * (t + s - 2) + t + s) / (here * (here + there))
            return scale * (centred * slope - MEAN)
        cos = alpha * schedule.alpha(s) + sigma * schedule.sigma(s)
        sin = sigma * schedule.alpha(s) - alpha * schedule.sigma(s)
        more = (1 - DEVIATION**2) * alpha * (sigma * cos + schedule.sigma(s)) - DEVIATION**2 * sin
        return scale * (centred * more / (here * (here * cos + there)) - sigma * MEAN)

    return network


def exact_map(path: str, scale: float = 1.0) -> FlowMap:
    schedule, prediction = PATHS[path]
    return FlowMap(exact_network(path, scale), schedule, prediction)


def known_end(path: str, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Where the exact map leads."""
    schedule = PATHS[path][0]
    spread = [(schedule.alpha(at).square() * DEVIATION**2 + schedule.sigma(at).square()).sqrt() for at in (t, s)]
    t, s, here, there = (each.view(-1, *[1] * (x.dim() - 1)) for each in (t, s, *spread))
    return schedule.alpha(s) * MEAN + there / here * (x - schedule.alpha(t) * MEAN)
