"""Any folder of videos or GIFs, optionally one sub-folder a class, as clips of one length."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .folder import ImageFolder
from .video_file import begins, clip


class ClipFolder(ImageFolder):
    """The videos of a folder as RGB clips of `frames` frames, as many one after the other as each has.

    As of `ImageFolder`, also where files cannot be read. A video of fewer frames is skipped too, and what a long one
    has at its end beyond a multiple of `frames` is left out.
    """

    kind = "videos"

    def __init__(self, folder: Path, size: int, frames: int) -> None:
        self.frames = frames
        self._begins: dict[Path, list[int]] = {}
        super().__init__(folder, size)
        found = [self._begins[Path(path)] for path in self.paths]
        clips = torch.tensor([len(some) for some in found])
        self.paths = [path for path, some in zip(self.paths, found, strict=True) for _ in some]
        self.begins = [begin for some in found for begin in some]
        self.labels = self.labels.repeat_interleave(clips)
        self.format = replace(self.format, frames=frames)

    def only(self, places: Sequence[int]) -> ClipFolder:
        made = super().only(places)
        made.begins = [self.begins[place] for place in places]
        return made

    def _complaints(self, paths: Sequence[Path]) -> dict[Path, str]:
        with ThreadPoolExecutor() as threads:
            said = threads.map(self._complaint, paths)
            return {path: why for path, why in zip(paths, said, strict=True) if why}

    def _complaint(self, path: Path) -> str | None:
        try:
            self._begins[path] = begins(path, self.frames)
        except OSError as error:
            return error.strerror or str(error)
        except Exception as error:  # Decoders raise errors of many types on files that are no videos.
            return str(error) or type(error).__name__
        return None

    def _decoded(self, index: int) -> Tensor:
        return clip(self.paths[index], self.begins[index], self.frames, self.format.size)
