"""`visgen-fast sample`: draws images with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import tyro

from ..errors import UserError, writing
from ..untrusted import MOST_PIXELS, MOST_SAMPLING_STEPS
from .options import device_named, parse

# Of a set of captions, rows that are drawn where none is asked for; classes that a complaint names.
_CAPTIONS, _CLASSES_NAMED, _CLASSES_COMPARED = 10, 30, 5000
_MOST_GUIDANCE = 1000


def sample(arguments: list[str]) -> int:
    draw(parse(SampleOptions, arguments, "visgen-fast sample"))
    return 0


@dataclass(frozen=True)
class SampleOptions:
    """Draw images with a trained model, one row a class."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run, whose newest checkpoint is taken, or of one checkpoint."""
    labels: tuple[str, ...] = ()
    """Classes to draw, by name or number; all of them if none is given, or some of the captions."""
    count_per_class: int = 10
    """Images of each class."""
    guidance: float | None = None
    """Weight of classifier-free guidance, 1 for none; by default the recipe's."""
    steps: int | None = None
    """Steps of the solver; by default the recipe's."""
    seed: int = 0
    """Another seed draws other images."""
    out: Path = Path("samples.png")
    """The PNG file to write."""
    recipe: Path | None = None
    """The Python file of your own recipe that the checkpoint was made by; it is run."""
    device: str = "auto"
    """Where to compute, as torch names it, for example cpu or cuda:1."""


def draw(options: SampleOptions) -> None:
    """Builds a checkpoint's system again, with the averaged weights, and draws what the options of `sample` ask for."""
    from ..recipes.runs import trained
    from ..systems.diffusion import GenerativeSystem, draw_samples
    from ..training import checkpoint
    from ..training.figures import image_grid

    if options.count_per_class < 1 or (options.steps is not None and options.steps < 1):
        raise UserError("--count-per-class and --steps must be at least 1")
    if options.steps is not None and options.steps > MOST_SAMPLING_STEPS:
        raise UserError(f"--steps must be at most {MOST_SAMPLING_STEPS}, got {options.steps}")
    if options.guidance is not None and not abs(options.guidance) <= _MOST_GUIDANCE:
        raise UserError(f"--guidance must lie in [-{_MOST_GUIDANCE}, {_MOST_GUIDANCE}], got {options.guidance}")
    if not -(2**63) <= options.seed < 2**63:
        raise UserError(f"--seed must lie in [-2**63, 2**63), got {options.seed}")
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out must be the name of a .png file, got {options.out}")
    device = device_named(options.device)
    saved = checkpoint.read(options.checkpoint)
    images = saved.images
    most = _CAPTIONS if images.captions else len(images.class_names)
    labels = [_label(name, images.class_names) for name in options.labels] or images.some_labels(most)
    if options.count_per_class * len(labels) * images.height * images.width > MOST_PIXELS:
        raise UserError(
            f"{options.count_per_class} images of {len(labels)} classes make a figure of more than {MOST_PIXELS} "
            "pixels: give a lower --count-per-class, or fewer --labels"
        )
    _, _, system = trained(saved, options.recipe)
    if not isinstance(system, GenerativeSystem):
        raise UserError(
            f"the recipe {saved.state['recipe']} trains no model that draws images: its run shows {system.figure}.png"
        )
    try:
        drawn = draw_samples(
            system.to(device),
            labels,
            options.count_per_class,
            seed=options.seed,
            device=device,
            steps=options.steps,
            guidance=options.guidance,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if not drawn.isfinite().all():
        raise UserError(f"the model in {saved.path} draws no finite numbers; its weights may be damaged")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with writing(options.out):
        image_grid(drawn, [images.class_names[label] for label in labels]).save(options.out)
    print(f"images: {options.out}")


def _label(name: str, class_names: Sequence[str]) -> int:
    if name in class_names:
        return class_names.index(name)
    # No number of classes has more digits than these.
    if name.isdecimal() and len(name) < 10 and int(name) < len(class_names):
        return int(name)
    near = class_names
    if len(class_names) > _CLASSES_NAMED:
        compared = [other[:100] for other in class_names[:_CLASSES_COMPARED]]
        near = get_close_matches(name[:100], compared, 5, 0.0)
    raise UserError(f"there is no class {name!r}; there are {', '.join(near)}{'' if near is class_names else ', …'}")
