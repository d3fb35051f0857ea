"""What the state dicts of other packages' codebooks and of ours have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..nn import ResidualQuantizer


class CodebookState(NamedTuple):
    """One depth's codebook: embeddings [K, D], the averages of counts [K] and of sums [K, D]."""

    embedding: Tensor
    average_size: Tensor
    average_sum: Tensor
    initialized: Tensor


def codebook_states(quantizer: ResidualQuantizer) -> list[CodebookState]:
    """A copy of each depth's codebook. Where codes learn by gradient, the average of sums is that of the codes now."""
    codebook, states = quantizer.codebook, []
    sums = codebook.average_sum
    if sums is None:
        sums = codebook.embedding * codebook.average_size[..., None]
    for depth in range(quantizer.depth):
        at = () if codebook.shared else depth
        parts = codebook.embedding[at], codebook.average_size[at], sums[at], codebook.initialized
        states.append(CodebookState(*(part.detach().clone() for part in parts)))
    return states


def set_codebook_states(quantizer: ResidualQuantizer, states: Sequence[CodebookState]) -> None:
    """Gives each depth its codebook; one that all depths share, that of the first."""
    codebook = quantizer.codebook
    if len(states) != quantizer.depth:
        raise ValueError(f"state must have the {quantizer.depth} codebooks of quantizer, got {len(states)}")
    parts = [torch.stack(part) if not codebook.shared else part[0] for part in list(zip(*states, strict=True))[:3]]
    found = dict(zip(("embedding", "average_size", "average_sum"), parts, strict=True))
    if codebook.average_sum is None:
        del found["average_sum"]
    for name, part in found.items():
        expected = getattr(codebook, name)
        if part.shape != expected.shape:
            raise ValueError(f"state must have the {name} {list(expected.shape)} of quantizer, got {list(part.shape)}")
    initialized = torch.stack([state.initialized for state in states]).all()
    codebook.load_state_dict({**codebook.state_dict(), **found, "initialized": initialized})


def taken(state: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
    """The tensors of those names; ValueError where `state` has others or lacks one."""
    missing, unknown = sorted(set(names) - set(state)), sorted(set(state) - set(names))
    if missing or unknown:
        raise ValueError(f"state must have {', '.join(names)}; it lacks {missing} and also has {unknown}")
    return [state[name] for name in names]
