"""What a recipe is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..data.datasets import DATASETS, FOLDER
from ..data.images import ImageFormat, Images
from ..training.settings import TrainingSettings
from ..training.system import System

S = TypeVar("S", bound=TrainingSettings)


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """A complete system to train; a recipe's file defines one as `RECIPE`.

    Attributes:
        settings: the class of its settings, a frozen dataclass whose defaults are the recipe's.
        pictures: the images to train on.
        system: what is trained, for images of a format; ValueError where settings and format don't fit together.
        held_out: images kept from training, which the run's figures and metrics are made of; None where there are none.
        presets: other defaults on some data sets, by their names; those of "folder", or "clips", are for all folders.
        name: what the command line calls it; `load_recipe` fills it in.
        description: one line that says what it trains; likewise.
    """

    settings: type[S]
    pictures: Callable[[S], Images]
    system: Callable[[S, ImageFormat], System]
    held_out: Callable[[S], Images] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    name: str = ""
    description: str = ""

    def preset(self, dataset: str | None = None) -> Mapping[str, Any]:
        """The defaults on a data set, by name or as a folder, that differ from the settings' own.

        Without a name the settings' own data set is meant.
        """
        name = getattr(self.settings, "dataset", None) if dataset is None else dataset
        own = getattr(self.settings, "OWN", FOLDER)
        return self.presets.get(name if name in DATASETS else own, {})

    def settings_for(self, dataset: str, **chosen: Any) -> S:
        """The settings for a data set: those `chosen`, else its preset's, else the defaults."""
        return self.settings(**{"dataset": dataset, **self.preset(dataset), **chosen})
