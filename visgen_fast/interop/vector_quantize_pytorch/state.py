"""State dicts of the package from those of our quantizers, and back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...nn import ResidualQuantizer, VectorQuantizer
from .._states import CodebookState, codebook_states, set_codebook_states, taken

_STATE = ("embed", "cluster_size", "embed_avg", "initted")  # of a codebook, in the order of CodebookState


def to_vector_quantize_pytorch(quantizer: ResidualQuantizer) -> dict[str, Tensor]:
    """The codebooks of a quantizer as the state dict of a `VectorQuantize`, for a `VectorQuantizer`, or `ResidualVQ`.

    A copy, for modules without projections: same D, K and Q, `shared_codebook` as `shared`, and
    `learnable_codebook=True, ema_update=False` for learning="gradient".
    """
    state: dict[str, Tensor] = {}
    for depth, codebook in enumerate(codebook_states(quantizer)):
        names = _names(None if isinstance(quantizer, VectorQuantizer) else depth)
        tensors = codebook.embedding[None], codebook.average_size[None], codebook.average_sum[None]
        state.update(zip(names, (*tensors, codebook.initialized), strict=True))
    return state


def from_vector_quantize_pytorch(quantizer: ResidualQuantizer, state: Mapping[str, Tensor]) -> None:
    """Gives `quantizer` the codebooks of a `ResidualVQ`'s state dict, or of depth 1 those of a `VectorQuantize`'s.

    ValueError where they do not fit, and for what our quantizers do not have: projections, affine parameters, heads.
    """
    depths = [None] if "_codebook.embed" in state else list(range(quantizer.depth))
    names = [_names(depth) for depth in depths]
    tensors = dict(zip(sum(names, ()), taken(state, sum(names, ())), strict=True))
    if any(tensors[embed].shape[0] != 1 for embed, *_ in names):
        raise ValueError("state must have one codebook a depth, got several heads")
    found = [[tensors[name] for name in depth] for depth in names]
    states = [CodebookState(embed[0], size[0], total[0], started) for embed, size, total, started in found]
    set_codebook_states(quantizer, states)


def _names(depth: int | None) -> tuple[str, ...]:
    prefix = "" if depth is None else f"layers.{depth}."
    return tuple(f"{prefix}_codebook.{name}" for name in _STATE)
