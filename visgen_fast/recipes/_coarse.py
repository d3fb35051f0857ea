"""What cascades share: the run of a model of codes on the same images at half their size, kept as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ..data.images import ImageFormat
from ..errors import UserError
from ..systems.codes import CodeSystem
from ..training import checkpoint
from ..training.checkpoint import Checkpoint
from ..untrusted import escaped
from ._first_stage import FirstStageSettings
from .runs import trained


@dataclass(frozen=True, kw_only=True)
class CoarseSettings(FirstStageSettings):
    """A model of codes after a coarse one."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = ("first_stage", "coarse")

    coarse: str = ""
    """The run of the coarse model, on the same images at half their size; checkpoints keep its weights."""

    def __post_init__(self) -> None:
        if isinstance(self.coarse, str) and self.coarse:
            object.__setattr__(self, "coarse", str(Path(self.coarse).absolute()))
        super().__post_init__()


class Coarse(NamedTuple):
    """A trained system of coarse codes, and how to build it again."""

    system: CodeSystem
    origin: dict[str, Any]


def coarse_run(settings: CoarseSettings, images: ImageFormat, depth: int, values: int, kinds: Sequence[str]) -> Coarse:
    """The system of the run that the settings name, for images of this format.

    depth, values: of the fine codes, at a place and of a code. kinds: the recipes that the run may be of. `UserError`
    for another, and for one of other images, sizes or codes.
    """
    wanted = f"--coarse must be a run of {', '.join(kinds[:-1]) + ' or ' if kinds[:-1] else ''}{kinds[-1]}"
    if not settings.coarse:
        raise UserError(f"{wanted}, and none was given")
    try:
        saved = checkpoint.read(Path(settings.coarse))
    except UserError as error:
        raise UserError(f"--coarse: {error}") from error
    if saved.images.shape == images.shape and _has_coarse(saved):
        saved = saved.part("coarse")  # it is a run like the one that is built
    name = saved.value("recipe", str)
    if name not in kinds:
        raise UserError(f"{wanted}, but {settings.coarse} is of {escaped(name, 200)}")
    half = replace(images, height=images.height // 2, width=images.width // 2)
    if images.height % 2 or images.width % 2 or saved.images.shape != half.shape:
        raise UserError(
            f"--coarse must be of images of half the size of {images.shape}, but {settings.coarse} is of "
            f"{saved.images.shape}"
        )
    if saved.images != half:
        raise UserError(f"--coarse must be of images of the same classes, but {settings.coarse} is of others")
    _, _, system = trained(saved)
    assert isinstance(system, CodeSystem)  # all kinds are
    codes = system.measured
    if codes.order.shape[-1] != depth or codes.size > values:
        raise UserError(
            f"--coarse must have {depth} codes at a place, of at most {values} values, but {settings.coarse} has "
            f"{codes.order.shape[-1]} of {codes.size}"
        )
    kept = ("recipe", "settings", "images", "remembered")
    return Coarse(system, {key: saved.state[key] for key in kept if key in saved.state})


def _has_coarse(saved: Checkpoint) -> bool:
    remembered = saved.state.get("remembered")
    return isinstance(remembered, dict) and "coarse" in remembered
