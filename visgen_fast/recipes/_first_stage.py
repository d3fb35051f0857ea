"""What models of codes and of latents share: the tokenizer or autoencoder of another run, kept as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from ..data.images import ImageFormat
from ..errors import UserError
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import Reconstructor, Tokenizer
from ..tokenizers.places import code_shape
from ..training import checkpoint
from ..training.bounds import AtLeast, Between
from ..training.checkpoint import Checkpoint
from ..training.settings import TrainingSettings, settings_from
from ..untrusted import escaped
from ._codes import CodeSettings, require_few
from ._images import ImageSettings
from ._tokenizer import LossSettings
from .budget import require_fit
from .registry import load_recipe

KINDS = ("fsq", "lfq", "rq-vae", "titok", "var-tokenizer", "vq-vae", "vq-vae-2")
_PLACES = ("tokenizer", "first_stage.tokenizer", "first_stage.reconstructor")  # of its weights in a system
_MOST_VALUES = 2**18  # a softmax is over all of them


@dataclass(frozen=True, kw_only=True)
class RunBelow(ImageSettings):
    """A model of what another run makes of images."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = ("first_stage",)

    first_stage: str = ""
    """The run of the first stage, on images of the same size; checkpoints keep its weights."""

    def __post_init__(self) -> None:
        # As for the data: a run means the same from every working directory.
        if isinstance(self.first_stage, str) and self.first_stage:
            object.__setattr__(self, "first_stage", str(Path(self.first_stage).absolute()))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class FirstStageSettings(RunBelow, CodeSettings):
    """A transformer of the codes of a tokenizer."""

    width: Annotated[int, AtLeast(1)] = 128
    """Features of a code."""
    depth: Annotated[int, AtLeast(1)] = 4
    """Transformer blocks."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block."""
    dropout: Annotated[float, Between(0, 1, "[)")] = 0.1
    """Share of a block's features that training sets to zero."""
    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    sample_every: int = 1000

    def network(self, images: ImageFormat) -> dict[str, Any]:
        """Keyword arguments of its network."""
        sizes = {"width": self.width, "depth": self.depth, "heads": self.heads, "dropout": self.dropout}
        return {**sizes, "classes": len(images.class_names)}


class Below(NamedTuple):
    """What a run trained, in evaluation mode, and how to build it again."""

    reconstructor: Reconstructor
    origin: dict[str, Any]


class FirstStage(NamedTuple):
    """A trained tokenizer, in evaluation mode; the shape [*grid, Q] of an image's codes; and how to build it again."""

    tokenizer: Tokenizer
    shape: tuple[int, ...]
    origin: dict[str, Any]


def first_stage(settings: FirstStageSettings, images: ImageFormat, kinds: Sequence[str] = KINDS) -> FirstStage:
    """The tokenizer of the run that the settings name, for models of its codes. What it raises is as of `run_below`."""
    tokenizer, origin = run_below(settings, images, kinds)
    assert isinstance(tokenizer, Tokenizer)  # all of KINDS are
    shape, values = code_shape(tokenizer, images.height, images.width), tokenizer.quantizer.size
    require_few(shape)
    if values > _MOST_VALUES:
        raise UserError(
            f"--first-stage must have codes of at most {_MOST_VALUES} values, but {settings.first_stage} has {values}"
        )
    return FirstStage(tokenizer, shape, origin)


def run_below(settings: RunBelow, images: ImageFormat, kinds: Sequence[str]) -> Below:
    """What the run that the settings name has trained, for images of this format.

    The run is one of the recipes `kinds`; or one of a model above it, whose checkpoints keep it. `UserError` for
    another, and for one of other images.
    """
    wanted = f"--first-stage must be a run of {', '.join(kinds[:-1]) + ' or ' if kinds[:-1] else ''}{kinds[-1]}"
    if not settings.first_stage:
        raise UserError(f"{wanted}, and none was given")
    path = Path(settings.first_stage)
    try:
        saved = checkpoint.read(path)
    except UserError as error:
        raise UserError(f"--first-stage: {error}") from error
    origin = _origin(saved)
    if origin["recipe"] not in kinds:
        raise UserError(f"{wanted}, but {path} is of {escaped(origin['recipe'], 200)}")
    if saved.images.shape != images.shape:
        raise UserError(
            f"--first-stage must be of images of shape {images.shape}, but {path} is of {saved.images.shape}"
        )
    recipe, weights = load_recipe(origin["recipe"]), saved.module(*_PLACES)
    own = _alone(settings_from(recipe.settings, origin["settings"]), saved.path)
    require_fit(lambda: recipe.system(own, images), weights)
    system = recipe.system(own, images)
    assert isinstance(system, TokenizerSystem)
    try:
        system.tokenizer.load_state_dict(weights)
    except RuntimeError as error:
        raise saved.damaged("it holds another tokenizer than its settings say") from error
    return Below(system.tokenizer.eval(), origin)


def _origin(saved: Checkpoint) -> dict[str, Any]:
    """The recipe and the settings of the tokenizer that a checkpoint holds: its own, or those that it remembers."""
    remembered = saved.state.get("remembered")
    found = remembered.get("first_stage") if isinstance(remembered, dict) else None
    if found is None:
        found = {"recipe": saved.value("recipe", str), "settings": saved.state["settings"]}
    if not isinstance(found, dict) or type(found.get("recipe")) is not str or type(found.get("settings")) is not dict:
        raise saved.damaged("state.json describes no first stage")
    return found


def _alone(settings: TrainingSettings, kept: Path) -> TrainingSettings:
    """The settings of a tokenizer without what it took from other runs, and without what only trains it.

    A frozen encoder is part of it, and in the checkpoint `kept`.
    """
    if isinstance(settings, LossSettings):
        settings = replace(settings, perceptual=0.0, adversarial=0.0)
    others: dict[str, Any] = {name: str(kept) if name == "encoder" else "" for name in settings.OTHER_RUNS}
    return replace(settings, **others)
