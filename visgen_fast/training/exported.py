"""A trained model in one safetensors file: averaged weights, and what it takes to build the networks again.

The file's metadata has what a checkpoint's state.json has, and the SHA-256 of the tensors. What is read from it decides
as little as what is read from a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError, writing
from ..untrusted import MOST_STATE_BYTES
from .checkpoint import Checkpoint
from .described import Damage, checked, weights_hash

FORMAT = "visgen_fast model 1"
_KEY = "visgen_fast"


@dataclass(frozen=True)
class Exported(Checkpoint):
    """A model in the file `path`, as a checkpoint that has nothing to go on training with."""

    def tensors(self, part: str) -> dict[str, Tensor]:
        if part == "optimizer":
            raise UserError(f"{self.path} is a model to draw with, which no training can go on from")
        try:
            found = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise self.damaged(error) from error
        if _digest(found) != self.state["tensors"]:
            raise self.damaged("its tensors are not what was written")
        return found

    def frozen(self) -> dict[str, Tensor]:
        return self.tensors("weights")

    @property
    def sharded(self) -> bool:
        return False

    def damaged(self, what: object) -> UserError:
        return UserError(f"the model {self.path} is damaged: {what}")


def export(saved: Checkpoint, out: Path) -> None:
    """Writes the model of a checkpoint to the file `out`; `UserError` where it is damaged or the disk refuses."""
    tensors = {**saved.tensors("weights"), **saved.tensors("average"), **saved.frozen()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    hashes = {"average": weights_hash(saved.state)}
    state = {**saved.state, "format": FORMAT, "frozen": {}, "sha256": hashes, "tensors": _digest(tensors)}
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.with_name(f".unfinished-{out.name}")
        try:
            save_file(tensors, unfinished, metadata={_KEY: json.dumps(state)})
            unfinished.replace(out)
        except SafetensorError as error:
            raise OSError(None, str(error)) from error
        finally:
            unfinished.unlink(missing_ok=True)


def read(path: Path) -> Exported:
    """The model in the file `path`; `UserError` where there is none of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(_KEY, "")
        state = json.loads(described) if 0 < len(described) <= MOST_STATE_BYTES else None
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path} holds no checkpoint and no model of visgen-fast ({error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("tensors"), str):
        raise UserError(f"{path} is no model that this version of visgen-fast can read")
    try:
        return Exported(path, checked(state))
    except Damage as damage:
        raise UserError(f"the model {path} is damaged: {damage}") from damage


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
