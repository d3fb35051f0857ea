"""`visgen-fast evaluate`: measures a trained tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ..errors import UserError, writing
from ..untrusted import MOST_BEAM
from .options import device_named, parse

if TYPE_CHECKING:
    from ..training.settings import TrainingSettings


def evaluate(arguments: list[str]) -> int:
    measure(parse(EvaluateOptions, arguments, "visgen-fast evaluate"))
    return 0


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a trained tokenizer on images that were held out; writes evaluation.json and invalid_codes.png."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run, whose newest checkpoint is taken, or of one checkpoint."""
    beam: int | None = None
    """Prefixes that the beam search for codes keeps; 1 takes the nearest code; by default the recipe's."""
    features: Path | None = None
    """A run of the recipe classifier on images of the same kind, or of a tokenizer that was given one: gives rFID."""
    pictures: int = 2000
    """How many of the held-out images to measure, the first ones."""
    out: Path | None = None
    """Folder for the results; by default that of the checkpoint given."""
    data: Path | None = None
    """Folder where the images lie now, if that isn't where the run found them."""
    recipe: Path | None = None
    """The Python file of your own recipe that the checkpoint was made by; it is run."""
    device: str = "auto"
    """Where to compute, as torch names it, for example cpu or cuda:1."""


def measure(options: EvaluateOptions) -> None:
    """Measures what the options of `evaluate` ask for, and writes and prints it."""
    from ..data.images import in_chunks
    from ..evaluation import evaluate_tokenizer
    from ..evaluation.report import as_text, write
    from ..nn.residual_quantizer import ResidualQuantizer
    from ..recipes.runs import trained, trained_classifier
    from ..systems.tokenizer import TokenizerSystem
    from ..tokenizers import Tokenizer
    from ..training import checkpoint

    if options.pictures < 2 or (options.beam is not None and not 1 <= options.beam <= MOST_BEAM):
        raise UserError(f"--pictures must be at least 2, and --beam at least 1 and at most {MOST_BEAM}")
    device = device_named(options.device)
    saved = checkpoint.read(options.checkpoint)
    recipe, settings, system = trained(saved, options.recipe)
    if not isinstance(system, TokenizerSystem) or recipe.held_out is None:
        raise UserError(f"the recipe {saved.state['recipe']} trains no tokenizer with held-out images to measure it on")
    tokenizer = system.tokenizer.to(device)
    if options.beam is not None:
        quantizer = tokenizer.quantizer if isinstance(tokenizer, Tokenizer) else None
        if not isinstance(quantizer, ResidualQuantizer):
            raise UserError(f"--beam needs a residual quantizer, and the recipe {saved.state['recipe']} has none")
        quantizer.beam = options.beam
    channels = saved.images.channels
    embed = None if options.features is None else trained_classifier(options.features, channels).to(device).embedding
    held_out = recipe.held_out(_with_data(settings, options.data))
    if held_out.format.shape != saved.images.shape:
        raise UserError(
            f"the tokenizer is for images of shape {saved.images.shape}, but the held-out ones have shape "
            f"{held_out.format.shape}"
        )
    if embed is not None and len(held_out) < 2:
        raise UserError("--features compares sets of at least 2 held-out images, but the run has 1")
    chunks = in_chunks(held_out, device, most=options.pictures)
    try:
        found = evaluate_tokenizer(tokenizer, (shown for shown, _ in chunks), embed=embed)
    except ValueError as error:
        raise UserError(f"the tokenizer in {saved.path} cannot be measured: {error}") from error
    out = options.out or options.checkpoint
    with writing(out):
        write(found, out, {"recipe": saved.state["recipe"], "step": saved.state["step"], "beam": options.beam})
    print(f"{as_text(found)}\nwritten to {out}")


def _with_data(settings: TrainingSettings, data: Path | None) -> TrainingSettings:
    """The settings with the images' folder at `data`, where that is given."""
    if data is None:
        return settings
    if not hasattr(settings, "data"):
        raise UserError("--data is for recipes whose images lie in a folder, and this run's recipe has none")
    return replace(settings, data=str(data))  # type: ignore[call-arg]  # which it has
