"""RQ-VAE's quantizer (kakaobrain/rq-vae-transformer) with our operations: the same returns, gradients and state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..nn import ResidualQuantizer
from ..nn.collective import is_distributed, sum_over_ranks
from ..nn.side_effects import refuse_recomputation
from ._replacement import Replacement, find_classes
from ._states import CodebookState, codebook_states, set_codebook_states, taken
from .rq_transformer import replace_samplers

__all__ = ["apply_visgen_to_rqvae", "from_rqvae", "to_rqvae"]

_EMBEDDING = ("find_nearest_embedding", "_update_buffers", "_update_embedding", "_tile_with_noise", "embed")
_BOTTLENECK = ("quantize", "to_code_shape", "to_latent_shape", "compute_commitment_loss")


def apply_visgen_to_rqvae(model: nn.Module | None = None) -> Replacement:
    """Makes RQ-VAE's `RQBottleneck` and `VQEmbedding` quantize with our operations; options and state dicts stay.

    `RQBottleneck.quantize` searches all depths in one operation, but for the shared codebook in training, which learns
    between its depths: there each depth is one. Neither makes a (vectors × codes) matrix, and the moving averages are
    of deterministic sums instead of a one-hot matrix's product. Unused codes restart as in the original, with the same
    draws from torch's generator. Codes are exact; the original compares rounded distances, so codes at nearly equal
    distances may differ. Under activation checkpointing codebooks that learn are refused: they would learn twice.

    `RQTransformer.sample` draws from caches: a code costs one slot of the head, a place one of the body. Its greedy
    codes are the original's; others are drawn by `ops.sample_tokens`, from seeds that torch's random state gives. Where
    a model has other parts than the published ones, its own code runs, and a warning says so.

    Args:
        model: the quantizers in it are replaced, and an `RQTransformer`'s `sample`; by default the classes are, in all
            modules imported so far.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have the original code back.

    Raises:
        ValueError: model has neither of them, or no class of theirs is imported.
    """
    replacement = Replacement()
    draws = replace_samplers(replacement, model)
    for owner in find_classes(model, "VQEmbedding", _EMBEDDING, needed=not draws):
        replacement.replace(owner, "find_nearest_embedding", _find_nearest_embedding)
        replacement.replace(owner, "_update_buffers", _update_buffers)
    for owner in find_classes(model, "RQBottleneck", _BOTTLENECK, needed=False):
        replacement.replace(owner, "quantize", _quantize)
    return replacement


def to_rqvae(quantizer: ResidualQuantizer) -> dict[str, Tensor]:
    """The codebooks of a quantizer as the state dict of an `RQBottleneck` of the same D, K and Q; a copy.

    `shared_codebook` there is `shared` here. The last row of its embeddings, for padding, is 0.
    """
    state: dict[str, Tensor] = {}
    for depth, codebook in enumerate(codebook_states(quantizer)):
        padded = torch.nn.functional.pad(codebook.embedding, (0, 0, 0, 1))
        state.update(zip(_names(depth), (padded, codebook.average_size, codebook.average_sum), strict=True))
    return state


def from_rqvae(quantizer: ResidualQuantizer, state: Mapping[str, Tensor]) -> None:
    """Gives `quantizer` the codebooks of an `RQBottleneck`'s state dict. ValueError where they do not fit."""
    names = sum((_names(depth) for depth in range(quantizer.depth)), ())
    tensors = taken(state, names)
    started = torch.tensor(True)
    found = [tensors[first : first + 3] for first in range(0, len(tensors), 3)]
    set_codebook_states(quantizer, [CodebookState(weight[:-1], size, total, started) for weight, size, total in found])


def _names(depth: int) -> tuple[str, ...]:
    return tuple(f"codebooks.{depth}.{name}" for name in ("weight", "cluster_size_ema", "embed_ema"))


@torch.no_grad()
def _find_nearest_embedding(original: Any, self: Any, inputs: Tensor) -> Tensor:
    """`VQEmbedding.find_nearest_embedding`: int64 [...] of inputs [..., D]; the last embedding is for padding."""
    if self.training and self.ema:
        refuse_recomputation(self)
    return ops.nearest_code(inputs, self.weight[:-1])


@torch.no_grad()
def _update_buffers(original: Any, self: Any, vectors: Tensor, idxs: Tensor) -> None:
    """`VQEmbedding._update_buffers`: moves the averages towards vectors [..., D] with codes [...]."""
    vectors = vectors.reshape(-1, vectors.shape[-1])
    counts, sums = ops.codebook_statistics(vectors, idxs.reshape(-1, 1), self.weight[:-1])
    counts, sums = sum_over_ranks((counts[0], sums[0]))
    self.cluster_size_ema.mul_(self.decay).add_(counts, alpha=1 - self.decay)
    self.embed_ema.mul_(self.decay).add_(sums, alpha=1 - self.decay)
    if not self.restart_unused_codes:
        return
    size = len(self.cluster_size_ema)
    if len(vectors) < size:
        vectors = self._tile_with_noise(vectors, size)
    fresh = vectors[torch.randperm(len(vectors), device=vectors.device)][:size]
    if is_distributed():
        torch.distributed.broadcast(fresh, 0)
    used = self.cluster_size_ema >= 1
    self.embed_ema.copy_(torch.where(used[:, None], self.embed_ema, fresh))
    self.cluster_size_ema.copy_(torch.where(used, self.cluster_size_ema, 1.0))


def _quantize(original: Any, self: Any, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """`RQBottleneck.quantize`: the sums of the first 1, …, d codes, each [B, h, w, D], and codes [B, h, w, d] of x."""
    books = list(self.codebooks)
    learns = [book.training and book.ema for book in books]
    same_size = len({book.weight.shape for book in books}) == 1
    if not all(book.ema for book in books) or not same_size or (any(learns) and self.shared_codebook):
        return original(self, x)
    if any(learns):
        refuse_recomputation(self)
    with torch.no_grad():
        weights = [book.weight[:-1] for book in books]
        embeddings = weights[0] if self.shared_codebook else torch.stack(weights)
        _, codes, _, _ = ops.residual_quantize(x, embeddings, depth=len(books), gradient="none")
        total, residual, sums = torch.zeros_like(x), x.detach(), []
        for depth, book in enumerate(books):
            quantized = book.embed(codes[..., depth])
            if learns[depth]:
                book._update_buffers(residual, codes[..., depth])
                book._update_embedding()
            residual = residual - quantized if any(learns) else residual
            total = (total + quantized).to(x.dtype)
            sums.append(total)
    return sums, codes
