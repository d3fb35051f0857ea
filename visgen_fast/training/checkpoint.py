"""Checkpoints: everything a run needs to go on, as safetensors and JSON, written so that a kill never spoils one.

    checkpoints/
        step-00000500/
            weights.safetensors     the trained modules
            average.safetensors     the moving average of those that have one
            optimizer.safetensors   the optimizers' tensors, named <parameter>.<state>
            state.json              the rest, with the SHA-256 of the files above and of the frozen modules'
            shards/                 of a sharded run, in the place of the three: a file of each rank (`shard_files`)
        frozen/<SHA-256>.safetensors   a frozen module, once for all checkpoints

A checkpoint is written under a name of its own, flushed to the disk, and renamed. Nothing is pickled.

There is no state of random number generators to keep: all randomness follows from the run's seed and the position in
the data; torch's own generators, which dropout draws from, are seeded anew for every turn of every micro-batch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..data.images import ImageFormat
from ..errors import UserError
from ..untrusted import MOST_STATE_BYTES, escaped, read_file
from . import optimizer_state, shard_files
from .described import FORMAT, SHARDED, Damage, checked
from .disk import flush, remove, save, sha256_of

PARTS = ("weights", "average", "optimizer")
_STATE = "state.json"
_FROZEN = "frozen"
_NAME = re.compile(r"step-\d{8,}")
_UNFINISHED = ".unfinished-"

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: the tensors of each part of `PARTS` and of the frozen modules, and what state.json says."""

    path: Path
    state: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, by their names in the system; raises `UserError` if they are damaged."""
        try:
            if self.sharded:
                return shard_files.merged(self._shards, f"{part}.")
            return _load(self.path / f"{part}.safetensors", self.state["sha256"].get(part))
        except (Damage, ValueError, OSError, SafetensorError) as damage:
            raise self.damaged(damage) from damage

    @property
    def sharded(self) -> bool:
        """Whether each rank has written its share of the tensors."""
        return self.state.get("format") == SHARDED

    @cached_property
    def _shards(self) -> Path:
        """The folder of the shards, which are intact."""
        return [self.intact(name) for name in self.state["sha256"]][0].parent

    def intact(self, part: str) -> Path:
        """The file of a part, or of a shard; raises `UserError` unless it is what was written."""
        file = self.path / f"{part}.safetensors"
        try:
            if sha256_of(file) == self.state["sha256"].get(part):
                return file
        except (OSError, UserError) as error:
            raise self.damaged(f"{file.name} cannot be read ({error})") from error
        raise self.damaged(f"{file.name} is not what was written")

    def frozen(self) -> dict[str, Tensor]:
        """The tensors of the frozen modules, by their names in the system; raises `UserError` if they are damaged."""
        try:
            return {
                f"{name}.{key}": tensor
                for name, sha256 in self.state["frozen"].items()
                for key, tensor in _load(_frozen_file(self.path.parent, sha256), sha256).items()
            }
        except Damage as damage:
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
            raise self.of_another_network() from error

    def of_another_network(self) -> UserError:
        return UserError(f"the checkpoint {self.path} holds the weights of another network than its settings say")

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
            return CheckpointPart(self.path / name, checked({**state, **whole, "frozen": {}}), self)
        except Damage as damage:
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

    A file is what `exported` wrote. Where a system has another one in it, as a cascade its `coarse` one, PATH/coarse is
    that one's. Raises `UserError` if there is none or if it isn't one of ours.
    """
    if path.is_file():
        from . import exported

        return exported.read(path)
    newest = (checkpoints(path / "checkpoints") or checkpoints(path) or [path])[-1]
    try:
        return Checkpoint(newest, _read_state(newest))
    except (FileNotFoundError, NotADirectoryError) as error:
        with suppress(UserError):
            if not path.exists() and path.parent.exists():
                return read(path.parent).part(path.name)
        raise UserError(f"{path} holds no checkpoint of visgen-fast") from error
    except Damage as damage:
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
    try:
        unfinished = begin(folder, step)
        for name in PARTS:
            save(parts[name], unfinished / f"{name}.safetensors")
        sha256 = {name: sha256_of(unfinished / f"{name}.safetensors") for name in PARTS}
        content = {"format": FORMAT, "step": step, **state, "frozen": frozen, "sha256": sha256}
        complete(unfinished, content)
    except (OSError, SafetensorError) as error:
        raise unwritten(folder, error) from error
    return discard_old(folder, keep)


def begin(folder: Path, step: int) -> Path:
    """Makes the folder in which the checkpoint of `step` is written."""
    _clear(folder)
    (unfinished := folder / f"{_UNFINISHED}step-{step:08d}").mkdir()
    return unfinished


