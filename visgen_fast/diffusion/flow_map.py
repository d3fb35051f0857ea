"""Flow maps: where the path of images leads from a state at one time to another time, in one step.

X(x, t→s) = α_s·x̂ + σ_s·ε̂, with the image x̂ and the noise ε̂ that the network's prediction F implies at x. That is
Euler's step (DDIM's) from t to s, and X(x, t→t) = x whatever F is. A diffusion model's F ignores s, so that a step has
an error; a few-step model's F knows s and makes the step exact. In F it is linear, with c and d of the prediction at t:

    X = P·x + Q·F,    P = (α_s·d − σ_s·c)/D,    Q = (α_t·σ_s − α_s·σ_t)/D,    D = α_t·d − σ_t·c

For rectified flow's velocity X = x − (t − s)·F; for v on a path of angles X = cos(Δ)·x − sin(Δ)·F, which is the
parametrization of consistency models (Song et al., 2023; Lu and Song, "sCM", 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from visgen_fast import ops

from ..nn.conditions import AnyCondition
from .networks import check_callable
from .plan import Plan
from .predictions import SMALLEST_LEVEL, Prediction, as_prediction, is_singular
from .schedules import Schedule, check_schedule

MOST_TIME_SCALE = 10.0
"""Of networks whose derivative in time is asked for: above it, float32 leaves little of that but noise."""

Network = Callable[..., Tensor]  # (x, t, labels, destination)


class FlowMap:
    """The flow map of a network on a schedule: called as (x, t, destination, labels) it gives X(x, t→destination).

    network: (x [B, ...], t [B], labels, destination [B]) → [B, ...], a prediction of the kind `prediction`.

    ValueError for a network that is told no destination, and for ε-prediction where the schedule's signal ends at 0.
    """

    def __init__(self, network: Network, schedule: Schedule, prediction: Prediction | str) -> None:
        check_callable(network, "network", "(x, t, labels, destination)")
        check_schedule(schedule)
        self.network, self.schedule, self.prediction = network, schedule, as_prediction(prediction)
        if getattr(bare(network), "embed_destination", ...) is None:
            raise ValueError("network must be told where a step leads: a DiT with destination=True")
        if is_singular(schedule, self.prediction):
            raise ValueError(
                f"prediction must be 'x', 'v' or 'velocity' on {schedule}, whose signal is 0 at t = 1, "
                f"got {self.prediction.name!r}"
            )

    @classmethod
    def of_diffusion(cls, model: Callable[..., Tensor], schedule: Schedule, prediction: Prediction | str) -> FlowMap:
        """The map of Euler's steps by a diffusion model (x, t, labels), whose prediction is the same for all ends."""
        return cls(lambda x, t, labels, destination: model(x, t, labels), schedule, prediction)

    def __call__(self, x: Tensor, t: Tensor, destination: Tensor, labels: AnyCondition) -> Tensor:
        """X(x, t→destination), float32 or float64. x: [B, ...]; t, destination: [B], falling on the way to the data."""
        return self.step(x, self.predict(x, t, destination, labels), t, destination)

    def predict(self, x: Tensor, t: Tensor, destination: Tensor, labels: AnyCondition) -> Tensor:
        """F, what the network says at x."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return self.network(self.prediction.scale_input(x, alpha, sigma), t, labels, destination)

    def step(self, x: Tensor, output: Tensor, t: Tensor, destination: Tensor) -> Tensor:
        """X = P·x + Q·output, float32 or float64; differentiable in x and output."""
        p, q = jump(self.schedule, self.prediction, t, destination)
        return combined((p, x), (q, output))

    def derivative(
        self,
        x: Tensor,
        t: Tensor,
        destination: Tensor,
        labels: AnyCondition,
        *,
        tangents: tuple[Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """(F, dF): the prediction, with its gradient, and its change along tangents of (x, t, destination), without.

        The change is exact, by `torch.func.jvp`: attention takes its math form for that, the only one that has a
        forward derivative, whatever wraps the network (autocast, `torch.compile`, data-parallel training). Both come of
        one dropout mask.

        ValueError in float16, which has too few digits, and for a network whose `time_scale` is above 10.
        """
        check_differentiable(self.network, x)
        with same_draws(x), without_gradient(), sdpa_kernel(SDPBackend.MATH):
            inner = FlowMap(bare(self.network), self.schedule, self.prediction)

            def of(x: Tensor, t: Tensor, destination: Tensor) -> Tensor:
                return inner.predict(x, t, destination, labels)

            found: Any = torch.func.jvp(of, (x.detach(), t, destination), tangents)
            output, rate = found
        if torch.is_grad_enabled():
            output = self.predict(x, t, destination, labels)
        return output, rate


def bare(network: Any) -> Any:
    """The network without `torch.compile`'s and data-parallel training's wrapping."""
    while True:
        if isinstance(network, nn.parallel.DistributedDataParallel):
            network = network.module
        elif isinstance(getattr(network, "_orig_mod", None), nn.Module):
            network = network._orig_mod
        else:
            return network


def check_differentiable(network: Any, x: Tensor | None = None) -> None:
    """ValueError unless the network can be differentiated in time, where it is given x; see `FlowMap.derivative`."""
    scale = getattr(bare(network), "time_scale", 1.0)
    if scale > MOST_TIME_SCALE:
        raise ValueError(
            f"time_scale must be at most {MOST_TIME_SCALE:g} where a loss differentiates time, since at 1000·t the "
            f"derivative is mostly noise, got {scale:g}: train with --time-scale 1"
        )
    if x is None:
        return
    kind = x.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    if half or x.dtype == torch.float16:
        raise ValueError("a derivative of time must be taken in float32 or bfloat16, got float16")


@contextmanager
def without_gradient() -> Iterator[None]:
    """No gradients, and no weights cast by autocast that a later call with gradients would find and not learn by."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


