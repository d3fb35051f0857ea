"""Videos and animated images, frame by frame: what Pillow reads, such as GIFs, and what PyAV does.

PyAV (the package av) brings the decoders of FFmpeg, and is asked only for what is no image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError
from ..untrusted import MOST_PIXELS, open_file
from .image_file import on_white, opened

# Containers that are files by themselves: a playlist names other files, and addresses.
_CONTAINERS = "avi,asf,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo,ogg,h264,hevc,ivf,yuv4mpegpipe"


def begins(path: str | os.PathLike[str], frames: int) -> list[int]:
    """Where the clips of so many frames begin that a file has, one after the other, as `clip` wants it.

    Its first frame is decoded. Raises errors of many types for a file that is no video; ValueError for a shorter one.
    """
    times = _times(path)
    if len(times) < frames:
        raise ValueError(f"a clip has {frames} frames, and it has {len(times)}")
    next(_pictures(path, times[0]))
    return times[: len(times) - frames + 1 : frames]


def clip(path: str | os.PathLike[str], begin: int, frames: int, size: int) -> Tensor:
    """So many frames from `begin` on, uint8 [3, frames, size, size], each resized and centre-cropped.

    Raises errors of many types for a damaged file, ValueError where it ends before.
    """
    pictures = islice(_pictures(path, begin), frames)
    found = [np.array(ImageOps.fit(each, (size, size), method=Image.Resampling.LANCZOS)) for each in pictures]
    if len(found) < frames:
        raise ValueError(f"it ends after {len(found)} of {frames} frames")
    return torch.from_numpy(np.stack(found)).permute(3, 0, 1, 2).contiguous()


def whole(path: str | os.PathLike[str], most: int) -> Tensor:
    """All frames of a file, or the first `most`, as they are: uint8 [3, frames, H, W]. Raises as `clip` does."""
    found = [np.array(picture) for picture in islice(_pictures(path, _times(path)[0]), most)]
    return torch.from_numpy(np.stack(found)).permute(3, 0, 1, 2).contiguous()


def _times(path: str | os.PathLike[str]) -> list[int]:
    """Of all frames: their numbers, or in a video their times in its unit."""
    try:
        with opened(path) as image:
            return list(range(getattr(image, "n_frames", 1)))
    except UnidentifiedImageError:
        pass
    with _video(path) as (container, stream):
        packets = (packet for packet in container.demux(stream) if packet.size)
        times = sorted(packet.dts if packet.pts is None else packet.pts for packet in packets)
    if not times:
        raise ValueError("it has no frames")
    return times


def _pictures(path: str | os.PathLike[str], begin: int) -> Iterator[Image.Image]:
    """The frames from `begin` on, in RGB."""
    try:
        with opened(path) as image:
            yield from (on_white(frame) for frame in islice(ImageSequence.Iterator(image), begin, None))
            return
    except UnidentifiedImageError:
        pass
    with _video(path) as (container, stream):
        container.seek(begin, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts >= begin:
                yield frame.to_image()


@contextmanager
def _video(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("it is no image, and videos need the package av: pip install 'visgen_fast[video]'") from error
    whitelist = {"format_whitelist": _CONTAINERS}
    with open_file(path) as file, av.open(file, options=whitelist, metadata_errors="ignore") as container:
        if not container.streams.video:
            raise ValueError("it has no pictures")
        stream = container.streams.video[0]
        pixels = stream.codec_context.width * stream.codec_context.height
        if pixels > MOST_PIXELS:
            raise ValueError(f"it has {pixels} pixels a frame, and at most {MOST_PIXELS} are read")
        yield container, stream