def complete(unfinished: Path, content: dict[str, Any]) -> None:
    """Writes the state.json of a checkpoint whose other files are written, and gives it its name."""
    (unfinished / _STATE).write_text(json.dumps(content, indent=2) + "\n")
    for path in (*unfinished.rglob("*"), unfinished):
        flush(path)
    os.rename(unfinished, unfinished.with_name(unfinished.name.removeprefix(_UNFINISHED)))
    flush(unfinished.parent)


def discard_old(folder: Path, keep: int) -> Path:
    """Removes all checkpoints but the newest `keep`; returns the newest."""
    for old in checkpoints(folder)[:-keep]:
        _discard(old)
    _discard_frozen(folder)
    return checkpoints(folder)[-1]


def write_frozen(folder: Path, tensors: dict[str, Tensor]) -> str:
    """Writes a frozen module's state dict into `folder`, unless it is there; returns the SHA-256 that names it."""
    unfinished = folder / f"{_UNFINISHED}{_FROZEN}"
    try:
        _clear(folder)
        save(tensors, unfinished)
        sha256 = sha256_of(unfinished)
        flush(unfinished)
        final = _frozen_file(folder, sha256)
        final.parent.mkdir(exist_ok=True)
        os.rename(unfinished, final)
        flush(final.parent)
        flush(folder)
    except (OSError, SafetensorError) as error:
        raise unwritten(folder, error) from error
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
    except (FileNotFoundError, NotADirectoryError):
        raise
    except UserError as error:
        raise Damage(f"{_STATE} is not a file of at most {MOST_STATE_BYTES} bytes") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Damage(f"{_STATE} cannot be read ({error})") from error
    written = state.get("format") if isinstance(state, dict) else None
    if written not in (FORMAT, SHARDED):
        known = f": it is of format {written!r}" if isinstance(written, str) and written.isprintable() else ""
        raise UserError(f"{path} is not a checkpoint that this version of visgen-fast can read{known[:80]}")
    return checked(state)


def _load(path: Path, sha256: object) -> dict[str, Tensor]:
    try:
        if sha256_of(path) != sha256:
            raise Damage(f"{path.name} is not what was written")
        return load_file(path)
    except (OSError, SafetensorError, UserError) as error:
        raise Damage(f"{path.name} cannot be read ({error})") from error


def _damaged(path: Path, what: object) -> UserError:
    earlier = [other for other in checkpoints(path.parent) if _NAME.fullmatch(path.name) and _step(other) < _step(path)]
    intact = next(filter(_is_intact, reversed(earlier)), None)
    way_out = f"; {intact} is intact: name that one, or remove the damaged one to go on from there"
    return UserError(f"the checkpoint {path} is damaged: {what}{'' if intact is None else way_out}")


def _is_intact(path: Path) -> bool:
    try:
        state = _read_state(path)
        parts = state["sha256"] if state["format"] == SHARDED else PARTS
        files = {path / f"{part}.safetensors": state["sha256"].get(part) for part in parts}
        files |= {_frozen_file(path.parent, sha256): sha256 for sha256 in state["frozen"].values()}
        return all(sha256_of(file) == sha256 for file, sha256 in files.items())
    except (OSError, UserError, Damage):
        return False


def unwritten(folder: Path, error: Exception) -> UserError:
    """The sentence for a disk that refuses; gives back what the unfinished checkpoint takes of it."""
    with suppress(OSError):
        _clear(folder)
    reason = getattr(error, "strerror", None) or error
    newest = checkpoints(folder)[-1:]
    kept = f"; the last one written is {newest[0]}" if newest else ""
    return UserError(f"a checkpoint could not be written to {folder}: {reason}{kept}")


def _discard(path: Path) -> None:
    """Removes a checkpoint, renamed first, so that half of one never has a checkpoint's name."""
    remove(path.rename(path.with_name(f"{_UNFINISHED}old-{path.name}")))


def _discard_frozen(folder: Path) -> None:
    """Removes frozen modules of which no checkpoint tells, unless one can't be asked."""
    stored = list((folder / _FROZEN).glob("*.safetensors"))
    if not stored:
        return
    try:
        needed = {sha256 for path in checkpoints(folder) for sha256 in _read_state(path)["frozen"].values()}
    except (OSError, UserError, Damage):
        return
    for path in stored:
        if path.stem not in needed:
            path.unlink()


def _clear(folder: Path) -> None:
    """Makes `folder`, and removes what a killed process left unfinished there."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{_UNFINISHED}*"):
        remove(path)
