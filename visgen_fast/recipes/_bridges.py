"""What the recipes of paths between two ends share: the ends, and how the path is followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch

from ..data.images import ImageFormat, Images, class_part
from ..diffusion.guiding import check_interval
from ..errors import UserError
from ..models.dit import DiT
from ..systems.bridge import BridgeSampling
from ..systems.ends import End, ImageEnd, NoiseEnd
from ..training import checkpoint
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS, escaped
from ._diffusion import DiTSettings, dit
from ._images import ImageSettings, held_out_images, training_images

NOISE = "noise"


@dataclass(frozen=True, kw_only=True)
class PathSettings(DiTSettings):
    """A path between images and another end."""

    endpoint: str = NOISE
    """What lies at the other end: noise, or images as of --dataset."""
    classes: tuple[str, ...] = ()
    """Two classes, by name or number: the path is between the images of the first and those of the second, both of the
    data set."""
    sigma: Annotated[float, Between(0, 1000)] = 0.0
    """Standard deviation of the noise on the way."""
    dataset: str = "digits"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes and (len(self.classes) != 2 or self.endpoint != NOISE):
            raise UserError(f"--classes must be two classes, without --endpoint, got {' '.join(self.classes)}")
        if self.endpoint != NOISE:
            # As for the data: a run means the same from every working directory.
            object.__setattr__(self, "endpoint", self._other.data or self.endpoint)

    @property
    def _other(self) -> ImageSettings:
        """The images of the other end, as settings."""
        return ImageSettings(dataset=self.endpoint, size=self.size)


@dataclass(frozen=True, kw_only=True)
class SchroedingerSettings(PathSettings):
    """A Schrödinger bridge, whose two networks learn in turns."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = ("flow",)

    flow: str = ""
    """A run of ot-flow between the same ends, or of a Schrödinger bridge, with a network of the same sizes: both
    networks begin as it; by default they begin untrained."""
    sigma: Annotated[float, Between(0, 1000, "()")] = 1.0
    turn_steps: Annotated[int, AtLeast(1)] = 250
    """Optimizer steps in which one network learns while the other one rests."""
    refresh: Annotated[int, AtLeast(1)] = 125
    """Steps after which the trajectories to learn from are drawn anew; it divides the steps of a turn."""
    cache: Annotated[int, AtLeast(2)] = 512
    """Trajectories that are drawn at once."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 20
    """Steps from one end to the other, in training too."""
    guidance: Annotated[float, Between(-1000, 1000)] = 1.0

    def __post_init__(self) -> None:
        # As for the data: a run means the same from every working directory.
        if isinstance(self.flow, str) and self.flow:
            object.__setattr__(self, "flow", str(Path(self.flow).absolute()))
        super().__post_init__()


def start_images(settings: PathSettings) -> Images:
    """The images at t = 0 to train on; `UserError` where the other end's are of another shape."""
    images = _one_class(settings, training_images(settings), 0)
    other = _other_images(settings, training_images)
    if other is not None and other.format.shape != images.format.shape:
        raise UserError(
            f"both ends must have images of one shape, got {list(images.format.shape)} and {list(other.format.shape)}"
        )
    return images


def held_out_start(settings: PathSettings) -> Images:
    """Those kept from training."""
    return _one_class(settings, held_out_images(settings), 0)


def ends(settings: PathSettings, images: ImageFormat) -> tuple[End, End]:
    """What lies at t = 0 and at t = 1, for images of this format."""
    start = ImageEnd(partial(start_images, settings))
    if settings.endpoint == NOISE and not settings.classes:
        return start, NoiseEnd(images.shape)
    return start, ImageEnd(partial(_images_there, settings))


def following(settings: PathSettings) -> BridgeSampling:
    """How the path is followed."""
    return BridgeSampling(settings.sampling_steps, settings.guidance, settings.guidance_interval)


def _images_there(settings: PathSettings) -> Images:
    images = _other_images(settings, training_images)
    assert images is not None  # it is no noise
    return images


def _other_images(settings: PathSettings, part: Callable[[ImageSettings], Images]) -> Images | None:
    if settings.classes:
        return _one_class(settings, part(settings), 1)
    return None if settings.endpoint == NOISE else part(settings._other)


def _one_class(settings: PathSettings, images: Images, which: int) -> Images:
    """The images of one of the two classes, or all where none are asked for."""
    if not settings.classes:
        return images
    name, names = settings.classes[which], images.format.class_names
    if name not in names and not (name.isdecimal() and len(name) < 10 and int(name) < len(names)):
        raise UserError(f"--classes: there is no class {name!r}; there are {', '.join(names[:30])}")
    found = class_part(images, names.index(name) if name in names else int(name))
    if len(found) < 2:
        raise UserError(f"--classes: there must be at least 2 images of class {name}, got {len(found)}")
    return found


def in_turns(
    settings: SchroedingerSettings, images: ImageFormat, *, drifts: bool = True
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a `SchroedingerSystem` for images of this format is made of; ValueError where the two don't fit.

    drifts: whether the networks are drifts. `UserError` for a run `flow` that cannot be begun with.
    """
    check_interval(settings.guidance_interval)
    start, end = ends(settings, images)
    backward, forward = dit(settings, images), dit(settings, images)
    if settings.flow:
        _begin_as(Path(settings.flow), backward, forward, drifts)
    positional = (
        backward,
        forward,
        images.shape,
        start,
        end,
        following(settings),
        settings.sigma,
        len(images.class_names),
    )
    names = ("turn_steps", "refresh", "cache", "label_drop", "seed")
    return positional, {**{name: getattr(settings, name) for name in names}, "trained": bool(settings.flow)}


def _begin_as(path: Path, backward: DiT, forward: DiT, drifts: bool) -> None:
    """Gives both networks the averaged weights of the run at `path`: of a flow, whose velocity is the drift forward."""
    try:
        saved = checkpoint.read(path)
    except UserError as error:
        raise UserError(f"--flow: {error}") from error
    name = saved.value("recipe", str)
    if name not in ("ot-flow", "dsb", "dsb-matching"):
        raise UserError(f"--flow must be a run of ot-flow, dsb or dsb-matching, got one of {escaped(name, 200)}")
    if drifts == (saved.state["settings"].get("target") == "terminal"):
        raise UserError(f"--flow must be a run of which the networks are {'drifts' if drifts else 'terminal targets'}")
    try:
        for network, own in ((backward, "backward_model"), (forward, "forward_model")):
            network.load_state_dict(saved.module(own, "model"))
    except RuntimeError as error:
        raise UserError(f"--flow must be a run with a network of the same sizes and classes, got {path}") from error
    if name == "ot-flow":
        with torch.no_grad():
            for parameter in backward.output.linear.parameters():
                parameter.neg_()
