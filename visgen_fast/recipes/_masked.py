"""What the recipes of masked models of codes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from ..autoregression.model import CodeModel
from ..systems.masked import MaskedSampling, MaskedSystem
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


def masked_drawing(settings: MaskedSettings) -> MaskedSampling:
    """How the settings say that codes are drawn."""
    steps, schedule, chance = settings.sampling_steps, settings.mask_schedule, settings.choice_temperature
    return MaskedSampling(**vars(drawing(settings)), steps=steps, schedule=schedule, choice_temperature=chance)


def masked_system(settings: MaskedSettings, model: CodeModel, tokenizer: nn.Module) -> MaskedSystem:
    """The model with the tokenizer of its codes, to train and draw with as the settings say."""
    rest = settings.label_drop, settings.label_smoothing
    return MaskedSystem(model, tokenizer, masked_drawing(settings), *rest)
