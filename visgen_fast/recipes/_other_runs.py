"""What a run takes from another one when it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..training import checkpoint
from ..training.errors import UserError


def averaged_weights(path: Path, modules: Sequence[str], argument: str) -> dict[str, Tensor]:
    """The state dict of the first of a system's sub-modules `modules` that it has, by its moving average; {} for none.

    `path` is a run's or a checkpoint's; `UserError`, which names the command line's `argument`, unless it can be read.
    """
    try:
        tensors = checkpoint.read(path).tensors("average")
    except UserError as error:
        raise UserError(f"{argument}: {error}") from error
    found = [
        {name.removeprefix(f"{module}."): tensor for name, tensor in tensors.items() if name.startswith(f"{module}.")}
        for module in modules
    ]
    return next(filter(None, found), {})
