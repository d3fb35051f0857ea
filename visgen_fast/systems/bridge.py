"""What is trained when a path between two sets of images is, and how it is followed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import _check as check
from .. import ops
from ..data.images import Images, in_chunks, to_range
from ..data.order import Batch
from ..diffusion.bridges import bridge_coefficients, sample_bridge
from ..diffusion.couplings import check_ends, optimal
from ..diffusion.guidance import drop_labels
from ..diffusion.guiding import Interval
from ..evaluation.fid import FeatureMoments, frechet_distance
from .classes import check_labels, guidance_after
from .ends import End
from .generative import GenerativeSystem

Network = Callable[..., Tensor]


@dataclass(frozen=True)
class BridgeSampling:
    """How a path is followed: in so many steps, "backward" to images or "forward" from them.

    guidance: weight of the label on the way back, 1 is none beyond what training gave; interval: the times where it is
    guided, all by default.
    """

    steps: int
    guidance: float = 1.0
    interval: Interval | None = None
    direction: str = "backward"


class PathSystem(GenerativeSystem):
    """A path between images at t = 0 and an end at t = 1, which networks follow in both directions.

    start, end: what lies there. sigma: of the noise on the way, 0 for none.
    """

    def __init__(
        self, shape: tuple[int, ...], start: End, end: End, drawing: BridgeSampling, sigma: float, classes: int
    ) -> None:
        super().__init__()
        self.shape, self.start, self.end, self.drawing, self.sigma = shape, start, end, drawing, sigma
        self.classes, self.label_drop = classes, 0.0

    def network(self, direction: str) -> Network:
        """What `sample_bridge` follows in this direction, unguided."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self, labels: Tensor, seeds: Tensor, *, callback: Callable[..., None] | None = None, **options: Any
    ) -> Tensor:
        check_labels(labels, self.classes)
        settings = self._settings(options)
        backward = settings.direction == "backward"
        begun = self.end.draw(seeds) if backward else self.start.draw(seeds, labels)
        network = guided(self.network(settings.direction), self.classes, settings.guidance, settings.interval)
        return sample_bridge(
            *(network, begun, seeds, labels),
            sigma=self.sigma,
            direction=settings.direction,
            steps=settings.steps,
            final_noise=False,
            callback=callback,
        )

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """The path's energy and both its ends, from as many draws of the one end as there are images of the other.

        path_energy: E∫‖drift‖² dt on the way back to the images; optimal_cost: the mean ‖x − endpoint‖² of the best
        coupling of these images and draws, below which no deterministic path comes but by chance. start_distance,
        end_distance: Fréchet distances, in pixels, of what the path makes from what lies there.
        """
        parts = [(shown, labels) for shown, labels in in_chunks(images, device)]
        x, labels = (torch.cat(kind) for kind in zip(*parts, strict=True))
        seeds = ops.derive_seeds(0, torch.arange(len(x), device=device), purpose=ops.Purpose.LIKELIHOOD)
        ends = self.end.draw(seeds)
        options: dict[str, Any] = {"sigma": self.sigma, "steps": self.drawing.steps, "final_noise": False}
        meter = Meter(self.network("backward"))
        made = sample_bridge(meter, ends, seeds, labels, direction="backward", **options)
        found = {
            "path_energy": float(meter.total / self.drawing.steps),
            "optimal_cost": float((x - ends[optimal(x, ends)]).double().square().flatten(1).sum(1).mean()),
            "start_distance": _distance(made, x),
        }
        reached = sample_bridge(self.network("forward"), x, seeds, labels, direction="forward", **options)
        return {**found, "end_distance": _distance(reached, ends)}

    def options(self, **asked: Any) -> dict[str, Any]:
        return {name: value for name, value in asdict(self._settings(asked)).items() if value is not None}

    def _settings(self, asked: dict[str, Any]) -> BridgeSampling:
        asked = {name: value for name, value in asked.items() if value is not None}
        check.options(asked, [field.name for field in fields(BridgeSampling)], "a path between two ends")
        wanted = replace(self.drawing, **asked)
        if wanted.direction not in ("forward", "backward"):
            raise ValueError(f"direction must be forward or backward, got {wanted.direction!r}")
        if wanted.direction == "forward" and "guidance" not in asked:
            return replace(wanted, guidance=1.0)
        guidance = guidance_after(self.label_drop, wanted.guidance, asked="guidance" in asked)
        return replace(wanted, guidance=guidance)


