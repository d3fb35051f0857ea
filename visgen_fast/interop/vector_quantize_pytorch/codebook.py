"""`Codebook.forward`, for the options that need no distances to all codes, its start by k-means and its updates."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...nn.side_effects import refuse_recomputation
from .package import theirs

# Whether the codebook that is about to run may leave out its distances: `VectorQuantize.forward` decides.
distances_unused: ContextVar[bool] = ContextVar("distances_unused", default=False)


@torch.autocast("cuda", enabled=False)
def codebook_forward(
    original: Any,
    self: Any,
    x: Tensor,
    sample_codebook_temp: float | None = None,
    mask: Tensor | None = None,
    freeze_codebook: bool = False,
    codebook_transform_fn: Any = None,
    ema_update_weight: Any = None,
    accum_ema_update: bool = False,
    ema_update: bool | None = None,
    topk: int | None = None,
    update_usage: bool = True,
) -> Any:
    """`Codebook.forward` for [h, b, n, D], h codebooks, or less: None in place of the distances where nobody asks."""
    needs_all = topk is not None or codebook_transform_fn is not None or (self.training and samples(self))
    vectors = x.float() if x.dim() == 4 else x.float()[None]
    if needs_all or not distances_unused.get() or len(vectors) != self.num_codebooks:
        return original(
            self,
            x,
            sample_codebook_temp,
            mask,
            freeze_codebook,
            codebook_transform_fn,
            ema_update_weight,
            accum_ema_update,
            ema_update,
            topk,
            update_usage,
        )
    if self.training and update_usage and not freeze_codebook and learns(self, ema_update):
        refuse_recomputation(self)
    rows = vectors.flatten(1, -2)
    mask = _mask_of_rows(mask, rows)
    self.init_embed_(rows, mask=mask)
    embed = _transformed_embeddings(self, rows, mask)
    metric = "dot" if self.use_cosine_sim else "l2"
    codes = torch.stack([ops.nearest_code(some, book, metric=metric) for some, book in zip(rows, embed, strict=True)])
    quantized = torch.stack([ops.decode_codes(some[:, None], book) for some, book in zip(codes, embed, strict=True)])
    if self.training and update_usage and not freeze_codebook:
        follow = {"weight": ema_update_weight, "accumulate": accum_ema_update, "ema_update": ema_update}
        _update_heads(self, rows.detach(), codes, mask, **follow)
    return quantized.view(x.shape), codes.view(x.shape[:-1]), None


def update_indices(
    original: Any,
    self: Any,
    x: Tensor,
    embed_ind: Tensor,
    mask: Tensor | None = None,
    ema_update_weight: Any = None,
    accum_ema_update: bool = False,
    ema_update: bool | None = None,
) -> Any:
    """`Codebook.update_indices`: what h codebooks learn from x [h, b, n, D], or less, with the codes `embed_ind`."""
    vectors, codes = (x.float(), embed_ind) if x.dim() == 4 else (x.float()[None], embed_ind[None])
    if len(vectors) != self.num_codebooks:
        return original(self, x, embed_ind, mask, ema_update_weight, accum_ema_update, ema_update)
    rows, codes = vectors.detach().flatten(1, -2), codes.flatten(1)
    # The package takes what has no code for the first one's, unless the mask leaves it out.
    codes = codes.masked_fill(codes == -1, 0)
    follow = {"weight": ema_update_weight, "accumulate": accum_ema_update, "ema_update": ema_update}
    return _update_heads(self, rows, codes, _mask_of_rows(mask, rows), **follow)


def _mask_of_rows(mask: Tensor | None, rows: Tensor) -> Tensor | None:
    """The mask [h, N] of rows [h, N, D], made from that of b × n tokens, whose heads may share a codebook."""
    if mask is None:
        return None
    heads = rows.shape[1] // mask.numel()
    return mask[:, None].expand(-1, heads, -1).reshape(1, -1).expand(len(rows), -1)


def samples(codebook: Any) -> bool:
    """Whether codes are drawn in training, or chosen by a function of the user's."""
    choose = codebook.gumbel_sample
    if not isinstance(choose, functools.partial) or choose.func is not theirs().vector.gumbel_sample:
        return choose is not theirs().vector.gumbel_sample
    return any(choose.keywords.get(option) for option in ("stochastic", "straight_through"))


def _transformed_embeddings(self: Any, rows: Tensor, mask: Tensor | None) -> Tensor:
    """A codebook's embeddings [h, K, D] as they are compared with rows [h, N, D], after `vq_bridge` and affine maps."""
    if self.affine_param:
        self.update_affine(rows, self.embed, mask=mask)
    embed = (self.embed if self.learnable_codebook else self.embed.detach()).to(rows.dtype)
    if self.vq_bridge is not None:
        embed = self.vq_bridge(embed)
    if self.affine_param:
        codebook_std, batch_std = _deviations(self)
        embed = (embed - self.codebook_mean) * (batch_std / codebook_std) + self.batch_mean
    return embed


