"""Expert denoisers: the network of an EDM run goes on as several, each for an interval of noise.

Balaji et al., "eDiff-I: text-to-image diffusion models with an ensemble of expert denoisers", 2022, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch

from ..data.images import ImageFormat
from ..diffusion.prior import DiffusionPrior
from ..errors import UserError
from ..models.experts import Experts
from ..systems.experts import ExpertsSystem
from ..training import checkpoint
from ..training.bounds import Between
from ..training.settings import settings_from
from ..untrusted import escaped
from . import edm
from ._diffusion import DIT_PRESETS, dit
from ._images import all_images
from .recipe import Recipe
from .runs import averaged_weights

# What must be the shared run's, for its weights to mean the same here.
_SAME = ("patch_size", "width", "depth", "heads", "data_std")


@dataclass(frozen=True, kw_only=True)
class Settings(edm.Settings):
    """Class-conditional diffusion as in EDM, by a network for each interval of noise."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = ("shared",)

    shared: str = ""
    """A run of the recipe edm, of the same sizes, as whose network every expert begins; or one of this recipe, with
    fewer edges. Without one they begin untrained."""
    edges: Annotated[tuple[float, ...], Between(0, 1, "()")] = (0.5,)
    """Shares of the training noise, rising, at which one expert ends and the next begins; halves are the first fork."""

    def __post_init__(self) -> None:
        # As for the data: a run means the same from every working directory.
        if isinstance(self.shared, str) and self.shared:
            object.__setattr__(self, "shared", str(Path(self.shared).absolute()))
        super().__post_init__()


def system(settings: Settings, images: ImageFormat) -> ExpertsSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    if sorted({*settings.edges}) != [*settings.edges]:
        raise ValueError(f"edges must rise, got {settings.edges}")
    one = edm.system(settings, images)
    prior = one.prior
    assert isinstance(prior, DiffusionPrior)
    times = prior.objective.times.quantile(torch.tensor(settings.edges, dtype=torch.float64, device="cpu"))
    experts = Experts([dit(settings, images) for _ in range(len(settings.edges) + 1)], times.tolist())
    if settings.shared:
        _fork(experts, settings)
    prior = DiffusionPrior(experts, prior.objective, prior.sampler)
    return ExpertsSystem(prior, one.condition, one.first_stage, settings.edges)


def _fork(experts: Experts, settings: Settings) -> None:
    """Gives each expert the averaged weights of the network that has its noise in the shared run.

    That is the network of an EDM run, or the expert of a run of this recipe: of one with fewer edges, which goes on as
    a tree does, or of this run itself.
    """
    path = Path(settings.shared)
    weights, saved = averaged_weights(path, ("prior.model",), "--shared"), checkpoint.read(path)
    if saved.state["recipe"] not in ("edm", "expert-denoisers"):
        raise UserError(f"--shared must be a run of the recipe edm, but {path} is of {escaped(saved.state['recipe'])}")
    forked = saved.state["recipe"] == "expert-denoisers"
    shared = settings_from(Settings if forked else edm.Settings, saved.state["settings"])
    for name in _SAME:
        there, here = getattr(shared, name), getattr(settings, name)
        if there != here:
            raise UserError(f"--{name.replace('_', '-')} must be that of the shared run, {there}, got {here}")
    edges = shared.edges if isinstance(shared, Settings) else ()
    for low, expert in zip((0.0, *settings.edges), experts.experts, strict=True):
        inside = f"experts.{sum(edge <= low for edge in edges)}." if forked else ""
        own = {key.removeprefix(inside): tensor for key, tensor in weights.items() if key.startswith(inside)}
        try:
            expert.load_state_dict(own)
        except RuntimeError as error:
            raise UserError(f"--shared must be a run on images of the same format, but {path} is not") from error


RECIPE = Recipe(Settings, all_images, system, presets=DIT_PRESETS)
