"""What an encoder says of every image, made once and kept on disk, for those who train on nothing else.

    FOLDER/<SHA-256 of the weights>.json                         tells of which images, without reading them
    FOLDER/<SHA-256 of the weights>-00000.safetensors            the first 1,024 images as they are, and their labels
    FOLDER/<SHA-256 of the weights>-00000-mirrored.safetensors   the same images, mirrored

and so on for the next 1,024. Names have the first 16 digits. A mirrored image's latents are not the mirrored latents.
A file is there whole or not at all, so that what was interrupted goes on where it was. A folder is for one encoder and
one set of images: another one's latents there are a user's mistake.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UserError, writing
from ..untrusted import MOST_STATE_BYTES, read_file
from .images import Images, at_a_time, fingerprint
from .order import load

logger = logging.getLogger(__name__)

TEXTS = "texts-"  # how the names of files begin that keep what is said of captions
_POSTERIOR, _LABELS, _IMAGES, _DIGITS = "posterior", "labels", "images", 16
_DAMAGED = "the latents in {} are damaged: remove that file"
_REFUSED = "--cache {} holds latents of {}: remove {} there, or name another folder"
_PART = 1024  # images in a file: what an interruption may cost


class CachedLatents:
    """The images of another source, in the form in which a cache keeps them: float32 [P, h, w] each, for pixels.

    kept, of_mirrored: of all images, in parts of `_PART`.
    """

    def __init__(
        self, images: Images, labels: Tensor, kept: Sequence[Tensor], of_mirrored: Sequence[Tensor] | None
    ) -> None:
        self.format, self.labels, self.kept, self.of_mirrored = images.format, labels, kept, of_mirrored

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        return _rows(self.kept, indices), self.labels[torch.as_tensor(indices)], ()

    def mirrored(self, indices: Sequence[int]) -> Tensor:
        """The same of the mirrored images."""
        assert self.of_mirrored is not None  # it was asked for
        return _rows(self.of_mirrored, indices)


def _rows(parts: Sequence[Tensor], indices: Sequence[int]) -> Tensor:
    return torch.stack([parts[index // _PART][index % _PART] for index in indices])


def cached_latents(
    images: Images,
    folder: Path,
    encode: Callable[[Tensor], Tensor],
    weights: str,
    *,
    mirrored: bool,
    workers: int = 0,
    told: Callable[[int], None] = lambda count: None,
) -> CachedLatents:
    """What `encode` makes of all images, from `folder` where it is there, else made and written there.

    encode: of pixels uint8 [B, C, H, W] to [B, P, h, w], kept as float32; weights: `digest` of its weights; workers:
    processes that read images; told: is called with how many images are done. Where the images have no fingerprint, or
    another one than the folder's, all of them are read once to see whether they are those of the cache. `UserError`
    where the folder has latents of another encoder or of other images, or damaged ones, and where the disk refuses.
    """
    stem = folder / weights[:_DIGITS]
    for file in sorted(folder.glob("*.safetensors")):
        if not file.name.startswith((stem.name, TEXTS)):
            raise UserError(_REFUSED.format(folder, "another first stage", file.name))
    parts = [_Part(stem, places) for places in torch.arange(len(images)).split(_PART)]
    orientations = (False, True) if mirrored else (False,)
    _require_same(images, folder, stem.with_suffix(".json"), parts, workers)
    missing = [part for part in parts if part.lacks(orientations)]
    count = len(images) - sum(len(part.places) for part in missing)
    for part, chunks in zip(missing, _read(images, missing, workers), strict=True):
        part.write(chunks, encode, part.lacks(orientations))
        count += len(part.places)
        told(count)
    kept = [[part.posterior(turned) for part in parts] for turned in orientations]
    return CachedLatents(images, torch.cat([part.labels() for part in parts]), kept[0], kept[1] if mirrored else None)


def _require_same(images: Images, folder: Path, noted: Path, parts: Sequence[_Part], workers: int) -> None:
    """Raises `UserError` unless all that the folder has is of these images; then notes their fingerprint there."""
    own = fingerprint(images)
    try:
        if own is not None and json.loads(read_file(noted, MOST_STATE_BYTES)) == own:
            return
    except (OSError, ValueError, RecursionError):
        pass  # It isn't known of which images they are.
    done = [part for part in parts if part.digest() is not None]
    for part, chunks in zip(done, _read(images, done, workers), strict=True):
        digest = _Digest()
        for pixels, labels in chunks:
            digest.add(pixels, labels)
        if part.digest() != digest.hexdigest():
            raise UserError(_REFUSED.format(folder, "other images", f"{part.stem.name}-*"))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _replace(noted, lambda path: path.write_text(json.dumps(own)))


Chunks = Iterator[tuple[Tensor, Tensor]]


def _read(images: Images, parts: Sequence[_Part], workers: int) -> Iterator[Chunks]:
    """The pixels and labels of each part, some images at a time, read ahead by so many processes."""
    most = at_a_time(images.format)
    chunks = [chunk.tolist() for part in parts for chunk in part.places.split(most)]
    stream = load(_InOrder(images), chunks, workers=workers, pin_memory=False)

    def of_part(part: _Part) -> Chunks:
        for pixels, labels, complaints in islice(stream, len(part.places.split(most))):
            for complaint in complaints:
                logger.warning("skipped %s", complaint)
            yield pixels, labels.long()

    return map(of_part, parts)


class _InOrder(Dataset):
    """Images by their numbers, as `load` asks for them."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        return self.images.read(indices)


