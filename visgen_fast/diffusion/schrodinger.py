"""Diffusion Schrödinger bridges: what a network learns from a trajectory that the other one made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _check as check

TARGETS = ("mean", "previous", "terminal", "flow")


def reversed_target(
    path: Tensor,
    place: Tensor,
    target: str,
    *,
    direction: str,
    drift: Callable[..., Tensor] | None = None,
    labels: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(x_t, t [B], target) of states on trajectories, for the network that goes the other way.

    Args:
        path: [steps + 1, B, …], as `sample_bridge(…, path=True)` makes it in `direction`.
        place: int64 [B], which state of each trajectory, from 1 to steps.
        target: a drift, in units of time, towards "previous", the state before; or "mean", the same where the noise
            between the two states is taken out; or "flow", (start − x_t) over the time gone. Or "terminal", the start
            itself, of which `drift_to` makes a drift.
        direction: in which the trajectories went, "forward" or "backward".
        drift: the network drift(x, t, labels) that made them, which "mean" asks; None where they are Brownian motion.

    Returns:
        x_t and target [B, …], t [B].

    Raises:
        TypeError, ValueError: an argument of another kind, an unknown name, or places out of range.

    Sources: De Bortoli et al., "Diffusion Schrödinger bridge with applications to score-based generative modeling",
    2021, equation 12, for the mean; Tang et al., "Simplified diffusion Schrödinger bridge", 2024, for the others.
    """
    check.one_of(target, "target", TARGETS)
    backward = bool(check.one_of(direction, "direction", ("forward", "backward")))
    steps, batch = len(path) - 1, path.shape[1]
    if place.shape != (batch,) or (batch and not 1 <= int(place.min()) <= int(place.max()) <= steps):
        raise ValueError(f"place must be {batch} numbers from 1 to {steps}, got {place.tolist()!s:.80}")
    each = torch.arange(batch, device=path.device)
    here, before, start = path[place, each], path[place - 1, each], path[0]
    gone = (place / steps).to(path.dtype)
    t = 1 - gone if backward else gone
    if target == "terminal":
        return here, t, start
    if target == "flow":
        return here, t, (start - here) / _per_sample(gone, here)
    back = (before - here) * steps
    if target == "mean" and drift is not None:
        earlier = t + 1 / steps if backward else t - 1 / steps
        back = back + drift(before, earlier, labels) - drift(here, earlier, labels)
    return here, t, back


def drift_to(network: Callable[..., Tensor], direction: str) -> Callable[..., Tensor]:
    """A network of the "terminal" target as a drift in `direction`: (network − x_t) over the time that is left."""
    backward = bool(check.one_of(direction, "direction", ("forward", "backward")))

    def drift(x: Tensor, t: Tensor, labels: Any) -> Tensor:
        left = t if backward else 1 - t
        return (network(x, t, labels) - x) / _per_sample(left, x)

    return drift


def _per_sample(value: Tensor, x: Tensor) -> Tensor:
    return value.view(-1, *[1] * (x.dim() - 1))
