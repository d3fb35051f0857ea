"""What `visgen-fast sample` and `visgen-fast evaluate` do with a trained model: their options and their work.

Torch and what needs it are imported where they are needed, so that the help of both is there at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import tyro

from .training.errors import UserError

if TYPE_CHECKING:
    import torch

    from .training.checkpoint import Checkpoint
    from .training.data.pictures import PictureFormat
    from .training.settings import TrainingSettings
    from .training.system import System


@dataclass(frozen=True)
class SampleOptions:
    """Draw pictures with a trained model, one row a class."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run, whose newest checkpoint is taken, or of one checkpoint."""
    labels: tuple[str, ...] = ()
    """Classes to draw, by name or number; all of them if none is given."""
    count_per_class: int = 10
    """Pictures of each class."""
    guidance: float | None = None
    """Weight of classifier-free guidance, 1 for none; by default the recipe's."""
    steps: int | None = None
    """Steps of the solver; by default the recipe's."""
    seed: int = 0
    """Another seed draws other pictures."""
    out: Path = Path("samples.png")
    """The PNG file to write."""
    device: str = "auto"
    """Where to compute, as torch names it, for example cpu or cuda:1."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a trained tokenizer on pictures that were held out; writes evaluation.json and invalid_codes.png."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run, whose newest checkpoint is taken, or of one checkpoint."""
    beam: int | None = None
    """Prefixes that the beam search for codes keeps; 1 takes the nearest code; by default the recipe's."""
    features: Path | None = None
    """A run of the recipe classifier on pictures of the same kind, or of a tokenizer that was given one: gives rFID."""
    pictures: int = 2000
    """How many of the held-out pictures to measure, the first ones."""
    out: Path | None = None
    """Folder for the results; by default that of the checkpoint given."""
    device: str = "auto"
    """Where to compute, as torch names it, for example cpu or cuda:1."""


def draw(options: SampleOptions) -> None:
    """Builds a checkpoint's system again, with the averaged weights, and draws what the options of `sample` ask for."""
    from .training import checkpoint
    from .training.data.pictures import PictureFormat
    from .training.figures import picture_grid
    from .training.system import GenerativeSystem, draw_samples

    if options.count_per_class < 1 or (options.steps is not None and options.steps < 1):
        raise UserError("--count-per-class and --steps must be at least 1")
    if not -(2**63) <= options.seed < 2**63:
        raise UserError(f"--seed must lie in [-2**63, 2**63), got {options.seed}")
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out must be the name of a .png file, got {options.out}")
    device = _device(options.device)
    saved = checkpoint.read(options.checkpoint)
    pictures = PictureFormat.from_json(saved.state["pictures"])
    labels = [_label(name, pictures.class_names) for name in options.labels] or list(range(len(pictures.class_names)))
    _, _, system = _trained(saved)
    if not isinstance(system, GenerativeSystem):
        raise UserError(
            f"the recipe {saved.state['recipe']} trains no model that draws pictures: its run shows {system.figure}.png"
        )
    drawn = draw_samples(
        system.to(device),
        labels,
        options.count_per_class,
        seed=options.seed,
        device=device,
        steps=options.steps,
        guidance=options.guidance,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture_grid(drawn, [pictures.class_names[label] for label in labels]).save(options.out)
    print(f"pictures: {options.out}")


def measure(options: EvaluateOptions) -> None:
    """Measures what the options of `evaluate` ask for, and writes and prints it."""
    from .evaluation import evaluate_tokenizer
    from .evaluation.report import as_text, write
    from .nn.residual_quantizer import ResidualQuantizer
    from .recipes.classifier import trained_classifier
    from .tokenizers import Tokenizer
    from .training import checkpoint
    from .training.data.pictures import in_chunks
    from .training.tokenizer_system import TokenizerSystem

    if options.pictures < 2 or (options.beam is not None and options.beam < 1):
        raise UserError("--pictures must be at least 2 and --beam at least 1")
    device = _device(options.device)
    saved = checkpoint.read(options.checkpoint)
    recipe, settings, system = _trained(saved)
    if not isinstance(system, TokenizerSystem) or not hasattr(recipe, "held_out"):
        raise UserError(
            f"the recipe {saved.state['recipe']} trains no tokenizer with held-out pictures to measure it on"
        )
    tokenizer = system.tokenizer.to(device)
    if options.beam is not None:
        quantizer = tokenizer.quantizer if isinstance(tokenizer, Tokenizer) else None
        if not isinstance(quantizer, ResidualQuantizer):
            raise UserError(f"--beam needs a residual quantizer, and the recipe {saved.state['recipe']} has none")
        quantizer.beam = options.beam
    channels = saved.state["pictures"]["channels"]
    embed = None if options.features is None else trained_classifier(options.features, channels).to(device).embedding
    chunks = in_chunks(recipe.held_out(settings), device, most=options.pictures)
    found = evaluate_tokenizer(tokenizer, (shown for shown, _ in chunks), embed=embed)
    out = options.out or options.checkpoint
    write(found, out, {"recipe": saved.state["recipe"], "step": saved.state["step"], "beam": options.beam})
    print(f"{as_text(found)}\nwritten to {out}")


def build(
    recipe: ModuleType, settings: TrainingSettings, pictures: PictureFormat, saved: Checkpoint | None = None
) -> System:
    """The recipe's system; settings that don't fit together or don't fit the pictures are the user's mistake.

    With a checkpoint `saved` of the run, what the run took from others comes from there: those may be gone by now.
    """
    if saved is not None:
        given = {name: getattr(settings, name) for name in settings.OTHER_RUNS}
        there: dict[str, Any] = {
            name: str(saved.path) for name, run in given.items() if run and run == saved.state["settings"].get(name)
        }
        settings = replace(settings, **there)
    try:
        return recipe.system(settings, pictures)
    except ValueError as error:
        raise UserError(str(error)) from error


def _trained(saved: Checkpoint) -> tuple[ModuleType, TrainingSettings, System]:
    """A checkpoint's recipe, its settings, and its system with the averaged weights, in evaluation mode."""
    from .recipes.registry import load_recipe
    from .training.data.pictures import PictureFormat
    from .training.settings import settings_from

    recipe = load_recipe(saved.state["recipe"])
    settings = settings_from(recipe.Settings, saved.state["settings"])
    system = build(recipe, settings, PictureFormat.from_json(saved.state["pictures"]), saved)
    saved.load_into(system, "average")
    return recipe, settings, system.eval()


def _label(name: str, class_names: Sequence[str]) -> int:
    if name in class_names:
        return class_names.index(name)
    if name.isdecimal() and int(name) < len(class_names):
        return int(name)
    raise UserError(f"there is no class {name!r}; there are {', '.join(class_names)}")


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} is not to be had here: {str(error).splitlines()[0]}") from error
