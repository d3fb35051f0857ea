"""Checkpoints: everything a run needs to go on, as safetensors and JSON, written so that a kill never spoils one.

    checkpoints/
        step-00000500/
            weights.safetensors     the trained modules
            average.safetensors     the moving average of those that have one
            optimizer.safetensors   the optimizers' tensors, named <parameter>.<state>
            state.json              the rest, with the SHA-256 of the files above and of the frozen modules'
        frozen/<SHA-256>.safetensors   a frozen module, once for all checkpoints

A checkpoint is written under a name of its own, flushed to the disk, and renamed. Nothing is pickled.

There is no state of random number generators to keep: all randomness follows from the run's seed and the position in
the data; torch's own generators, which dropout draws from, are seeded anew for every turn of every micro-batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..data.images import ImageFormat
from ..errors import UserError
from ..untrusted import MOST_STATE_BYTES, escaped, open_file, read_file
from . import optimizer_state

FORMAT = "visgen_fast checkpoint 2"
PARTS = ("weights", "average", "optimizer")
_STATE = "state.json"
_FROZEN = "frozen"
_TYPES: dict[str, type] = {"step": int, "settings": dict, "images": dict, "sha256": dict, "frozen": dict, "ranks": int}
_NAME = re.compile(r"step-\d{8,}")
_HASH = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = ".unfinished-"

T = TypeVar("T")


class _Damage(Exception):
    """What is wrong with a checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: the tensors of each part of `PARTS` and of the frozen modules, and what state.json says."""

    path: Path
    state: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, by their names in the system; raises `UserError` if they are damaged."""
        try:
            return _load(self.path / f"{part}.safetensors", self.state["sha256"].get(part))
        except _Damage as damage:
            raise self.damaged(damage) from damage

    def frozen(self) -> dict[str, Tensor]:
        """The tensors of the frozen modules, by their names in the system; raises `UserError` if they are damaged."""
        try:
            return {
                f"{name}.{key}": tensor
                for name, sha256 in self.state["frozen"].items()
                for key, tensor in _load(_frozen_file(self.path.parent, sha256), sha256).items()
            }
        except _Damage as damage:
            raise self.damaged(damage) from damage

    def module(self, *names: str) -> dict[str, Tensor]:
        """The state dict of the first of the system's sub-modules `names` that there is, {} for none.

        It is averaged where there is an average of it, with what is frozen in it.
        """
        kept = {**self.frozen(), **self.tensors("average")}
        for tensors in (kept, self.tensors("weights")):
            for name in names:
                inside = f"{name}."
                found = {key.removeprefix(inside): tensor for key, tensor in tensors.items() if key.startswith(inside)}
                if found:
                    return found
        return {}

    def all_tensors(self) -> dict[str, Tensor]:
        """The tensors of all modules, by their names in the system."""
        return {**self.tensors("weights"), **self.frozen()}

    def load_averaged(self, system: nn.Module) -> None:
        """Copies the averaged weights into `system`, and the trained ones of what has no average."""
        tensors = {**self.frozen(), **self.tensors("average")}
        if not system.state_dict().keys() <= tensors.keys():
            tensors = {**self.tensors("weights"), **tensors}
        self._load_into(system, tensors)

    def load_into(self, module: nn.Module, part: str) -> None:
        """Copies the tensors of `part`, and the frozen ones that are in `module`, into it.

        Raises `UserError` if they belong to another network.
        """
        tensors, names = self.frozen(), module.state_dict().keys()
        self._load_into(module, {**{key: tensors[key] for key in tensors.keys() & names}, **self.tensors(part)})

    def _load_into(self, module: nn.Module, tensors: dict[str, Tensor]) -> None:
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(
                f"the checkpoint {self.path} holds the weights of another network than its settings say"
            ) from error

    def load_optimizers(self, optimizers: Sequence[torch.optim.Optimizer], module: nn.Module) -> None:
        """Gives the optimizers of `module`'s parameters their state; raises `UserError` if it isn't theirs."""
        try:
            optimizer_state.load(optimizers, module, self.tensors("optimizer"))
        except ValueError as error:
            raise self.damaged(f"optimizer.safetensors {error}") from error

    def value(self, name: str, kind: type[T]) -> T:
        """What state.json says under `name`; raises `UserError` if that is not of type `kind`."""
        found = self.state.get(name)
        if type(found) is not kind:
            raise self.damaged(f"{_STATE} has no {name!r} of type {kind.__name__}")
        return found

    @property
    def images(self) -> ImageFormat:
        """The format of the images that the run was trained on."""
        try:
            return ImageFormat.from_json(self.state["images"])
        except (KeyError, TypeError, ValueError) as error:
            raise self.damaged(f"{_STATE} describes no images ({error!r})") from error

    def damaged(self, what: object) -> UserError:
        """The sentence for a damaged checkpoint, with the way out where an earlier one is intact."""
        return _damaged(self.path, what)

    def part(self, name: str) -> Checkpoint:
        """That of the frozen system `name` inside this one, which the run remembers as what state.json says of it.

        Raises `UserError` where there is none.
        """
        remembered = self.state.get("remembered")
        state = remembered.get(name) if isinstance(remembered, dict) else None
        if not isinstance(state, dict):
            raise UserError(f"{self.path} holds no {escaped(name)}")
        whole = {key: self.state[key] for key in ("step", "sha256", "ranks")}
        try:
            return CheckpointPart(self.path / name, _checked({**state, **whole, "frozen": {}}), self)
        except _Damage as damage:
            raise self.damaged(damage) from damage


