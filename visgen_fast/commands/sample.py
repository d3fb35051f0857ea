"""`visgen-fast sample`: draws images with a trained model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import UserError, writing
from ..untrusted import MOST_PIXELS, MOST_SAMPLING_STEPS
from . import clips, repeat
from .complete import known_codes
from .options import device_named, parse
from .prompts import tell
from .then import upsampler_of
from .traverse import check_traversal, traversals

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.images import ImageFormat
    from ..diffusion import Previews
    from ..systems.generative import GenerativeSystem

# Of a set of captions, rows that are drawn where none is asked for; classes that a complaint names.
_CAPTIONS, _CLASSES_NAMED, _CLASSES_COMPARED = 10, 30, 5000
_COUNT = 10
MOST_GUIDANCE = 1000
_MOST_FRAMES = 50


def sample(arguments: list[str]) -> int:
    draw(parse(SampleOptions, repeat.with_options_of(arguments, _KEPT), "visgen-fast sample"))
    return 0


@dataclass(frozen=True)
class SampleOptions:
    """Draw images with a trained model, one row a class. The PNG file keeps what drew it: --like repeats that."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run, whose newest checkpoint is taken, or of one checkpoint, or a file of visgen-fast export."""
    labels: tuple[str, ...] = ()
    """Classes to draw, by name or number; all of them if none is given, or some of the captions."""
    prompt: tuple[str, ...] = ()
    """Of a model of texts: the texts to draw, one row each; a seed is the same noise for all of them."""
    count_per_class: int | None = None
    """Images of each class and seed; by default 10, and 1 where there are several seeds."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=("--seed",))] = (0,)
    """Another seed draws other images; those of several stand side by side."""
    steps: tuple[int, ...] | None = None
    """Steps of the sampler; by default the recipe's, as are the options down to --rescale. Of several numbers, as 1 2 4
    for a few-step model, each has rows of its own."""
    sampler: str | None = None
    """One of those that visgen-fast samplers lists."""
    spacing: str | None = None
    """Where the steps are, for example karras or trailing; a wrong name lists all."""
    shift: float | None = None
    """Moves the steps towards noise, as Stable Diffusion 3 does; above 0."""
    order: int | None = None
    """Order of the sampler, where it has several."""
    eta: float | None = None
    """How much noise the sampler adds, where that is a choice; 0 for none."""
    churn: float | None = None
    """The same for euler and heun, as in Karras et al., 2022."""
    variant: str | None = None
    """Of the sampler's formulas, where there are several."""
    variance: str | None = None
    """Of ddpm: small or large."""
    guidance: float | None = None
    """Scale of classifier-free guidance, 1 for none."""
    interval: tuple[float, float] | None = None
    """Guide only in steps that begin between these two times; 0 is the image, 1 is noise."""
    rescale: float | None = None
    """Share of the guided output's spread, from 0 to 1, that is moved back to the conditional one's."""
    temperature: float | None = None
    """Of a model of codes: below 1 its probable codes come more often, at 0 the most probable one always."""
    top_k: int | None = None
    """Of a model of codes: draw from so many most probable codes only."""
    top_p: float | None = None
    """Of a model of codes: draw from the most probable codes that together have this probability."""
    complete: str | None = None
    """Of a model of codes: the share of each image, from its top, that is given from held-out pictures; 0.5 gives the
    upper half. Or the file of a mask of the images' size, white where they are drawn and black where they are given."""
    truncation: float | None = None
    """Of a model with styles: how far they are from their mean, 1 for as they are, 0 for the mean itself."""
    interpolate: int | None = None
    """Of a model of latent vectors: show so many images on the way from the first of a row to its second."""
    traverse: bool = False
    """Of a VAE: a row for each latent, which goes from −3 to 3 in it, those that tell most of held-out images first."""
    direction: str | None = None
    """Of a path between two ends: backward to images, or forward from those that it was trained on to the other end."""
    frames: int | None = None
    """Of a model of clips: how many frames to draw; by default those of the clips that it was trained on."""
    frame_plan: str | None = None
    """The same: together, all frames at one level of noise; one_by_one; or pyramid, each one step behind."""
    context: Path | None = None
    """The same: a GIF, a video or an image, with which every clip begins."""
    then: Path | None = None
    """The run of an upsampler, which enlarges the images; previews show them as they were."""
    out: Path = Path("samples.png")
    """The PNG file to write; or a folder, for a file of each image: its class's number / its seed .png. Clips are rows
    of frames, and GIFs."""
    preview_gif: Path | None = None
    """A GIF file that shows how the images arose, the first hundred of them."""
    preview_strip: Path | None = None
    """A PNG file that shows the same side by side: a row for each of some images, a column for each of some steps."""
    like: Path | None = None
    """A PNG file that this command wrote: its options are taken, but for those that are given too."""
    recipe: Path | None = None
    """The Python file of your own recipe that the checkpoint was made by; it is run."""
    device: str = "auto"
    """Where to compute, as torch names it, for example cpu or cuda:1."""


