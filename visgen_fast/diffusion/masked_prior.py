"""A prior that draws an image's vectors in random order, several in a step, each by a small flow: MAR.

Li et al., "Autoregressive image generation without vector quantization", 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .. import _check as check
from .. import ops
from ..autoregression.masking import mask_counts, random_mask
from ..data.images import to_range
from ..models.layers.patches import patchify, unpatchify
from ..nn.conditions import AnyCondition, Condition, Null, concatenate, null_like
from ..nn.prior import Prior
from .objective import DiffusionObjective
from .plan import plan
from .sampling import Callback, sample
from .schedules import RectifiedFlow
from .times import LogitNormalTimes

_REPEATED = 4  # noises of a vector for each pass of the transformer
_SHARE, _SPREAD, _LEAST = 1.0, 0.25, 0.7  # of the vectors that are hidden: a normal cut to [least, 1]


class Network(Protocol):
    """What `models.MAR` is to the prior."""

    grid: tuple[int, ...]
    length: int
    dimensions: int
    flow: Callable[[Tensor, Tensor, Tensor], Tensor]

    def features(self, vectors: Tensor, hidden: Tensor, condition: AnyCondition = None) -> Tensor: ...


@dataclass(frozen=True)
class MaskedSampling:
    """How vectors are drawn.

    steps: passes of the transformer; flow_steps: of the flow at each; guidance: of the flow, which grows from 1 to its
    weight as fewer vectors are hidden; temperature: the deviation of the noise that the flow begins with.
    """

    steps: int = 16
    guidance: float = 1.0
    temperature: float = 1.0
    flow_steps: int = 25


class MaskedPrior(Prior):
    """A `models.MAR` of patches of x [B, C, H, W], and how it draws: masked, but without codes and a likelihood.

    Training hides a random share of the patches, and a rectified flow learns to draw each of them from what the
    transformer says of its place. Drawing takes them in a random order, which a sample's seed decides.
    """

    def __init__(self, model: nn.Module, patch_size: int, sampler: MaskedSampling) -> None:
        super().__init__()
        self.model, self.patch_size, self.sampler = model, patch_size, sampler
        self.objective = DiffusionObjective(RectifiedFlow(), "velocity", LogitNormalTimes(mean=0.0, std=1.0))

    @property
    def network(self) -> Network:
        """The model, as what is known of it."""
        return self.model  # type: ignore[return-value]

    def loss(self, x: Tensor, condition: AnyCondition, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        vectors = patchify(to_range(x) if x.dtype == torch.uint8 else x, self.patch_size)
        everywhere = torch.ones(vectors.shape[:2], dtype=torch.bool, device=x.device)
        hidden = random_mask(seeds, hidden_share(seeds), everywhere)
        found = self.network.features(vectors, hidden, condition)
        sample_of, place_of = hidden.nonzero(as_tuple=True)
        own = torch.cat([_seeds_of(seeds[sample_of], place_of, number) for number in range(_REPEATED)])
        told = Condition(pooled=found[hidden].repeat(_REPEATED, 1))
        losses = self.objective(self._flow, vectors[hidden].repeat(_REPEATED, 1), told, own)
        total = x.new_zeros(len(x), dtype=losses.dtype).index_add(0, sample_of.repeat(_REPEATED), losses)
        return total / (_REPEATED * hidden.sum(1))

    @torch.no_grad()
    def draw(
        self,
        shape: tuple[int, ...],
        condition: AnyCondition,
        seeds: Tensor,
        *,
        null: Null = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Tensor:
        settings, model = self._settings(options), self.network
        batch, length = len(seeds), model.length
        if settings.guidance != 1:
            condition = concatenate([condition, null_like(condition, null)])
        turn = ops.uniform(seeds, (length,), stream=ops.Purpose.ORDER.stream()).argsort(1).argsort(1)
        vectors = torch.zeros(batch, length, model.dimensions, device=seeds.device)
        left = [*mask_counts(torch.tensor([length]), settings.steps)[:-1, 0].tolist(), 0]
        drawn = 0
        for step, remaining in enumerate(left):
            hidden, upto = turn >= drawn, length - remaining
            now = hidden & (turn < upto)
            drawn = upto
            if not bool(now.any()):
                continue
            guided = 2 if settings.guidance != 1 else 1
            found = model.features(vectors.repeat(guided, 1, 1), hidden.repeat(guided, 1), condition)
            told = torch.cat([part[now] for part in found.chunk(guided)], -1)
            scale = 1 + (settings.guidance - 1) * upto / length
            sample_of, place_of = now.nonzero(as_tuple=True)
            own = _seeds_of(seeds[sample_of], place_of, step)
            vectors[now] = self._drawn(told, own, scale, settings)
            if callback is not None:
                images = unpatchify(vectors, self.patch_size, (shape[-2], shape[-1]))
                callback(step, remaining / length, images, images)
        return unpatchify(vectors, self.patch_size, (shape[-2], shape[-1]))

    def options(self, **asked: Any) -> dict[str, Any]:
        return asdict(self._settings(asked))

    def _drawn(self, told: Tensor, seeds: Tensor, scale: float, settings: MaskedSampling) -> Tensor:
        """Vectors [M, D] of places with features [M, width], or [M, 2·width], the unconditional ones after them."""
        steps = plan("euler", self.objective.schedule, self.objective.prediction, steps=settings.flow_steps)
        shape = (self.network.dimensions,)
        noise = settings.temperature * ops.gaussian(seeds, shape, stream=ops.Purpose.INITIAL_STATE.stream())
        flow = self._flow if settings.guidance == 1 else _Guided(self._flow, scale)
        return sample(flow, steps, shape, Condition(pooled=told), seeds, noise=noise)

    def _flow(self, x: Tensor, t: Tensor, condition: AnyCondition) -> Tensor:
        assert isinstance(condition, Condition) and condition.pooled is not None
        return self.network.flow(x, t, condition.pooled)

    def _settings(self, asked: dict[str, Any]) -> MaskedSampling:
        check.options(asked, [field.name for field in fields(MaskedSampling)], "a masked model of vectors")
        settings = replace(self.sampler, **{name: value for name, value in asked.items() if value is not None})
        for name in ("steps", "flow_steps"):
            check.integer(getattr(settings, name), name, 1)
        if not 0 <= settings.temperature < math.inf:
            raise ValueError(f"temperature must be at least 0 and finite, got {settings.temperature}")
        return settings


class _Guided:
    """u + scale·(c − u) of a flow, whose conditions hold the conditional features and then the unconditional."""

    def __init__(self, flow: Callable[[Tensor, Tensor, AnyCondition], Tensor], scale: float) -> None:
        self.flow, self.scale = flow, scale

    def __call__(self, x: Tensor, t: Tensor, condition: AnyCondition) -> Tensor:
        assert isinstance(condition, Condition) and condition.pooled is not None
        both = torch.cat(condition.pooled.chunk(2, -1))
        conditional, unconditional = self.flow(x.repeat(2, 1), t.repeat(2), Condition(pooled=both)).chunk(2)
        return unconditional + self.scale * (conditional - unconditional)


def hidden_share(seeds: Tensor) -> Tensor:
    """The shares of vectors to hide: a normal of mean 1 and deviation 1/4, cut to [0.7, 1]; float64 [B]."""
    u = ops.uniform(seeds, (1,), stream=ops.Purpose.ORDER.stream(1), dtype=torch.float64)[:, 0]
    normal = torch.distributions.Normal(_SHARE, _SPREAD)
    low, high = (float(normal.cdf(torch.tensor(end, dtype=torch.float64))) for end in (_LEAST, 1.0))
    return normal.icdf(low + (high - low) * u).clamp(_LEAST, 1)


def _seeds_of(seeds: Tensor, places: Tensor, step: int) -> Tensor:
    """A seed for each vector, of its sample's seed and its place: int64 [M]."""
    return ops.derive_seeds(seeds, places, step=step, purpose=ops.Purpose.SAMPLER)
