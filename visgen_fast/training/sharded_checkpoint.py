"""Checkpoints that all ranks write, and read, each its share: `shard_files` in the place of whole parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch import distributed as dist

from . import checkpoint, shard_files
from .checkpoint import PARTS, SHARDED, Checkpoint
from .shard_files import together


def write(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    state: Callable[[], dict[str, Any]],
    *,
    keep: int,
    group: dist.ProcessGroup,
) -> Path:
    """Writes the checkpoint of `step` as `checkpoint.write` does; all ranks, which make up `group`, call it.

    `tensors` are those of all parts, as <part>.<name>; `state`, which the main rank alone is asked for, has `frozen`.
    `UserError` on every rank where the disk refuses one of them.
    """
    rank = dist.get_rank(group)
    own = shard_files.name_of(rank)

    def begin() -> tuple[dict[str, Any], Path]:
        return ({}, folder) if rank else (state(), checkpoint.begin(folder, step))

    def digest() -> dict[str, str]:
        file = path / f"{own}.safetensors"
        return {own: checkpoint.sha256_of(file)} if file.exists() else {}

    try:
        content, path = together(group, begin)[0]
        shard_files.write(path / shard_files.FOLDER, tensors, group)
        sha256 = {name: value for found in together(group, digest) for name, value in found.items()}
        content = {"format": SHARDED, "step": step, **content, "sha256": sha256}
        together(group, lambda: None if rank else checkpoint.complete(path, content))
    except OSError as error:
        raise checkpoint.unwritten(folder, error) from error
    together(group, lambda: None if rank else checkpoint.discard_old(folder, keep))
    return folder / f"step-{step:08d}"


def load(saved: Checkpoint, tensors: dict[str, dict[str, Tensor]], group: dist.ProcessGroup) -> None:
    """Copies each part of `PARTS` into `tensors`, of which every rank reads its share; `group` is of all ranks.

    The checkpoint may be of any number of ranks, in shards or whole. `UserError` on every rank where it is damaged, or
    of another network.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    if saved.sharded:
        # All of them, each by one rank.
        together(group, lambda: [saved.intact(name) for name in sorted(saved.state["sha256"])[rank::world]])

    def read() -> None:
        try:
            for part in () if saved.sharded else PARTS:
                shard_files.load_shares(saved.intact(part), tensors[part])
            if saved.sharded:
                named = {f"{part}.{name}": one for part, some in tensors.items() for name, one in some.items()}
                shard_files.load(saved.path / shard_files.FOLDER, named)
        except (OSError, SafetensorError) as error:
            raise saved.damaged(error) from error
        except ValueError as error:
            raise saved.of_another_network() from error

    together(group, read)


def names(saved: Checkpoint, part: str) -> set[str]:
    """The names of a part's tensors; raises `UserError` if they cannot be read."""
    try:
        if saved.sharded:
            found = shard_files.described(saved.path / shard_files.FOLDER)
            return {name.removeprefix(f"{part}.") for name in found if name.startswith(f"{part}.")}
        with safe_open(saved.path / f"{part}.safetensors", framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError, ValueError) as error:
        raise saved.damaged(error) from error