class BridgeSystem(PathSystem):
    """A class-conditional network `model(x_t, t, labels)` of the velocity from images to their endpoints.

    coupled: whether images and endpoints of a micro-batch and a class are paired by optimal transport, with
    `regularization` as of `diffusion.optimal`; otherwise as they come.
    """

    def __init__(
        self,
        model: nn.Module,
        *ends: Any,
        coupled: bool = True,
        regularization: float = 0.0,
        spread: float = 0.0,
        label_drop: float = 0.0,
    ) -> None:
        super().__init__(*ends)
        self.model, self.coupled, self.regularization, self.spread = model, coupled, regularization, spread
        self.label_drop = label_drop

    @property
    def per_micro_batch(self) -> tuple[str, ...]:
        return (*super().per_micro_batch, *(("couplings",) if self.coupled else ()))

    def forward(self, batch: Batch) -> Tensor:
        x, seeds = to_range(batch.images), batch.seeds
        endpoint = self.end.draw(seeds)
        check_ends(x, endpoint)
        if self.coupled:
            chosen = optimal(x, endpoint, labels=batch.labels, regularization=self.regularization, seeds=seeds)
            endpoint = endpoint[chosen]
        labels = drop_labels(batch.labels, seeds, self.label_drop, self.classes)
        t = ops.uniform(seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1)
        return regression(self.model, x, endpoint, labels, seeds, t, "linear", "velocity", self.spread)

    def network(self, direction: str) -> Network:
        return self.model


def regression(
    model: Network,
    x: Tensor,
    endpoint: Tensor,
    labels: Any,
    seeds: Tensor,
    t: Tensor,
    interpolant: str,
    target: str,
    sigma: float,
) -> Tensor:
    """The mean square error of a network's target at times t, [B]; the noise is the seeds'."""
    rows = bridge_coefficients(interpolant, target, t, sigma=sigma)
    output = model(ops.add_noise(x, rows, seeds, endpoint=endpoint), t, labels)
    losses = ops.denoising_loss(output, x, rows, seeds, endpoint=endpoint, reduction="none")
    assert isinstance(losses, Tensor)  # without `terms`
    return losses


def guided(network: Network, null: int, weight: float, interval: Interval | None = None) -> Network:
    """The network with classifier-free guidance at the times of the interval: u + weight·(c − u)."""
    if weight == 1:
        return network
    low, high = (0.0, 1.0) if interval is None else interval

    def both(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        if not low <= float(t[0]) <= high:
            return network(x, t, labels)
        absent = torch.full_like(labels, null)
        told, untold = network(torch.cat((x, x)), torch.cat((t, t)), torch.cat((labels, absent))).chunk(2)
        return untold + weight * (told - untold)

    return both


class Meter:
    """A network, and the sum over its calls of the mean of ‖output‖²."""

    def __init__(self, network: Network) -> None:
        self.network, self.total = network, torch.zeros((), dtype=torch.float64)

    def __call__(self, x: Tensor, t: Tensor, labels: Any) -> Tensor:
        output = self.network(x, t, labels)
        self.total = self.total + output.double().square().flatten(1).sum(1).mean().cpu()
        return output


def _distance(made: Tensor, real: Tensor) -> float:
    """The Fréchet distance of two sets of images [N, C, H, W], of their pixels averaged to at most 8×8."""
    moments = []
    for images in (made, real):
        factor = max(1, math.ceil(max(images.shape[2:]) / 8))
        moments.append(FeatureMoments())
        moments[-1].add(nn.functional.avg_pool2d(images, factor, ceil_mode=True).flatten(1).cpu())
    return frechet_distance(*moments)
