"""Paths between two images: a coupling, an interpolant and a target, of which the latter two are rows of `diffuse`.

x is the end at t = 0, the endpoint that at t = 1; between them x_t = a·x + b·z + e·endpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from visgen_fast import ops

from .. import _check as check
from ..nn.conditions import AnyCondition
from ..reference.solve import COLUMNS, NEXT, SLOT_A, SLOT_B, TIME
from .networks import check_asked, parted

INTERPOLANTS = ("linear", "trigonometric", "brownian")
TARGETS = ("velocity", "forward_drift", "backward_drift", "noise", "endpoint", "start")
_STATE, _OUTPUT, _NOISE = 0, 2, 7  # operands of a row of `ops.solver_step`


def bridge_coefficients(interpolant: str, target: str, t: Tensor, *, sigma: float = 0.0) -> Tensor:
    """Rows (a, b, c, d, e, f) for `ops.diffuse` and `ops.denoising_loss` with an endpoint.

    Args:
        interpolant: "linear", (1 − t)·x + t·endpoint + σ·z; "trigonometric", cos(πt/2)·x + sin(πt/2)·endpoint + σ·z; or
            "brownian", (1 − t)·x + t·endpoint + σ·√(t(1 − t))·z, a Brownian bridge.
        target: "velocity", dx_t/dt for the three as they are; of a Brownian bridge "forward_drift",
            (endpoint − x_t)/(1 − t), and "backward_drift", (x − x_t)/t; "noise", z; "endpoint"; "start", x.
        t: times in [0, 1], [B], float32 or float64.
        sigma: σ, at least 0.

    Returns:
        [B, 6] of the type of t, differentiable in t.

    Raises:
        TypeError, ValueError: an unknown name, a negative sigma, a drift of another path than the Brownian one, times
            outside [0, 1], and 0 and 1 themselves for the drifts and the velocity of a Brownian bridge, which are not
            finite there.

    Sources: Albergo, Boffi and Vanden-Eijnden, "Stochastic interpolants", 2023; Tong et al., "Improving and
    generalizing flow-based generative models with minibatch optimal transport", 2024; Shi et al., "Diffusion
    Schrödinger bridge matching", 2023, for the drifts.
    """
    check.one_of(interpolant, "interpolant", INTERPOLANTS)
    check.one_of(target, "target", TARGETS)
    check.floats(t, "t")
    check.real(sigma, "sigma", 0)
    brownian, moving = interpolant == "brownian", target in ("velocity", "forward_drift", "backward_drift")
    if target.endswith("drift") and not brownian:
        raise ValueError(f"target {target} must be of the interpolant brownian, got {interpolant}")
    inside = "(0, 1)" if brownian and moving else "[0, 1]"
    allowed = (t > 0) & (t < 1) if brownian and moving else (t >= 0) & (t <= 1)
    if not bool(allowed.all()):
        raise ValueError(f"t must lie in {inside} for the {target} of a {interpolant} path, got {t.tolist()!s:.80}")
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    if interpolant == "trigonometric":
        angle = t * (math.pi / 2)
        a, e = angle.cos(), angle.sin()
        rise_a, rise_e = -math.pi / 2 * e, math.pi / 2 * a
    else:
        a, e, rise_a, rise_e = 1 - t, t, -one, one
    b = sigma * (t * (1 - t)).sqrt() if brownian else sigma * one
    if target == "velocity":
        c, d, f = rise_a, sigma**2 * (1 - 2 * t) / (2 * b) if brownian and sigma > 0 else zero, rise_e
    elif target == "forward_drift":
        c, d, f = -one, -sigma * (t / (1 - t)).sqrt(), one
    elif target == "backward_drift":
        c, d, f = one, -sigma * ((1 - t) / t).sqrt(), -one
    else:
        c, d, f = (one if target == name else zero for name in ("start", "noise", "endpoint"))
    return torch.stack((a, b, c, d, e, f), -1)


@torch.no_grad()
def sample_bridge(
    network: Callable[..., Tensor],
    start: Tensor,
    seeds: Tensor,
    labels: AnyCondition = None,
    *,
    sigma: float,
    direction: str,
    steps: int,
    final_noise: bool = True,
    path: bool = False,
    callback: Callable[[int, float, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """From one end to the other, in equal steps of h = 1/steps: x + h·drift + σ·√h·z (Euler and Maruyama).

    Args:
        network: network(x_t, t [B], labels) → [B, …]: with noise the drift along the direction, `forward_drift` or
            `backward_drift`; without, σ = 0, the `velocity` from t = 0 to 1, which is followed backwards too.
        start: [B, …], the end to begin at: that at t = 0 for "forward", at t = 1 for "backward".
        seeds: int64 [B]; their noise is all that is random. labels: of any kind, or None.
        sigma: σ, at least 0. direction: "forward" or "backward". steps: at least 1.
        final_noise: whether the last step adds noise too, as the path has it; images are seen better without.
        path: return all states instead of the last one: [steps + 1, B, …], the start first.
        callback: called with (step, t, x_t, x_t) before each step, from 0 on.

    Returns:
        [B, …] of the type of `start`.

    Raises:
        TypeError, ValueError: an argument that does not fit, a negative sigma, a network that returns another shape.
    """
    check_asked(network, labels, seeds)
    check.floats(start, "start")
    if start.dim() == 0 or len(start) != len(seeds):
        raise ValueError(f"start must be [{len(seeds)}, …], a sample for each seed, got shape {list(start.shape)}")
    check.real(sigma, "sigma", 0)
    backward = bool(check.one_of(direction, "direction", ("forward", "backward")))
    check.integer(steps, "steps", 1)
    table = _euler(steps, sigma, backward, final_noise).to(start.device)
    times = table[:, TIME].tolist()
    state, states = start, [start]
    for step, time in enumerate(times):
        if callback is not None:
            callback(step, time, state, state)
        output, _ = parted(network(state, torch.full((len(state),), time, device=state.device), labels), state)
        noise = seeds if sigma > 0 else None
        state, _ = ops.solver_step(state, output, table, step, seeds=noise, stream=ops.Purpose.SAMPLER.stream())
        states.append(state)
    return torch.stack(states) if path else state


def _euler(steps: int, sigma: float, backward: bool, final_noise: bool) -> Tensor:
    """The table of `sample_bridge`, float64 [steps, 32]."""
    table = torch.zeros(steps, COLUMNS, dtype=torch.float64)
    gone = torch.arange(steps, dtype=torch.float64) / steps
    table[:, TIME] = 1 - gone if backward else gone
    table[:, [SLOT_A, SLOT_B]] = -1
    table[:, NEXT + _STATE] = 1
    table[:, NEXT + _OUTPUT] = -1 / steps if backward and sigma == 0 else 1 / steps
    table[:, NEXT + _NOISE] = sigma * steps**-0.5
    if not final_noise:
        table[-1, NEXT + _NOISE] = 0
    return table
