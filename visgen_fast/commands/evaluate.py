"""`visgen-fast evaluate`: measures a trained tokenizer, diffusion model, model of codes or normalizing flow."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ..errors import UserError, writing
from ..untrusted import MOST_BEAM
from .options import device_named, parse
from .probe import probe

if TYPE_CHECKING:
    import torch

    from ..data.images import Images
    from ..recipes.recipe import Recipe
    from ..systems.codes import CodeSystem
    from ..systems.prior import PriorSystem
    from ..systems.student import StudentSystem
    from ..systems.tokenizer import TokenizerSystem
    from ..training.checkpoint import Checkpoint
    from ..training.settings import TrainingSettings
    from ..training.system import System

_MOST_BINS = 16


def evaluate(arguments: list[str]) -> int:
    measure(parse(EvaluateOptions, arguments, "visgen-fast evaluate"))
    return 0


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a trained model on images that were held out; writes evaluation.json, and figures.

    A tokenizer: reconstruction, codes, and which of them add nothing. A diffusion model: errors by noise level λ, and
    whether the levels are in each other's way. A few-step model: its distance to its teacher's long run. A model of
    codes: bits, by place, by depth and by step. A normalizing flow: bits per dimension.
    """

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run, whose newest checkpoint is taken, or of one checkpoint, or a file of visgen-fast export."""
    beam: int | None = None
    """Tokenizers: prefixes that the beam search for codes keeps; 1 takes the nearest code; by default the recipe's."""
    features: Path | None = None
    """Tokenizers, models of codes and few-step models: a run of the recipe classifier on images of the same kind, or of
    a tokenizer that was given one: gives rFID, and FID of as many images drawn."""
    teacher: Path | None = None
    """Few-step models: the run of the diffusion model to compare with, by the same seeds."""
    steps: tuple[int, ...] | None = None
    """Few-step models: numbers of steps to compare at; by default 1 2 4 8."""
    bins: int | None = None
    """Diffusion models: intervals of λ whose gradients are compared, at most 16; by default 8."""
    transfer_steps: int | None = None
    """Diffusion models: steps of tuning on each interval alone, to see what it does to the others; by default 0, which
    leaves that out."""
    probe: bool = False
    """Tokenizers and autoencoders: fit a linear classifier to their frozen latents instead; writes probe.json."""
    pictures: int | None = None
    """How many images to measure; by default 512 for a diffusion model, else 2000."""
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
    from ..diffusion.prior import DiffusionPrior
    from ..recipes.runs import trained
    from ..systems.bridge import PathSystem
    from ..systems.codes import CodeSystem
    from ..systems.flow import FlowSystem
    from ..systems.prior import PriorSystem
    from ..systems.student import StudentSystem
    from ..systems.tokenizer import TokenizerSystem
    from ..tokenizers.first_stage import FirstStage
    from ..training import checkpoint

    _check(options)
    device = device_named(options.device)
    saved = checkpoint.read(options.checkpoint)
    recipe, settings, system = trained(saved, options.recipe)
    settings = _with_data(settings, options.data)
    if not isinstance(system, StudentSystem):
        _refuse(options, ("teacher", "steps"), saved, "few-step model")
    if options.probe:
        _refuse(options, ("beam", "features", "bins", "transfer_steps"), saved, "measurement without --probe")
        text = probe(system, recipe, settings, _out(options), _head(saved), device, options.pictures)
    elif isinstance(system, StudentSystem):
        _refuse(options, ("beam", "bins", "transfer_steps"), saved, "tokenizer or diffusion model")
        text = _students(options, saved, system, recipe, settings, device)
    elif isinstance(system, TokenizerSystem) and recipe.held_out is not None:
        _refuse(options, ("bins", "transfer_steps"), saved, "diffusion model")
        text = _tokenizer(options, saved, system, recipe.held_out(settings), device)
    elif isinstance(system, PriorSystem) and not isinstance(system.prior, DiffusionPrior):
        raise UserError(f"the recipe {saved.state['recipe']} trains a model without an exact likelihood to measure")
    elif isinstance(system, PriorSystem) and isinstance(system.first_stage, FirstStage):
        raise UserError(f"evaluate measures diffusion models of pixels, but that in {saved.path} is one of latents")
    elif isinstance(system, PriorSystem):
        _refuse(options, ("beam",), saved, "tokenizer")
        _refuse(options, ("features",), saved, "tokenizer or a model of codes")
        text = _diffusion(options, saved, system, recipe, settings, device)
    elif isinstance(system, CodeSystem):
        _refuse(options, ("beam",), saved, "tokenizer")
        _refuse(options, ("bins", "transfer_steps"), saved, "diffusion model")
        text = _codes(options, saved, system, recipe, settings, device)
    elif isinstance(system, FlowSystem | PathSystem):
        _refuse(options, ("beam", "features", "bins", "transfer_steps"), saved, "tokenizer or diffusion model")
        text = _own_measures(options, saved, system, recipe, settings, device)
    else:
        raise UserError(
            f"the recipe {saved.state['recipe']} trains no tokenizer with held-out images to measure it on, no "
            "diffusion model, no model of codes and no normalizing flow"
        )
    print(f"{text}\nwritten to {_out(options)}")


