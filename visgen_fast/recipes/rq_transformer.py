"""RQ-Transformer: stacks of codes place by place, and within a place depth by depth.

Lee et al., "Autoregressive image generation using residual quantization", 2022, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..autoregression.prior import CodePrior
from ..data.images import ImageFormat
from ..errors import UserError
from ..models.space_depth_model import SpaceDepthModel
from ..systems.codes import CodeSystem
from ..systems.soft_codes import SoftCodeSystem
from ..training.bounds import AtLeast, Between
from ._codes import drawing, parts
from ._first_stage import FirstStageSettings, first_stage
from ._images import held_out_images, training_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(FirstStageSettings):
    """A transformer over the places of a tokenizer's grid, and another over the codes of a place."""

    inner_depth: Annotated[int, AtLeast(1)] = 2
    """Blocks of the transformer over the codes of a place; depth is that of the one over the places."""
    soft_targets: Annotated[float, Between(0, 1e6)] = 0.0
    """τ of the targets softmax(−‖residual − code‖²/τ), which know of the codes nearby; 0 takes the nearest alone."""
    stochastic_codes: bool = False
    """Train on codes drawn from these targets, in the place of the nearest ones."""


def system(settings: Settings, images: ImageFormat) -> CodeSystem:
    """The system these settings describe, for images of this format. `UserError` where the first stage doesn't fit."""
    stage = first_stage(settings, images, kinds=("rq-vae",))
    *grid, codes = stage.shape
    if codes == 1:
        raise UserError(
            f"--first-stage must have several codes at a place, but {settings.first_stage} has one: token-gpt models it"
        )
    model = SpaceDepthModel(
        grid,
        codes,
        stage.tokenizer.quantizer.size,
        inner_depth=settings.inner_depth,
        **settings.network(images),
    )
    made = SoftCodeSystem(
        *parts(settings, CodePrior(model, drawing(settings)), stage.tokenizer),
        temperature=settings.soft_targets,
        stochastic=settings.stochastic_codes,
    )
    made.remembered = {"first_stage": stage.origin}
    return made


RECIPE = Recipe(Settings, training_images, system, held_out_images)
