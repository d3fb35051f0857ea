"""Checkpoints: everything a run needs to go on, as safetensors and JSON, written so that a kill never spoils one.

    checkpoints/step-00000500/
        weights.safetensors     the trained module
        average.safetensors     its moving average
        optimizer.safetensors   the optimizer's tensors, named <parameter>.<state>
        state.json              the rest, with the SHA-256 of the files above

A checkpoint is written under a name of its own, flushed to the disk, and renamed. Nothing is pickled.

There is no state of random number generators to keep: all randomness follows from the run's seed and the position in
the data; torch's own generators, which dropout draws from, are seeded anew for every micro-batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError

FORMAT = "visgen_fast checkpoint 1"
PARTS = ("weights", "average", "optimizer")
_NAME = re.compile(r"step-\d{8,}")
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: the tensors of each part of `PARTS`, and the content of state.json."""

    path: Path
    state: dict[str, Any]

    def tensors(self, part: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The tensors of one part; raises `UserError` if the file is missing or damaged."""
        path = self.path / f"{part}.safetensors"
        try:
            if _sha256(path) != self.state["sha256"][part]:
                raise UserError(f"the checkpoint {self.path} is damaged: {path.name} is not what was written")
            return load_file(path, device=str(device))
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"the checkpoint {self.path} is damaged: {path.name} cannot be read ({error})") from error

    def load_into(self, module: nn.Module, part: str) -> None:
        """Copies the tensors of `part` into `module`; raises `UserError` if they belong to another network."""
        try:
            module.load_state_dict(self.tensors(part))
        except RuntimeError as error:
            raise UserError(
                f"the checkpoint {self.path} holds the weights of another network than its settings say"
            ) from error


def write(folder: Path, step: int, parts: dict[str, dict[str, Tensor]], state: dict[str, Any], *, keep: int) -> Path:
    """Writes the checkpoint of `step` into `folder` and removes all but the newest `keep`. Returns its path.

    `parts` has the tensors of each name in `PARTS`; `state` is anything that JSON can hold. Wherever this is killed,
    the checkpoints listed by `checkpoints` are complete, and the previous one is among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
    final = folder / f"step-{step:08d}"
    unfinished = folder / f"{_UNFINISHED}{final.name}"
    unfinished.mkdir()
    for name in PARTS:
        save_file({key: tensor.contiguous() for key, tensor in parts[name].items()}, unfinished / f"{name}.safetensors")
    sha256 = {name: _sha256(unfinished / f"{name}.safetensors") for name in PARTS}
    content = {"format": FORMAT, "step": step, **state, "sha256": sha256}
    (unfinished / "state.json").write_text(json.dumps(content, indent=2) + "\n")
    for path in (*unfinished.iterdir(), unfinished):
        _flush(path)
    os.rename(unfinished, final)
    _flush(folder)
    for old in checkpoints(folder)[:-keep]:
        _discard(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, which may also be a run's folder, whose newest checkpoint is meant.

    Raises `UserError` if there is none or if it isn't one of ours.
    """
    newest = (checkpoints(path / "checkpoints") or checkpoints(path) or [path])[-1]
    try:
        state = json.loads((newest / "state.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} holds no checkpoint of visgen-fast") from error
    except (OSError, ValueError) as error:
        raise UserError(f"the checkpoint {newest} is damaged: state.json cannot be read ({error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{newest} is not a checkpoint that this version of visgen-fast can read")
    return Checkpoint(newest, state)


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: {"<parameter>.<state>": tensor}."""
    return {
        f"{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Gives `optimizer`, made for `module`, the state that `optimizer_tensors` took."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    by_name: dict[str, dict[str, Tensor]] = {name: {} for name in names.values()}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition(".")
        by_name[name][kind] = tensor
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {index: by_name[names[parameter]] for index, parameter in enumerate(ordered)}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    """Removes a checkpoint, renamed first, so that half of one never has a checkpoint's name."""
    if path.exists():
        doomed = path.with_name(f"{_UNFINISHED}old-{path.name}")
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path)
