"""`visgen-fast export`: a trained model as one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import UserError
from .options import parse


@dataclass(frozen=True)
class ExportOptions:
    """Write a trained model to one safetensors file, which sample and evaluate read in the place of its run.

    It has the averaged weights, and all settings that build the networks again; nothing to go on training with.
    """

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run, whose newest checkpoint is taken, or of one checkpoint."""
    out: Path | None = None
    """The file; by default model.safetensors in the folder given."""


def export(arguments: list[str]) -> int:
    write(parse(ExportOptions, arguments, "visgen-fast export"))
    return 0


def write(options: ExportOptions) -> None:
    """Writes the file that the options of `export` ask for."""
    from ..training import checkpoint, exported

    out = options.out or options.checkpoint / "model.safetensors"
    if out.suffix != ".safetensors":
        raise UserError(f"--out must be a file that ends in .safetensors, got {out}")
    saved = checkpoint.read(options.checkpoint)
    exported.export(saved, out)
    print(f"{saved.state['recipe']}, step {saved.state['step']}: {out.stat().st_size / 1e6:.1f} MB in {out}")
