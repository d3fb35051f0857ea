"""Systems from runs: the one that a recipe describes, the one that a checkpoint holds, and weights for another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.images import ImageFormat, Images
from ..errors import UserError
from ..models.classifier import Classifier
from ..training import checkpoint
from ..training.checkpoint import Checkpoint
from ..training.settings import TrainingSettings, settings_from
from ..training.system import System
from ._images import ImageSettings, test_part
from .budget import require_fit
from .recipe import Recipe
from .registry import trained_recipe


def load_system(path: str | os.PathLike[str], *, recipe: str | os.PathLike[str] | None = None) -> System:
    """The trained system of the run or of the checkpoint at `path`, with the averaged weights, in evaluation mode.

    Its networks are its attributes: `prior.model` of a diffusion model, `tokenizer` of a tokenizer's; a system of codes
    has `model`, that of the codes, and `tokenizer`, what encodes images and decodes codes. `recipe` is the Python file
    of a recipe of one's own; a checkpoint that names one runs nothing. Raises `UserError` where there is no checkpoint
    that can be read.
    """
    _, _, system = trained(checkpoint.read(Path(path)), None if recipe is None else Path(recipe))
    return system


def trained(saved: Checkpoint, file: Path | None = None) -> tuple[Recipe[Any], TrainingSettings, System]:
    """A checkpoint's recipe, its settings, and its system with the averaged weights, in evaluation mode.

    `file` is that of a recipe of the user's own. Whoever wrote the checkpoint, it decides neither what code runs nor
    how much memory is taken beyond that of its weights.
    """
    recipe = trained_recipe(saved.value("recipe", str), file)
    settings = settings_from(recipe.settings, saved.state["settings"])
    images = saved.images
    require_fit(lambda: build(recipe, settings, images, saved), saved.all_tensors())
    try:
        system = build(recipe, settings, images, saved)
    except RuntimeError as error:  # of torch, about sizes
        raise saved.damaged(f"no network can be built with its settings ({error})") from error
    saved.load_averaged(system)
    return recipe, settings, system.eval()


def build(
    recipe: Recipe[Any], settings: TrainingSettings, images: ImageFormat, saved: Checkpoint | None = None
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
    except ArithmeticError as error:
        raise UserError(f"no network can be built with these settings: {error}") from error


def images_to_measure(recipe: Recipe[Any], settings: TrainingSettings) -> tuple[Images, bool]:
    """Images that the recipe never trains on, and True; where there are none, those that it trains on, and False."""
    if recipe.held_out is not None:
        return recipe.held_out(settings), True
    kept = test_part(settings) if isinstance(settings, ImageSettings) else None
    return (recipe.pictures(settings), False) if kept is None else (kept, True)


def averaged_weights(path: Path, modules: Sequence[str], argument: str) -> dict[str, Tensor]:
    """The state dict of the first of a system's sub-modules `modules` that it has, by its moving average; {} for none.

    `path` is a run's or a checkpoint's; `UserError`, which names the command line's `argument`, unless it can be read.
    """
    try:
        return checkpoint.read(path).module(*modules)
    except UserError as error:
        raise UserError(f"{argument}: {error}") from error


def trained_classifier(path: Path, channels: int) -> Classifier:
    """The classifier of the run, or of the checkpoint, at `path`, in evaluation mode.

    The run is one of this recipe, or that of a tokenizer, whose checkpoints keep the classifier that it was given.
    Raises `UserError`, which names the argument --features, unless there is one for images of `channels` channels.
    """
    tensors = averaged_weights(path, ("classifier", "features"), "--features")
    try:
        classifier = Classifier.of_state(tensors)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"--features must be a run of the recipe classifier, but {path} holds no classifier") from error
    if classifier.channels != channels:
        raise UserError(
            f"--features must be a classifier of images of {channels} channels, but the one in {path} sees "
            f"{classifier.channels}"
        )
    return classifier.eval()