@dataclass(frozen=True)
class CheckpointPart(Checkpoint):
    """The checkpoint of a frozen system inside another, `whole`: all of it is frozen there."""

    whole: Checkpoint

    def tensors(self, part: str) -> dict[str, Tensor]:
        return {}

    def frozen(self) -> dict[str, Tensor]:
        inside = f"{self.path.name}."
        tensors = self.whole.frozen().items()
        return {key.removeprefix(inside): tensor for key, tensor in tensors if key.startswith(inside)}


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _NAME.fullmatch(path.name) and path.is_dir()), key=_step)


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, which may also be a run's folder, whose newest checkpoint is meant.

    Where a system has another one in it, as a cascade its `coarse` one, PATH/coarse is that one's. Raises `UserError`
    if there is none or if it isn't one of ours.
    """
    newest = (checkpoints(path / "checkpoints") or checkpoints(path) or [path])[-1]
    try:
        return Checkpoint(newest, _read_state(newest))
    except FileNotFoundError as error:
        with suppress(UserError):
            if not path.exists() and path.parent.is_dir():
                return read(path.parent).part(path.name)
        raise UserError(f"{path} holds no checkpoint of visgen-fast") from error
    except _Damage as damage:
        raise _damaged(newest, damage) from damage


def write(
    folder: Path,
    step: int,
    parts: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    *,
    frozen: dict[str, str],
    keep: int,
) -> Path:
    """Writes the checkpoint of `step` into `folder` and removes all but the newest `keep`. Returns its path.

    `parts` has the tensors of each name in `PARTS`; `frozen` the hashes that `write_frozen` gave for the frozen
    modules, by name; `state` is anything that JSON can hold. Wherever this is killed, the checkpoints listed by
    `checkpoints` are complete, and the previous one is among them. Raises `UserError` where the disk refuses.
    """
    final = folder / f"step-{step:08d}"
    unfinished = folder / f"{_UNFINISHED}{final.name}"
    try:
        _clear(folder)
        unfinished.mkdir()
        for name in PARTS:
            _save(parts[name], unfinished / f"{name}.safetensors")
        sha256 = {name: _sha256(unfinished / f"{name}.safetensors") for name in PARTS}
        content = {"format": FORMAT, "step": step, **state, "frozen": frozen, "sha256": sha256}
        (unfinished / _STATE).write_text(json.dumps(content, indent=2) + "\n")
        for path in (*unfinished.iterdir(), unfinished):
            _flush(path)
        os.rename(unfinished, final)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        raise _unwritten(folder, error) from error
    for old in checkpoints(folder)[:-keep]:
        _discard(old)
    _discard_frozen(folder)
    return final


def write_frozen(folder: Path, tensors: dict[str, Tensor]) -> str:
    """Writes a frozen module's state dict into `folder`, unless it is there; returns the SHA-256 that names it."""
    unfinished = folder / f"{_UNFINISHED}{_FROZEN}"
    try:
        _clear(folder)
        _save(tensors, unfinished)
        sha256 = _sha256(unfinished)
        _flush(unfinished)
        final = _frozen_file(folder, sha256)
        final.parent.mkdir(exist_ok=True)
        os.rename(unfinished, final)
        _flush(final.parent)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        raise _unwritten(folder, error) from error
    return sha256


