"""What `visgen-fast sample --prompt` tells a model of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..recipes.recipe import Recipe
    from ..systems.generative import GenerativeSystem
    from ..training.settings import TrainingSettings


def tell(system: GenerativeSystem, recipe: Recipe[Any], settings: TrainingSettings, prompts: Sequence[str]) -> None:
    """Makes the labels of `system` numbers of these texts.

    `UserError` for a model of classes, for an empty text, and where there is no text encoder like the run's.
    """
    from ..nn.text_condition import TextCondition
    from ..recipes._text import TextSettings, encoded
    from ..systems.prior import PriorSystem

    texts = system.condition if isinstance(system, PriorSystem) else None
    if not isinstance(texts, TextCondition) or not isinstance(settings, TextSettings):
        raise UserError(f"--prompt is for a model of texts, and the recipe {recipe.name} trains none: give --labels")
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("--prompt must not be empty")
    try:
        texts.tell(encoded(settings, prompts))
    except ValueError as error:
        raise UserError(f"--prompt needs the text encoder of the run: {error}") from error
