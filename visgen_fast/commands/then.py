"""`visgen-fast sample --then`: what an upsampler makes of the images that were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..untrusted import MOST_PIXELS, escaped
from . import repeat

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.images import ImageFormat
    from ..systems.upsampler import UpsamplerSystem
    from ..training.checkpoint import Checkpoint


class Upsampler:
    """The upsampler of a run, for images of a format. `UserError` for a run of another kind, or for other sizes."""

    def __init__(self, path: Path, images: ImageFormat) -> None:
        from ..recipes.runs import trained
        from ..systems.upsampler import UpsamplerSystem
        from ..training import checkpoint

        try:
            self.saved: Checkpoint = checkpoint.read(path)
        except UserError as error:
            raise UserError(f"--then: {error}") from error
        name = self.saved.value("recipe", str)
        if name != "upsampler":
            raise UserError(f"--then must be a run of the recipe upsampler, but {path} is of {escaped(name, 200)}")
        system = trained(self.saved)[2]
        assert isinstance(system, UpsamplerSystem)  # all of that recipe are
        if system.small_shape != images.shape:
            raise UserError(
                f"--then must be an upsampler of images of shape {images.shape}, but {path} is one of "
                f"{system.small_shape}"
            )
        self.system: UpsamplerSystem = system
        self.same_classes = system.class_names == images.class_names

    def enlarged(self, drawn: Tensor, labels: Sequence[int], seeds: Sequence[int], *, classes: bool) -> Tensor:
        """Images [rows, columns, …] as large ones; rows are those of the labels, again and again.

        An image depends on the small one, its class, and its place among those of its class and seed. classes: whether
        labels are classes; without, or with others than its own, the upsampler is told none. `UserError` where it was
        trained with a class always, and for a figure that is too large.
        """
        import torch

        from .. import ops
        from ..systems.generative import seeds_of

        rows, columns = drawn.shape[:2]
        null, told = self.system.condition.null_label, classes and self.same_classes
        if not told and self.system.condition.drop == 0:
            raise UserError("--then must be an upsampler of the same classes, or one that was trained without some too")
        if drawn[:, :, 0, 0, 0].numel() * self.system.shape[1] * self.system.shape[2] > MOST_PIXELS:
            raise UserError(f"--then makes a figure of more than {MOST_PIXELS} pixels: give a lower --count-per-class")
        runs = seeds if columns % len(seeds) == 0 else seeds[:1]  # images between two seeds are of neither
        own = [torch.cat([seeds_of(seed, label, columns // len(runs)) for seed in runs]) for label in labels]
        each = torch.cat(own).repeat(rows // len(labels)).to(drawn.device)
        numbers = torch.tensor(labels, device=drawn.device).repeat_interleave(columns).repeat(rows // len(labels))
        each = ops.derive_seeds(each, torch.zeros_like(each), purpose=ops.Purpose.CONDITION)
        whole = self.system.to(drawn.device).enlarge(
            drawn.flatten(0, 1).clamp(-1, 1), numbers if told else torch.full_like(numbers, null), each
        )
        return whole.unflatten(0, (rows, columns))

    def story(self) -> dict[str, Any]:
        """What a drawn file keeps of it."""
        return repeat.story(self.saved.state, self.saved.path, {})


def upsampler_of(path: Path | None, images: ImageFormat, like: Path | None, traverse: bool) -> Upsampler | None:
    """The upsampler that --then names, or None. `UserError` also where the file of --like was drawn with another."""
    told = None if like is None else repeat.read_story(like).get("then")
    if path is None:
        if told is not None:
            raise UserError(f"{like} was drawn with an upsampler, which must be given as --then")
        return None
    if traverse:
        raise UserError("--then and --traverse must not be given together")
    found = Upsampler(path, images)
    if like is not None and told is not None:
        repeat.check_weights(like, found.saved.state, found.saved.path, told)
    return found
