"""Tensors of which each rank holds a share, on the disk.

They are written and read by torch.distributed.checkpoint, as safetensors files, one of each rank: its usual format
pickles what it says about the tensors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch import distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from ..errors import UserError

FOLDER = "shards"

T = TypeVar("T")


def name_of(rank: int) -> str:
    """That of a rank's file."""
    return f"{FOLDER}/shard-{rank + 1:05d}-model-00001-of-00001"


def together(group: dist.ProcessGroup, action: Callable[[], T]) -> list[T]:
    """What `action` gives on each rank, all of which do it; where it fails on one, it fails on all.

    `UserError` and OSError do so with the same sentence; for any other error, the other ranks get RuntimeError.
    """
    failure: Exception | None = None
    result: Any = None
    try:
        result = action()
    except Exception as error:  # raised below, when the others know of it
        failure = error
    told: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(told, (result, None if failure is None else _described(failure)), group=group)
    if failure is not None:
        raise failure
    for _, elsewhere in told:
        if elsewhere is not None:
            kind, sentence = elsewhere
            raise OSError(None, sentence) if kind == "disk" else _KINDS[kind](sentence)
    return [found for found, _ in told]


_KINDS: dict[str, type[Exception]] = {"user": UserError, "other": RuntimeError}


def _described(error: Exception) -> tuple[str, str]:
    if isinstance(error, UserError):
        return "user", str(error)
    return ("disk", error.strerror or str(error)) if isinstance(error, OSError) else ("other", repr(error))


def write(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup) -> None:
    """Writes the shares of all ranks into `folder`. OSError on every rank where the disk refuses one of them."""
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    kept: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        whole = not isinstance(tensor, DTensor)
        # Tied weights are written under each of their names: safetensors would refuse to share memory.
        kept[name] = tensor.detach().clone() if whole and tensor.data_ptr() in memory else tensor.detach()
        memory |= {tensor.data_ptr()} if whole else set()
    try:
        dcp.save(kept, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        raise _first(error) from error


def load(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copies what `folder` has into these tensors, of which each rank reads its share.

    ValueError where there is no such tensor, or one of another shape.
    """
    found = {name: shape for name, (shape, _) in described(folder).items()}
    for name, tensor in tensors.items():
        if found.get(name) != tensor.shape:
            raise ValueError(f"has {name} of shape {list(found.get(name, ()))}, not {list(tensor.shape)}")
    if tensors:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each rank reads by itself
            dcp.load(dict(tensors), storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)


def load_shares(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copies what a file of whole tensors has into these, of which this rank reads its share. ValueError as `load`."""
    with safe_open(file, framework="pt") as stored:
        names = set(stored.keys())
        for name, tensor in tensors.items():
            found = tuple(stored.get_slice(name).get_shape()) if name in names else ()
            if name not in names or found != tuple(tensor.shape):
                raise ValueError(f"has {name} of shape {list(found)}, not {list(tensor.shape)}")
            if not isinstance(tensor, DTensor):
                tensor.copy_(stored.get_tensor(name))
            elif len(tensor.to_local()):
                rows = math.ceil(tensor.shape[0] / tensor.device_mesh.size())
                start = tensor.device_mesh.get_local_rank() * rows
                tensor.to_local().copy_(stored.get_slice(name)[start : start + len(tensor.to_local())])


def merged(folder: Path, prefix: str) -> dict[str, Tensor]:
    """The whole tensors whose names begin with `prefix`, which is left out. ValueError where a share is missing."""
    named = {name: found for name, found in described(folder).items() if name.startswith(prefix)}
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in named.items()}
    load(folder, tensors)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def described(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor that the files in `folder` hold together. ValueError where a share is missing."""
    try:
        found = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"cannot be read ({error})") from error
    known: dict[str, tuple[torch.Size, torch.dtype]] = {}
    for name, tensor in found.items():
        assert isinstance(tensor, TensorStorageMetadata)  # safetensors files hold nothing else
        elements = sum(chunk.sizes.numel() for chunk in tensor.chunks)
        # Whoever wrote them: no more memory is taken than the files have bytes for.
        if elements != tensor.size.numel():
            raise ValueError(f"has {elements} of the {tensor.size.numel()} elements of {name}")
        known[name] = tensor.size, tensor.properties.dtype
    return known


def _first(error: CheckpointException) -> OSError:
    found = [failure for failure, _ in error.failures.values()]
    disk = next((failure for failure in found if isinstance(failure, OSError)), None)
    return disk or OSError(None, f"{found[0]}" if found else "no rank says why")
