"""Files as checkpoints are made of: written, hashed, flushed to the disk, removed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..untrusted import open_file


def save(tensors: dict[str, Tensor], path: Path) -> None:
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


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
