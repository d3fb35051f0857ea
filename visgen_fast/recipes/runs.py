"""Systems from runs: the one that a recipe describes, the one that a checkpoint holds, and weights for another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from ..data.images import ImageFormat
from ..errors import UserError
from ..training import checkpoint
from ..training.checkpoint import Checkpoint
from ..training.settings import TrainingSettings, settings_from
from ..training.system import System
from .registry import load_recipe


def averaged_weights(path: Path, modules: Sequence[str], argument: str) -> dict[str, Tensor]:
    """The state dict of the first of a system's sub-modules `modules` that it has, by its moving average; {} for none.

    `path` is a run's or a checkpoint's; `UserError`, which names the command line's `argument`, unless it can be read.
    """
    try:
        return checkpoint.read(path).module(*modules)
    except UserError as error:
        raise UserError(f"{argument}: {error}") from error


def build(
    recipe: ModuleType, settings: TrainingSettings, images: ImageFormat, saved: Checkpoint | None = None
) -> System:
    """The recipe's system; settings that don't fit together or don't fit the images are the user's mistake.

    With a checkpoint `saved` of the run, what the run took from others comes from there: those may be gone by now.
    """
    if saved is not None:
        given = {name: getattr(settings, name) for name in settings.OTHER_RUNS}
        there: dict[str, Any] = {
            name: str(saved.path) for name, run in given.items() if run and run == saved.state["settings"].get(name)
        }
        settings = replace(settings, **there)
    try:
        return recipe.system(settings, images)
    except ValueError as error:
        raise UserError(str(error)) from error


def trained(saved: Checkpoint) -> tuple[ModuleType, TrainingSettings, System]:
    """A checkpoint's recipe, its settings, and its system with the averaged weights, in evaluation mode."""
    recipe = load_recipe(saved.value("recipe", str))
    settings = settings_from(recipe.Settings, saved.state["settings"])
    system = build(recipe, settings, saved.images, saved)
    saved.load_averaged(system)
    return recipe, settings, system.eval()