_OF_THE_SYSTEM = (
    *("steps", "sampler", "spacing", "shift", "order", "eta", "churn", "variant", "variance"),
    *("guidance", "interval", "rescale", "temperature", "top_k", "top_p", "truncation", "direction"),
    "frame_plan",
)
# What a drawn file keeps.
_KEPT = (
    *("labels", "prompt", "seeds", *_OF_THE_SYSTEM, "complete", "interpolate", "traverse", "count_per_class"),
    *clips.OPTIONS,
)


def draw(options: SampleOptions) -> None:
    """Builds a checkpoint's system again, with the averaged weights, and draws what the options of `sample` ask for."""
    import torch

    from ..recipes.runs import trained
    from ..systems.generative import GenerativeSystem
    from ..training import checkpoint
    from ..training.figures import image_grid

    _check(options)
    device = device_named(options.device)
    saved = checkpoint.read(options.checkpoint)
    if options.like is not None:
        repeat.check_weights(options.like, saved.state, saved.path)
    images = saved.images
    then = upsampler_of(options.then, images, options.like, options.traverse)
    rows, labels = _rows(options, images)
    columns = _count(options) * len(options.seeds) if options.interpolate is None else options.interpolate
    each_image = images.height * images.width * (options.frames or images.frames or 1)
    if columns * len(labels) * len(options.steps or (1,)) * each_image > MOST_PIXELS:
        raise UserError(
            f"{columns} images of {len(labels)} classes make a figure of more than {MOST_PIXELS} pixels: "
            "give a lower --count-per-class, or fewer --labels or --seeds"
        )
    recipe, settings, system = trained(saved, options.recipe)
    if not isinstance(system, GenerativeSystem):
        raise UserError(
            f"the recipe {saved.state['recipe']} trains no model that draws images: its run shows {system.figure}.png"
        )
    clips.check(options, system, recipe.name)
    if not system.conditional:
        if options.labels:
            raise UserError(f"--labels must be left out: the model in {saved.path} was trained without classes")
        labels = labels[:1]
    if options.prompt:
        tell(system, recipe, settings, options.prompt)
    try:
        given = {name: getattr(options, name) for name in _OF_THE_SYSTEM if name != "steps"}
        given = {name: value for name, value in given.items() if value is not None}
        each = [system.options(**given, steps=steps) for steps in options.steps or ()] or [system.options(**given)]
        system, known = system.to(device), None
        if options.complete is not None:
            wanted = labels, _count(options), len(options.seeds), options.complete
            known = known_codes(system, recipe, settings, images, *wanted)
        names = [rows[label] for label in labels] if system.conditional else []
        if options.traverse:
            drawn, names = traversals(system, recipe, settings, options.seeds[0], _count(options))
            previews = None
        else:
            parts = [_drawn(system, labels, options, asked, known) for asked in each]
            drawn, previews = torch.cat([images for images, _ in parts]), parts[0][1]
            if len(each) > 1:
                names = [f"{name} {asked['steps']}".strip() for asked in each for name in names or [""] * len(labels)]
        if then is not None:
            drawn = then.enlarged(drawn, labels, options.seeds, classes=system.conditional and not options.prompt)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not drawn.isfinite().all():
        raise UserError(f"the model in {saved.path} draws no finite numbers; its weights may be damaged")
    again: dict[str, Any] = {"seeds": options.seeds, **each[0]}
    if len(each) > 1:
        again["steps"] = options.steps
    if options.interpolate is None:
        again["count_per_class"] = _count(options)
    if options.complete is not None:
        again["complete"] = Path(options.complete).name  # of a mask, not the folder
    if options.interpolate is not None:
        again["interpolate"] = options.interpolate
    if options.traverse:
        again["traverse"] = True
    again |= clips.kept(options)
    if options.prompt:
        again["prompt"] = options.prompt
    elif system.conditional:
        again["labels"] = [_word(label, images.class_names) for label in labels]
    for file in (options.out, options.preview_gif, options.preview_strip):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    told = repeat.story(saved.state, saved.path, again) | ({} if then is None else {"then": then.story()})
    if images.frames is not None:
        clips.save(drawn, names, [_file(options, place) for place in range(columns)], labels, options.out, told)
    elif options.out.suffix:
        repeat.save(image_grid(drawn, names), options.out, told)
    else:
        _save_each(drawn, range(len(drawn)) if options.traverse else labels, options, told)
    if previews is not None:
        _save_previews(previews, options, columns)
    print(f"{'images' if images.frames is None else 'clips'}: {options.out}")