def _check(options: EvaluateOptions) -> None:
    bounds = {"pictures": (2, None), "bins": (1, _MOST_BINS), "transfer_steps": (0, None), "beam": (1, MOST_BEAM)}
    for name, (least, most) in bounds.items():
        value = getattr(options, name)
        if value is not None and (value < least or (most is not None and value > most)):
            raise UserError(
                f"--pictures must be at least 2, --bins at least 1 and at most {_MOST_BINS}, --transfer-steps at least "
                f"0, and --beam at least 1 and at most {MOST_BEAM}"
            )


def _refuse(options: EvaluateOptions, names: tuple[str, ...], saved: Checkpoint, kind: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            asked = f"--{name.replace('_', '-')}"
            raise UserError(f"{asked} is for a {kind}, and the recipe {saved.state['recipe']} trains none")


def _out(options: EvaluateOptions) -> Path:
    given = options.checkpoint
    return options.out or (given.parent if given.is_file() else given)


def _head(saved: Checkpoint) -> dict[str, Any]:
    return {"recipe": saved.state["recipe"], "step": saved.state["step"]}


def _tokenizer(
    options: EvaluateOptions, saved: Checkpoint, system: TokenizerSystem, held_out: Images, device: torch.device
) -> str:
    from ..data.images import in_chunks
    from ..evaluation import evaluate_tokenizer
    from ..evaluation.report import as_text, write
    from ..nn.residual_quantizer import ResidualQuantizer
    from ..recipes.runs import trained_classifier
    from ..tokenizers import Tokenizer

    tokenizer = system.tokenizer.to(device)
    if options.beam is not None:
        quantizer = tokenizer.quantizer if isinstance(tokenizer, Tokenizer) else None
        if not isinstance(quantizer, ResidualQuantizer):
            raise UserError(f"--beam needs a residual quantizer, and the recipe {saved.state['recipe']} has none")
        quantizer.beam = options.beam
    channels = saved.images.channels
    embed = None if options.features is None else trained_classifier(options.features, channels).to(device).embedding
    _require_shape(saved, held_out, "tokenizer", "the held-out ones")
    if embed is not None and len(held_out) < 2:
        raise UserError("--features compares sets of at least 2 held-out images, but the run has 1")
    chunks = in_chunks(held_out, device, most=options.pictures or 2000)
    try:
        found = evaluate_tokenizer(tokenizer, (shown for shown, _ in chunks), embed=embed)
    except ValueError as error:
        raise UserError(f"the tokenizer in {saved.path} cannot be measured: {error}") from error
    with writing(_out(options)):
        write(found, _out(options), {**_head(saved), "beam": options.beam})
    return as_text(found)


def _diffusion(
    options: EvaluateOptions,
    saved: Checkpoint,
    system: PriorSystem,
    recipe: Recipe[Any],
    settings: TrainingSettings,
    device: torch.device,
) -> str:
    import torch

    from .. import ops
    from ..data.images import Part, evenly
    from ..diffusion.prior import DiffusionPrior
    from ..evaluation.diffusion import evaluate_diffusion
    from ..evaluation.diffusion_report import as_text, write
    from ..recipes.runs import images_to_measure

    images, held_out = images_to_measure(recipe, settings)
    _require_shape(saved, images, "diffusion model", "those to measure it on")
    some = Part(images, evenly(len(images), options.pictures or 512))
    pixels, labels, _ = some.read(range(len(some)))
    seeds = ops.derive_seeds(0, torch.arange(len(some)), purpose=ops.Purpose.LIKELIHOOD).to(device)
    system = system.to(device)
    assert isinstance(system.prior, DiffusionPrior)
    with torch.no_grad():
        told = system.condition(labels.to(device))
    try:
        found = evaluate_diffusion(
            system.prior.model,
            system.prior.objective,
            pixels.to(device),
            told,
            seeds=seeds,
            bins=options.bins or 8,
            transfer_steps=options.transfer_steps or 0,
            learning_rate=settings.learning_rate / 10,
        )
    except ValueError as error:
        raise UserError(f"the diffusion model in {saved.path} cannot be measured: {error}") from error
    measures = system.evaluate(some, device=device)
    with writing(_out(options)):
        write(found, _out(options), {**_head(saved), "held_out": held_out, "measures": measures})
    seen = "held out" if held_out else "that the model was trained on"
    return "\n".join([as_text(found), *_as_lines(measures), f"images: {found.images} {seen}"])


def _students(
    options: EvaluateOptions,
    saved: Checkpoint,
    system: StudentSystem,
    recipe: Recipe[Any],
    settings: TrainingSettings,
    device: torch.device,
) -> str:
    from ..recipes.runs import images_to_measure
    from .few_steps import compare

    images, _ = images_to_measure(recipe, settings)
    return compare(
        *(system, saved, images, _out(options)),
        teacher=options.teacher,
        features=options.features,
        steps=options.steps,
        pictures=options.pictures or 512,
        device=device,
        head=_head(saved),
    )


def _own_measures(
    options: EvaluateOptions,
    saved: Checkpoint,
    system: System,
    recipe: Recipe[Any],
    settings: TrainingSettings,
    device: torch.device,
) -> str:
    """What the system's own `evaluate` says of the images."""
    from ..data.images import Part, evenly
    from ..recipes.runs import images_to_measure

    images, held_out = images_to_measure(recipe, settings)
    _require_shape(saved, images, "model", "those to measure it on")
    some = Part(images, evenly(len(images), options.pictures or 512))
    measures = system.to(device).evaluate(some, device=device)
    out = _out(options)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        found = {**_head(saved), "held_out": held_out, "images": len(some), "measures": measures}
        (out / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n")
    seen = "held out" if held_out else "that the model was trained on"
    return "\n".join([*_as_lines(measures), f"images: {len(some)} {seen}"])


def _as_lines(measures: dict[str, float]) -> list[str]:
    return [f"{name.replace('_', ' ')}: {value:.4g}" for name, value in measures.items()]


def _codes(
    options: EvaluateOptions,
    saved: Checkpoint,
    system: CodeSystem,
    recipe: Recipe[Any],
    settings: TrainingSettings,
    device: torch.device,
) -> str:
    from ..data.images import Part, evenly
    from ..evaluation.code_report import as_text, write
    from ..recipes.runs import images_to_measure, trained_classifier
    from ..tokenizers.places import maps

    images, held_out = images_to_measure(recipe, settings)
    _require_shape(saved, images, "model of codes", "those to measure it on")
    some, system = Part(images, evenly(len(images), options.pictures or 2000)), system.to(device)
    distances: dict[str, float] = {}
    try:
        found = system.measure(some, device=device)
        if options.features is not None:
            classifier = trained_classifier(options.features, saved.images.channels).to(device)
            distances = system.distances(some, classifier.embedding, device=device)
    except ValueError as error:
        raise UserError(f"the model of codes in {saved.path} cannot be measured: {error}") from error
    with writing(_out(options)):
        head = {**_head(saved), "held_out": held_out, "fid": None, "rfid": None, **distances}
        write(found, maps(found.by_position, system.grids), _out(options), head)
    seen = "held out" if held_out else "that the model was trained on"
    return f"{as_text(found, distances)}\nimages: {found.images} {seen}"


def _require_shape(saved: Checkpoint, images: Images, kind: str, which: str) -> None:
    if images.format.shape != saved.images.shape:
        raise UserError(
            f"the {kind} is for images of shape {saved.images.shape}, but {which} have shape {images.format.shape}"
        )


def _with_data(settings: TrainingSettings, data: Path | None) -> TrainingSettings:
    """The settings with the images' folder at `data`, where that is given."""
    if data is None:
        return settings
    if not hasattr(settings, "data"):
        raise UserError("--data is for recipes whose images lie in a folder, and this run's recipe has none")
    return replace(settings, data=str(data))  # type: ignore[call-arg]  # which it has