class _Digest:
    """The SHA-256 of pixels and labels, some at a time."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.hexdigest = self._sha256.hexdigest

    def add(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            self._sha256.update(tensor.contiguous().numpy().tobytes())


class _Part:
    """The files of the images at `places`, 1,024 or the rest of them."""

    def __init__(self, stem: Path, places: Tensor) -> None:
        self.stem, self.places = stem, places

    def file(self, turned: bool) -> Path:
        number = int(self.places[0]) // _PART
        return self.stem.with_name(f"{self.stem.name}-{number:05d}{'-mirrored' if turned else ''}.safetensors")

    def lacks(self, orientations: Sequence[bool]) -> list[bool]:
        """Those that there is no file of."""
        return [turned for turned in orientations if not self.file(turned).exists()]

    def digest(self) -> str | None:
        """That of the images of the files that are there, None where there is none."""
        there = [self.file(turned) for turned in (False, True) if self.file(turned).exists()]
        return load_kept(there[0])[1].get(_IMAGES, "") if there else None

    def write(self, chunks: Chunks, encode: Callable[[Tensor], Tensor], orientations: Sequence[bool]) -> None:
        digest, labels = _Digest(), []
        made: dict[bool, list[Tensor]] = {turned: [] for turned in orientations}
        for pixels, some in chunks:
            digest.add(pixels, some)
            labels.append(some)
            for turned, encoded in made.items():
                encoded.append(encode(pixels.flip(-1) if turned else pixels).float().cpu())
        for turned, encoded in made.items():
            tensors = {_POSTERIOR: torch.cat(encoded), _LABELS: torch.cat(labels)}
            save(self.file(turned), tensors, {_IMAGES: digest.hexdigest()})

    def posterior(self, turned: bool) -> Tensor:
        """What a file has, which the operating system reads where it is needed."""
        kept = load_kept(self.file(turned))[0].get(_POSTERIOR, torch.empty(0))
        if len(kept) != len(self.places) or kept.dtype != torch.float32 or kept.dim() < 4:
            raise UserError(_DAMAGED.format(self.file(turned)))
        return kept

    def labels(self) -> Tensor:
        labels = load_kept(self.file(False))[0].get(_LABELS, torch.empty(0))
        if labels.shape != self.places.shape or labels.dtype != torch.int64:
            raise UserError(_DAMAGED.format(self.file(False)))
        return labels


def load_kept(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file that `save` wrote, and its metadata. `UserError` where it is damaged."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(file, framework="pt") as content:
            return load_file(file), content.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(_DAMAGED.format(file)) from error


def save(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all. `UserError` where the disk refuses."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(path: Path) -> None:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
        except SafetensorError as error:  # as which it tells of a full disk
            raise OSError(str(error)) from error

    with writing(file.parent):
        _replace(file, write)


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(unfinished)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors with their names, types and shapes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}\n".encode())
        found.update(tensors[name].detach().cpu().contiguous().view(-1).numpy().tobytes())
    return found.hexdigest()