def _deviations(self: Any) -> tuple[Tensor, Tensor]:
    return self.codebook_variance.clamp(min=1e-5).sqrt(), self.batch_variance.clamp(min=1e-5).sqrt()


@torch.no_grad()
def _update_heads(
    self: Any, rows: Tensor, codes: Tensor, mask: Tensor | None, *, weight: Any, accumulate: bool, ema_update: Any
) -> None:
    """What h codebooks learn from rows [h, N, D] with codes [h, N]."""
    if not learns(self, ema_update):
        return
    followed, counted = rows, codes if mask is None else codes.masked_fill(~mask, -1)
    if self.affine_param:
        codebook_std, batch_std = _deviations(self)
        followed = (rows - self.batch_mean) * (codebook_std / batch_std) + self.codebook_mean
    counts, sums = _statistics(followed, counted, self.embed.detach())
    self.all_reduce_fn(counts)
    self.all_reduce_fn(sums)
    learn(self, counts, sums, rows, mask, weight, accumulate, ema_update)


def learns(codebook: Any, ema_update: bool | None) -> bool:
    return (codebook.ema_update if ema_update is None else ema_update) or codebook.has_dead_code_replacement


def learn(
    codebook: Any,
    counts: Tensor,
    sums: Tensor,
    rows: Tensor,
    mask: Tensor | None,
    weight: Any,
    accumulate: bool,
    ema_update: bool | None,
) -> None:
    """Moves averages and embeddings towards counts [h, K] and sums [h, K, D] of all ranks, and replaces dead codes.

    rows [h, N, D] with mask [h, N] are what may replace them. With `accumulate` all waits for the next update.
    """
    package = theirs().vector
    weight = weight(sums, counts) if callable(weight) else weight
    for average, new in ((codebook.cluster_size, counts), (codebook.embed_avg, sums)):
        if accumulate:
            package.accum_grad_(average, new.to(average.dtype))
        else:
            package.ema_inplace(average, new.to(average.dtype), codebook.decay, weight)
    if accumulate:
        return
    if (codebook.ema_update if ema_update is None else ema_update) and not codebook.manual_ema_update:
        codebook.update_ema()
    codebook.expire_codes_(rows, seq_mask=mask)


def _statistics(rows: Tensor, codes: Tensor, embed: Tensor) -> tuple[Tensor, Tensor]:
    """counts [h, K] and sums [h, K, D] of rows [h, N, D] with codes [h, N] in codebooks [h, K, D]."""
    found = [
        ops.codebook_statistics(some, chosen[:, None], book)
        for some, chosen, book in zip(rows, codes, embed, strict=True)
    ]
    return torch.cat([counts for counts, _ in found]), torch.cat([sums for _, sums in found])


def init_embed(original: Any, self: Any, data: Tensor, mask: Tensor | None = None) -> None:
    """`Codebook.init_embed_`: a codebook's start from data [h, N, D] by k-means, unless it has one."""
    if self.initted:
        return
    if mask is not None:
        data = data[mask].view(len(data), -1, data.shape[-1])
    if data.shape[1] < self.codebook_size:
        theirs().vector.logger.warning(
            f"k-means starts {self.codebook_size} codes from {data.shape[1]} vectors: some are sampled twice"
        )
    with torch.no_grad():
        means, sizes = _kmeans(self, data)
    self.embed_avg.data.copy_(means * sizes[..., None])
    self.cluster_size.data.copy_(sizes)
    self.update_ema()
    self.initted.data.fill_(True)


def _kmeans(self: Any, data: Tensor) -> tuple[Tensor, Tensor]:
    """Means [h, K, D] of clusters of data [h, N, D] after the package's number of steps, and their sizes [h, K]."""
    means = self.sample_fn(data, self.codebook_size)
    metric = "dot" if self.use_cosine_sim else "l2"
    for _ in range(self.kmeans_iters):
        codes = torch.stack(
            [ops.nearest_code(some, book, metric=metric) for some, book in zip(data, means, strict=True)]
        )
        sizes, sums = _statistics(data, codes, means)
        self.kmeans_all_reduce_fn(sizes)
        new = sums / sizes.clamp_min(1)[..., None]
        self.kmeans_all_reduce_fn(new)
        if self.use_cosine_sim:
            new = theirs().vector.l2norm(new)
        means = torch.where(sizes[..., None] == 0, means, new)
    return means, sizes