def _save_each(drawn: Tensor, labels: Sequence[int], options: SampleOptions, told: dict[str, Any]) -> None:
    """A file of each image, named by its class and its seed, and by its place where there are several of these.

    Images between two seeds are named by their place alone.
    """
    from PIL import Image

    from ..data.images import as_pixels

    for label, row in zip(labels, as_pixels(drawn, 1), strict=True):
        folder = options.out / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        for place, pixels in enumerate(row):
            repeat.save(Image.fromarray(pixels), folder / f"{_file(options, place)}.png", told)


def _file(options: SampleOptions, place: int) -> str:
    """The name of the file of an image, by its place in the row."""
    if options.interpolate is not None:
        return f"{place}"
    count = _count(options)
    seed = options.seeds[place // count]
    return f"{seed}" if count == 1 else f"{seed}-{place % count}"


def _save_previews(previews: Previews, options: SampleOptions, columns: int) -> None:
    if options.preview_gif is not None:
        with writing(options.preview_gif):
            previews.gif(options.preview_gif, columns=columns)
    if options.preview_strip is not None:
        with writing(options.preview_strip):
            previews.strip(options.preview_strip)


def _check(options: SampleOptions) -> None:
    """`UserError` for a number out of bounds, or a file of another kind."""
    if _count(options) < 1 or min(options.steps or (1,)) < 1:
        raise UserError("--count-per-class and --steps must be at least 1")
    if max(options.steps or (1,)) > MOST_SAMPLING_STEPS:
        raise UserError(f"--steps must be at most {MOST_SAMPLING_STEPS}, got {max(options.steps or (1,))}")
    if len(options.steps or ()) > 1:
        _check_several(options)
    if options.guidance is not None and not abs(options.guidance) <= MOST_GUIDANCE:
        raise UserError(f"--guidance must lie in [-{MOST_GUIDANCE}, {MOST_GUIDANCE}], got {options.guidance}")
    if not options.seeds:
        raise UserError("--seeds must be at least one number")
    for seed in options.seeds:
        if not -(2**63) <= seed < 2**63:
            raise UserError(f"--seed must lie in [-2**63, 2**63), got {seed}")
    if options.prompt and options.labels:
        raise UserError("--prompt and --labels must not be given together")
    if options.interpolate is not None:
        _check_interpolation(options)
    if options.traverse:
        check_traversal(options.seeds, options.interpolate, options.preview_gif, options.preview_strip)
    for name, kind in (("out", ".png"), ("preview_gif", ".gif"), ("preview_strip", ".png")):
        file = getattr(options, name)
        if file is not None and file.suffix.lower() != kind and not (name == "out" and not file.suffix):
            raise UserError(f"--{name.replace('_', '-')} must be the name of a {kind} file, got {file}")
    if options.preview_strip is not None and options.preview_strip.resolve() == options.out.resolve():
        raise UserError(f"--preview-strip must be another file than --out, got {options.preview_strip} for both")


def _check_several(options: SampleOptions) -> None:
    if not options.out.suffix:
        raise UserError(f"--out must be the name of a .png file where --steps has several numbers, got {options.out}")
    for name in ("interpolate", "preview_gif", "preview_strip", "complete"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} and several numbers of --steps must not be given together")


def _check_interpolation(options: SampleOptions) -> None:
    if options.interpolate is not None and options.interpolate < 2:
        raise UserError(f"--interpolate must be at least 2, the two ends, got {options.interpolate}")
    if len(options.seeds) > 2:
        raise UserError(f"--interpolate takes one --seed, or two that are its ends, got {len(options.seeds)}")
    for name in ("count_per_class", "preview_gif", "preview_strip"):
        if getattr(options, name) is not None:
            raise UserError(f"--interpolate and --{name.replace('_', '-')} must not be given together")


def _count(options: SampleOptions) -> int:
    if options.count_per_class is not None:
        return options.count_per_class
    return _COUNT if len(options.seeds) == 1 else 1


def _drawn(
    system: GenerativeSystem,
    labels: Sequence[int],
    options: SampleOptions,
    asked: dict[str, Any],
    known: Tensor | None,
) -> tuple[Tensor, Previews | None]:
    """The images [labels, columns, C, H, W], and previews of the first of them where the options ask for any."""
    from ..data.images import AT_A_TIME
    from ..diffusion import Previews, ProgressBar
    from ..systems.clips import ClipSystem
    from ..systems.generative import draw_samples
    from ..systems.vectors import VectorSystem, draw_interpolations

    if isinstance(system, ClipSystem):
        return clips.drawn(system, labels, _count(options), options, asked), None
    if options.interpolate is not None:
        if not isinstance(system, VectorSystem):
            raise ValueError("--interpolate needs a model that makes an image of one latent vector, as GANs do")
        device = next(system.parameters()).device
        return draw_interpolations(system, labels, options.interpolate, options.seeds, device=device, **asked), None
    steps, images = asked["steps"], len(labels) * _count(options) * len(options.seeds)
    wanted = options.preview_gif is not None or options.preview_strip is not None
    previews = Previews(every=math.ceil(steps / _MOST_FRAMES)) if wanted else None
    done = itertools.count()
    with ProgressBar(steps * math.ceil(images / AT_A_TIME)) as bar:

        def watch(*seen: Any) -> None:
            bar(*seen)
            if previews is not None and next(done) < steps:
                previews(*seen)

        drawn = draw_samples(
            system,
            labels,
            _count(options),
            seed=options.seeds,
            device=next(system.parameters()).device,
            callback=watch if wanted or bar.visible else None,
            known=known,
            same_noise=bool(options.prompt),
            **asked,
        )
    return drawn, previews


def _rows(options: SampleOptions, images: ImageFormat) -> tuple[Sequence[str], list[int]]:
    """The names that there are, and the numbers of those to draw: prompts, or classes."""
    if options.prompt:
        return options.prompt, list(range(len(options.prompt)))
    most = _CAPTIONS if images.captions else len(images.class_names)
    labels = [_label(name, images.class_names) for name in options.labels]
    return images.class_names, labels or images.some_labels(most)


def _word(label: int, class_names: Sequence[str]) -> str:
    """What `_label` takes for this label: its number, or its name where a class is called like the number."""
    return str(label) if _label(str(label), class_names) == label else class_names[label]


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