def has_frozen(folder: Path, sha256: str) -> bool:
    """Whether the frozen module of this hash is in `folder`."""
    return _frozen_file(folder, sha256).is_file()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _frozen_file(folder: Path, sha256: str) -> Path:
    return folder / _FROZEN / f"{sha256}.safetensors"


def _read_state(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's state.json; FileNotFoundError without one, `UserError` if it isn't one of ours."""
    file = path / _STATE
    try:
        state = json.loads(read_file(file, MOST_STATE_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise
    except UserError as error:
        raise _Damage(f"{_STATE} is not a file of at most {MOST_STATE_BYTES} bytes") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _Damage(f"{_STATE} cannot be read ({error})") from error
    written = state.get("format") if isinstance(state, dict) else None
    if written != FORMAT:
        known = f": it is of format {written!r}" if isinstance(written, str) and written.isprintable() else ""
        raise UserError(f"{path} is not a checkpoint that this version of visgen-fast can read{known[:80]}")
    return _checked(state)


def _checked(state: dict[str, Any]) -> dict[str, Any]:
    """What state.json says, where it says all that it must."""
    for name, kind in _TYPES.items():
        if type(state.get(name)) is not kind:
            raise _Damage(f"{_STATE} has no {name!r} of type {kind.__name__}")
    if not all(isinstance(sha256, str) and _HASH.fullmatch(sha256) for sha256 in state["frozen"].values()):
        raise _Damage(f"{_STATE} names its frozen modules by other than SHA-256")
    return state


def _load(path: Path, sha256: object) -> dict[str, Tensor]:
    try:
        if _sha256(path) != sha256:
            raise _Damage(f"{path.name} is not what was written")
        return load_file(path)
    except (OSError, SafetensorError, UserError) as error:
        raise _Damage(f"{path.name} cannot be read ({error})") from error


def _damaged(path: Path, what: object) -> UserError:
    earlier = [other for other in checkpoints(path.parent) if _NAME.fullmatch(path.name) and _step(other) < _step(path)]
    intact = next(filter(_is_intact, reversed(earlier)), None)
    way_out = f"; {intact} is intact: name that one, or remove the damaged one to go on from there"
    return UserError(f"the checkpoint {path} is damaged: {what}{'' if intact is None else way_out}")


def _is_intact(path: Path) -> bool:
    try:
        state = _read_state(path)
        files = {path / f"{part}.safetensors": state["sha256"].get(part) for part in PARTS}
        files |= {_frozen_file(path.parent, sha256): sha256 for sha256 in state["frozen"].values()}
        return all(_sha256(file) == sha256 for file, sha256 in files.items())
    except (OSError, UserError, _Damage):
        return False


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors to a safetensors file that has the permissions of any new file."""
    kept: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        address = tensor.untyped_storage().data_ptr()
        # Tied weights are written under each of their names: safetensors would refuse to share memory.
        kept[name] = tensor.clone() if address in memory else tensor
        memory.add(address)
    path.touch()
    permissions = path.stat().st_mode
    save_file(kept, path)
    path.chmod(permissions)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
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


def _unwritten(folder: Path, error: Exception) -> UserError:
    """The sentence for a disk that refuses; gives back what the unfinished checkpoint takes of it."""
    with suppress(OSError):
        _clear(folder)
    reason = getattr(error, "strerror", None) or error
    newest = checkpoints(folder)[-1:]
    kept = f"; the last one written is {newest[0]}" if newest else ""
    return UserError(f"a checkpoint could not be written to {folder}: {reason}{kept}")


def _discard(path: Path) -> None:
    """Removes a checkpoint, renamed first, so that half of one never has a checkpoint's name."""
    doomed = path.with_name(f"{_UNFINISHED}old-{path.name}")
    os.rename(path, doomed)
    _remove(doomed)


def _discard_frozen(folder: Path) -> None:
    """Removes frozen modules of which no checkpoint tells, unless one can't be asked."""
    stored = list((folder / _FROZEN).glob("*.safetensors"))
    if not stored:
        return
    try:
        needed = {sha256 for path in checkpoints(folder) for sha256 in _read_state(path)["frozen"].values()}
    except (OSError, UserError, _Damage):
        return
    for path in stored:
        if path.stem not in needed:
            path.unlink()


def _clear(folder: Path) -> None:
    """Makes `folder`, and removes what a killed process left unfinished there."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{_UNFINISHED}*"):
        _remove(path)


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
