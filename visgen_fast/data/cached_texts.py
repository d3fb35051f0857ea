"""What a text encoder says of captions, made once and kept on disk beside cached latents.

    FOLDER/texts-<SHA-256 of encoder and texts>.safetensors   the states of 1,024 texts and how many each has

A file's name says all that its content depends on, so that none is ever of others, and what was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from .images import sha256_of
from .latents import TEXTS, load_kept, save

_PART, _DIGITS = 1024, 32


def cached_texts(
    texts: Sequence[str],
    folder: Path,
    encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    encoder: str,
    *,
    told: Callable[[int], None] = lambda count: None,
) -> tuple[Tensor, Tensor]:
    """The states float32 [T, D] of all tokens, and how many each text has, int64 [N].

    They are read from `folder` where they are there, else made by `encode` and written there. encoder: what tells this
    encoder, with its options, from any other; told: is called with how many texts are done. `UserError` where the disk
    refuses, and for damaged files.
    """
    kept = []
    for first in range(0, len(texts), _PART):
        some = list(texts[first : first + _PART])
        file = folder / f"{TEXTS}{sha256_of(encoder, some)[:_DIGITS]}.safetensors"
        if not file.exists():
            states, lengths = encode(some)
            save(file, {"states": states.float().cpu(), "lengths": lengths.cpu()})
        tensors = load_kept(file)[0]
        if tensors.keys() != {"states", "lengths"} or tensors["lengths"].shape != (len(some),):
            raise UserError(f"the texts in {file} are damaged: remove that file")
        kept.append(tensors)
        told(first + len(some))
    return torch.cat([part["states"] for part in kept]), torch.cat([part["lengths"] for part in kept])