@contextmanager
def same_draws(x: Tensor) -> Iterator[None]:
    """Afterwards torch's random state is what it was, where gradients are on: a second call draws the same dropout."""
    if not torch.is_grad_enabled():
        yield
        return
    with torch.random.fork_rng([x.device.index or 0] if x.device.type == "cuda" else []):
        yield


# What follows is in float64, [B]: differences of nearby levels lose their digits.


def jump(schedule: Schedule, prediction: Prediction, t: Tensor, destination: Tensor) -> tuple[Tensor, Tensor]:
    """(P, Q) of X = P·x + Q·F."""
    t, s = t.double(), destination.double()
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    c, d = prediction.weights(alpha, sigma)
    determinant = _apart_from_zero(alpha * d - sigma * c)
    return (alpha_s * d - sigma_s * c) / determinant, (alpha * sigma_s - alpha_s * sigma) / determinant


def motion(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """(α', σ'), by which a state moves for 1 of t: dx_t/dt = α'·x + σ'·ε."""
    t = t.double()
    of_alpha, of_sigma = (
        torch.func.jvp(level, (t,), (torch.ones_like(t),))[1] for level in (schedule.alpha, schedule.sigma)
    )
    return of_alpha, of_sigma


def flow(schedule: Schedule, prediction: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B) of dx_t/dt = A·x_t + B·F, with F that of s = t."""
    t = t.double()
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    of_alpha, of_sigma = motion(schedule, t)
    c, d = prediction.weights(alpha, sigma)
    determinant = _apart_from_zero(alpha * d - sigma * c)
    return (of_alpha * d - of_sigma * c) / determinant, (of_sigma * alpha - of_alpha * sigma) / determinant


def _apart_from_zero(determinant: Tensor) -> Tensor:
    return torch.where(determinant.abs() < SMALLEST_LEVEL, SMALLEST_LEVEL, determinant)


def combined(*terms: tuple[Tensor, Tensor]) -> Tensor:
    """The sum of two or three weights [B] times tensors [B, ...] of one shape, in one pass; float32 or float64."""
    zero = torch.zeros_like(terms[0][0])
    (a, x), (b, noise), *rest = terms
    columns = [a, b, zero, zero, *(weight for weight, _ in rest), *[zero] * len(rest)]
    third = rest[0][1] if rest else None
    dtype = torch.promote_types(x.dtype, torch.float32)
    return ops.add_noise(x, torch.stack(columns, -1).to(dtype), endpoint=third, noise=noise, out_dtype=dtype)


def along(model: Network, plan: Plan) -> Callable[..., Tensor]:
    """A few-step model as `sample` calls networks, (x, t, labels), with a plan of one call a step.

    It is told the time that each step leads to, and 0 for the sampler "consistency", which jumps to the image and adds
    noise. ValueError for a plan of several calls a step, or one that keeps earlier outputs.
    """
    if plan.calls != plan.steps or plan.slots or plan.sampler not in ("euler", "ddim", "consistency"):
        raise ValueError(f"a few-step model must be drawn by euler, ddim or consistency, got {plan.sampler}")
    ends = torch.tensor([level.time for level in plan.ends], dtype=torch.float64)
    jumps = plan.sampler == "consistency"

    def network(x: Tensor, t: Tensor, labels: AnyCondition) -> Tensor:
        if jumps:
            return model(x, t, labels, torch.zeros_like(t))
        own = ends.to(t.device, t.dtype)
        return model(x, t, labels, own[(own >= t[:, None]).sum(1)])

    return network
