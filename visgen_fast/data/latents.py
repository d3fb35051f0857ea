"""What an encoder says of every image, made once and kept on disk, for those who train on nothing else.

    FOLDER/<SHA-256 of the weights>-<SHA-256 of the data>.safetensors            of the images as they are
    FOLDER/<SHA-256 of the weights>-<SHA-256 of the data>-mirrored.safetensors   of the mirrored images

The name has the first 16 digits of each. A mirrored image's latents are not the mirrored latents. A folder is for one
encoder and one set of images: another one's latents there are a user's mistake.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError, writing
from .images import AT_A_TIME, Images, at_a_time

logger = logging.getLogger(__name__)

_NAME, _DIGITS = "posterior", 16


class CachedLatents:
    """The images of another source, in the form in which a cache keeps them: float32 [P, h, w] each, for pixels."""

    def __init__(self, images: Images, labels: Tensor, kept: Tensor, of_mirrored: Tensor | None) -> None:
        self.format, self.labels, self.kept, self.of_mirrored = images.format, labels, kept, of_mirrored

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        chosen = torch.as_tensor(indices)
        return self.kept[chosen], self.labels[chosen], ()

    def mirrored(self, indices: Sequence[int]) -> Tensor:
        """The same of the mirrored images."""
        assert self.of_mirrored is not None  # it was asked for
        return self.of_mirrored[torch.as_tensor(indices)]


def cached_latents(
    images: Images, folder: Path, encode: Callable[[Tensor], Tensor], weights: str, *, mirrored: bool
) -> CachedLatents:
    """What `encode` makes of all images, from `folder` if it is there, else made and written there.

    encode: of pixels uint8 [B, C, H, W] to [B, P, h, w], kept as float32; weights: `digest` of its weights. All
    images are read once to see whether they are those of the cache. `UserError` where the folder has latents of another
    encoder or of other images, or damaged ones, and where the disk refuses.
    """
    data, labels = _digest_of_images(images)
    stem = f"{weights[:_DIGITS]}-{data[:_DIGITS]}"
    for file in sorted(folder.glob("*.safetensors")):
        if not file.name.startswith(stem):
            other = "other images" if file.name.startswith(weights[:_DIGITS]) else "another first stage"
            raise UserError(
                f"--cache {folder} holds latents of {other}: remove {file.name} there, or name another folder"
            )
    kept = _kept(images, folder / f"{stem}.safetensors", encode)
    of_mirrored = None
    if mirrored:
        of_mirrored = _kept(images, folder / f"{stem}-mirrored.safetensors", lambda pixels: encode(pixels.flip(-1)))
    return CachedLatents(images, labels, kept, of_mirrored)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors with their names, types and shapes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}\n".encode())
        found.update(tensors[name].detach().cpu().contiguous().view(-1).numpy().tobytes())
    return found.hexdigest()


def _digest_of_images(images: Images) -> tuple[str, Tensor]:
    """The SHA-256 of all pixels and labels, and the labels int64 [N]."""
    found, labels = hashlib.sha256(), []
    for places in torch.arange(len(images)).split(AT_A_TIME):
        pixels, some, complaints = images.read(places.tolist())
        for complaint in complaints:
            logger.warning("skipped %s", complaint)
        labels.append(some.long())
        for tensor in (pixels, labels[-1]):
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest(), torch.cat(labels)


def _kept(images: Images, file: Path, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """What the file has, which the operating system reads where it is needed; made where there is no file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    if not file.exists():
        chunks = torch.arange(len(images)).split(at_a_time(images.format))
        made = torch.cat([encode(images.read(places.tolist())[0]).float().cpu() for places in chunks])
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        with writing(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file({_NAME: made.contiguous()}, unfinished)
                os.replace(unfinished, file)
            except SafetensorError as error:  # as which it tells of a full disk
                raise OSError(str(error)) from error
            finally:
                unfinished.unlink(missing_ok=True)
        return made
    try:
        kept = load_file(file)[_NAME]
        if len(kept) != len(images) or kept.dtype != torch.float32 or kept.dim() < 4:
            raise KeyError(_NAME)
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"the latents in {file} are damaged: remove that file") from error
    return kept
