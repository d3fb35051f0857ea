"""What the recipes of masked models of codes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..autoregression.masked_prior import MaskedCodePrior, MaskedSampling
from ..autoregression.model import CodeModel
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS
from ._codes import drawing
from ._first_stage import FirstStageSettings


@dataclass(frozen=True, kw_only=True)
class MaskedSettings(FirstStageSettings):
    """A masked model of the codes of a tokenizer."""

    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 12
    """Steps in which the codes are drawn, several in each."""
    mask_schedule: Literal["cosine", "linear", "arccos"] = "cosine"
    """Share of the codes that is hidden, in training and after each step of drawing."""
    choice_temperature: Annotated[float, Between(0, 1000)] = 4.5
    """How much chance decides which codes a step keeps; at 0 the surest ones."""
    label_smoothing: Annotated[float, Between(0, 1, "[)")] = 0.1
    """Share of the target that all codes have alike."""
    guidance_ramp: bool = True


def masked_prior(settings: MaskedSettings, model: CodeModel) -> MaskedCodePrior:
    """The model, to train and to draw with as the settings say."""
    steps, schedule, chance = settings.sampling_steps, settings.mask_schedule, settings.choice_temperature
    sampler = MaskedSampling(**vars(drawing(settings)), steps=steps, schedule=schedule, choice_temperature=chance)
    return MaskedCodePrior(model, sampler, settings.label_smoothing)
