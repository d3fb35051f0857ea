"""The folder of a run: whose it is, who may write there, its settings, its checkpoints."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch import distributed as dist

from ..errors import UserError, writing
from . import checkpoint, sharded_checkpoint
from .settings import TrainingSettings, require_same, settings_from

logger = logging.getLogger(__name__)

_LOCK = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[int] = set()


class Run:
    """A run in the folder `out`: a new one, or with `resume` the one that is there, if there is one.

    `identity` is stored in the checkpoints: what it takes to build the system again. `saved` is the checkpoint to go on
    from, None for a new run. Nothing is written before `begin`; from then to `close` no other process may train in
    `out`, and it may again when this process ends, however that happens.

    Raises `UserError` where `out` holds a run and `resume` is False, or a run of another identity or mathematics.
    """

    def __init__(
        self, out: Path, settings: TrainingSettings, *, identity: dict[str, Any], resume: bool = False
    ) -> None:
        self.out, self.settings, self.identity = out, settings, identity
        self.saved = checkpoint.read(self._found[-1]) if self._found else None
        self._newest = None if self.saved is None else self.saved.path
        self._lock: int | None = None
        self._frozen: dict[str, str] = {}
        if self.saved is None:
            return
        if not resume:
            raise UserError(f"{out} holds a run already: continue it with --resume, or give another folder as --out")
        for name, value in identity.items():
            if self.saved.state.get(name) != value:
                raise UserError(f"{out} holds a run with {name} {self.saved.state.get(name)}, not {value}")
        require_same(self.saved.state["settings"], settings)

    @property
    def folder(self) -> Path:
        """Where the checkpoints are."""
        return self.out / "checkpoints"

    @property
    def saved_settings(self) -> TrainingSettings:
        """The settings of the checkpoint to go on from."""
        assert self.saved is not None
        return settings_from(type(self.settings), self.saved.state["settings"])

    @property
    def _found(self) -> list[Path]:
        return checkpoint.checkpoints(self.folder)

    def begin(self) -> None:
        """Takes the folder for this process and writes settings.json there.

        Raises `UserError` where another process trains in it, or has trained since this run looked.
        """
        if self._lock is not None:
            return
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.out / _LOCK)
            _held.add(self._lock)
        if self._found[-1:] != ([] if self._newest is None else [self._newest]):
            self.close()
            raise UserError(
                f"another training has just written to {self.out}: start again, with --resume to continue it"
            )
        with writing(self.out / "settings.json") as path:
            path.write_text(json.dumps({**self.identity, "settings": asdict(self.settings)}, indent=2) + "\n")

    def save(
        self,
        step: int,
        parts: dict[str, dict[str, Tensor]],
        frozen: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
    ) -> None:
        """Writes the checkpoint of `step`: `parts` as `checkpoint.write` takes them, `frozen` modules' state dicts."""
        content = self._content(frozen, state)
        kept, keep = content.pop("frozen"), self.settings.keep_checkpoints
        self._newest = checkpoint.write(self.folder, step, parts, content, frozen=kept, keep=keep)

    def save_shards(
        self,
        step: int,
        parts: dict[str, dict[str, Tensor]],
        frozen: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        group: dist.ProcessGroup,
    ) -> None:
        """The same, of tensors of which every rank holds a share; all ranks, which make up `group`, call it."""
        tensors = {f"{part}.{name}": one for part, some in parts.items() for name, one in some.items()}
        content, keep = partial(self._content, frozen, state), self.settings.keep_checkpoints
        self._newest = sharded_checkpoint.write(self.folder, step, tensors, content, keep=keep, group=group)

    def _content(self, frozen: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> dict[str, Any]:
        """What a state.json holds, but for the files' hashes; the frozen modules are written by then."""
        self.begin()
        for name, tensors in frozen.items():
            # Their content doesn't change, so it is hashed once.
            if name not in self._frozen or not checkpoint.has_frozen(self.folder, self._frozen[name]):
                self._frozen[name] = checkpoint.write_frozen(self.folder, tensors)
        return {**self.identity, "settings": asdict(self.settings), **state, "frozen": dict(self._frozen)}

    def close(self) -> None:
        """Gives the folder back."""
        if self._lock is not None:
            _held.discard(self._lock)
            os.close(self._lock)
            self._lock = None


def _let_go() -> None:
    """In a process that was forked from one that holds locks: those that load images may outlive the training."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def _lock(path: Path) -> int:
    """A descriptor that holds the lock `path` until it is closed; `UserError` where another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            logger.warning("%s cannot be locked: let no other training write there", path.parent)
            return descriptor
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise UserError(f"{path.parent} is being trained in by process {holder}: wait for its end") from error
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
