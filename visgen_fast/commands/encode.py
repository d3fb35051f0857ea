"""`visgen-fast encode`: the latents of a data set, made once."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import UserError
from .options import device_named, parse


@dataclass(frozen=True)
class EncodeOptions:
    """Write what a trained first stage says of all images of a data set: a model above it is trained on that alone.

    What was interrupted goes on where it was. `visgen-fast train latent-diffusion --first-stage RUN --cache OUT`, with
    the same data set, then encodes nothing, and with the same text encoder no captions either.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the first stage's run, or of one checkpoint."""
    out: Path
    """Folder for the latents, which training is given as --cache."""
    data: str = ""
    """The data set, by name or as a folder; by default the one that the run was trained on."""
    image_column: str = ""
    """As of visgen-fast train."""
    label_column: str = ""
    """As of visgen-fast train."""
    text_column: str = ""
    """As of visgen-fast train."""
    horizontal_flip: bool = False
    """Encode mirrored images too, for training with --horizontal-flip."""
    text_encoder: str = ""
    """For text-to-image: encode images that have captions, and the captions too, by the text encoder in this folder,
    or all-MiniLM-L6-v2."""
    text_tokens: int = 64
    """Tokens of a caption that are read at most."""
    workers: int = 0
    """Processes that load images; 0 loads them in this one."""
    device: str = "auto"
    """Where to compute, as torch names it, for example cpu or cuda:1."""


def encode(arguments: list[str]) -> int:
    keep(parse(EncodeOptions, arguments, "visgen-fast encode"))
    return 0


def keep(options: EncodeOptions) -> None:
    """Makes what the options of `encode` ask for, and says how far it is."""
    from ..recipes.encoding import encode_all, encoding

    columns = {name: getattr(options, name) for name in ("image_column", "label_column", "text_column")}
    texts = {"text_encoder": options.text_encoder, "text_tokens": options.text_tokens}
    settings = encoding(
        options.run,
        options.data,
        cache=str(options.out),
        horizontal_flip=options.horizontal_flip,
        workers=options.workers,
        **{name: column for name, column in columns.items() if column},
        **(texts if options.text_encoder else {}),
    )
    if settings.data and options.out.resolve().is_relative_to(Path(settings.data).resolve()):
        raise UserError(f"--out must not lie inside the folder of the images, got {options.out} inside {settings.data}")
    device, began = device_named(options.device), time.monotonic()

    def told(line: str) -> None:
        print(f"{line}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    images, captions = encode_all(settings, device=device, told=told)
    beside = f" and {captions:,} captions" if captions else ""
    print(f"{images:,} images{beside}: --cache {options.out}")
