"""What `visgen-fast sample` does for a model of clips: their length, what they begin with, strips and GIFs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, writing
from ..untrusted import MOST_FRAMES
from . import repeat

if TYPE_CHECKING:
    from torch import Tensor

    from ..systems.clips import ClipSystem
    from ..systems.generative import GenerativeSystem
    from .sample import SampleOptions

OPTIONS = ("frames", "context")
_OF_IMAGES = ("complete", "interpolate", "traverse", "preview_gif", "preview_strip")
_FRAME = 125  # milliseconds
_LUMINANCE = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as Pillow's


def check(options: SampleOptions, system: GenerativeSystem, recipe: str) -> None:
    """`UserError` for options of clips where there are none, and of images where there are clips."""
    from ..systems.clips import ClipSystem

    clips = isinstance(system, ClipSystem)
    for name in _OF_IMAGES if clips else OPTIONS:
        if getattr(options, name) not in (None, False):
            kind = "images" if clips else "clips"
            raise UserError(f"--{name.replace('_', '-')} is for a model of {kind}, and the recipe {recipe} trains none")
    if options.frames is not None and not 1 <= options.frames <= MOST_FRAMES:
        raise UserError(f"--frames must lie in [1, {MOST_FRAMES}], got {options.frames}")


def kept(options: SampleOptions) -> dict[str, Any]:
    """What a file says of these options: of a context the name, not the folder."""
    found = {"frames": options.frames, "context": options.context and options.context.name}
    return {name: value for name, value in found.items() if value is not None}


def drawn(
    system: ClipSystem, labels: Sequence[int], count: int, options: SampleOptions, asked: dict[str, Any]
) -> Tensor:
    """The clips [labels, columns, C, T, H, W]. ValueError for frames or a context that the model cannot have."""
    from ..systems.generative import draw_samples

    device = next(system.parameters()).device
    frames = system.frames if options.frames is None else options.frames
    system.check_frames(frames, "--frames")
    given: dict[str, Any] = {"frames": frames}
    if options.context is not None:
        channels, _, height, width = system.clip_shape
        given["context"] = _context(options.context, channels, (height, width), frames).to(device)
        system.check_frames(given["context"].shape[2], f"--context {options.context}: its frames")
    shared: dict[str, Any] = {"seed": options.seeds, "device": device, "same_noise": bool(options.prompt)}
    return draw_samples(system, labels, count, **shared, **given, **asked)


def _context(path: Path, channels: int, size: tuple[int, int], frames: int) -> Tensor:
    """The frames of a file, [1, channels, n, H, W] in [−1, 1]; `UserError` unless they fit into such a clip."""
    import torch

    from ..data.images import to_range
    from ..data.video_file import whole

    try:
        found = whole(path, 1)
        if found.shape[2:] == size:
            found = whole(path, frames)
    except (UserError, OSError) as error:
        raise UserError(f"--context {path}: {getattr(error, 'strerror', None) or error}") from error
    except Exception as error:  # of any type: the file may hold anything
        raise UserError(f"--context {path} cannot be decoded: {error or type(error).__name__}") from error
    if found.shape[2:] != size:
        raise UserError(
            f"--context must be of {size[1]}×{size[0]} pixels, as the clips are, but {path} has "
            f"{found.shape[3]}×{found.shape[2]}"
        )
    if found.shape[1] == frames:
        raise UserError(f"--context must be shorter than the clip's {frames} frames, but {path} has no fewer")
    if channels == 1:
        found = torch.tensordot(torch.tensor(_LUMINANCE), found.float(), 1)[None].round()
    return to_range(found)[None]


def save(
    drawn: Tensor, names: Sequence[str], files: Sequence[str], labels: Sequence[int], out: Path, told: dict[str, Any]
) -> None:
    """Writes clips [rows, columns, C, T, H, W]: a PNG file, a row of frames for each, and beside it a GIF of all.

    Where `out` is a folder, a GIF of each in its true size: label / file .gif.
    """
    from ..data.images import as_pixels
    from ..training.figures import image_grid

    if out.suffix:
        columns = drawn.shape[1]
        rows = [name if column == 0 else "" for name in names for column in range(columns)]
        repeat.save(image_grid(drawn.flatten(0, 1).transpose(1, 2), rows), out, told)
        _save_gif([image_grid(frame, names) for frame in drawn.unbind(3)], out.with_suffix(".gif"))
        return
    for label, row in zip(labels, drawn, strict=True):
        (out / str(label)).mkdir(parents=True, exist_ok=True)
        for file, clip in zip(files, row, strict=True):
            pixels = as_pixels(clip.transpose(0, 1), 1)
            _save_gif(list(pixels[..., 0] if len(clip) == 1 else pixels), out / str(label) / f"{file}.gif")


def _save_gif(frames: Sequence[Any], path: Path) -> None:
    """Frames, as Pillow's images or uint8 [H, W] or [H, W, 3], as an animation; grey ones keep their values."""
    import numpy as np
    from PIL import Image

    first, *others = (Image.fromarray(np.ascontiguousarray(frame)) for frame in frames)
    with writing(path):
        first.save(path, format="GIF", save_all=True, append_images=others, duration=_FRAME, loop=0)
