"""vector-quantize-pytorch with our operations: the same returns, gradients and state, without distance matrices."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ._replacement import Replacement

__all__ = ["apply_visgen_to_vector_quantize_pytorch"]

# Whether the codebook that is about to run may leave out its distances: `VectorQuantize.forward` decides.
_distances_unused: ContextVar[bool] = ContextVar("distances_unused", default=False)


def apply_visgen_to_vector_quantize_pytorch(model: nn.Module | None = None) -> Replacement:
    """Makes vector-quantize-pytorch quantize with our operations; its classes, options and state dicts stay.

    `ResidualVQ` (and `GroupedResidualVQ` on it) searches all its depths in one operation, and `VectorQuantize` its
    codebook, without a (vectors × codes) matrix; k-means and the moving averages follow without a one-hot matrix.

    Args:
        model: the quantizers in it are replaced; by default the package's classes are, hence all quantizers there are
            and will be.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have the package's own code back.

    What differs from the package is its rounding:

    - Codes are exact. The package compares rounded distances, so that codes at nearly equal distances may differ, and
      with them all that follows.
    - The quantized vectors are the codes' sum, where the package adds and subtracts the input or rotates it. So the
      code of a residual of length 0 is kept, where the package's rotation trick makes it 0.
    - 16-bit vectors are quantized in float32 to the last depth, where `ResidualVQ` rounds its residual after each and,
      under CPU autocast, the codes too.
    - Sums over vectors are deterministic, and of one collective for all depths.
    - `ResidualVQ(accept_image_fmap=True)` takes pictures of any size, where 1.32 fails unless C = H = W.

    With these options the package's own loop over depths runs, each depth with our search: `ResidualVQ` with cosine
    similarity, the start by k-means, a shared codebook with replacement of dead codes (which are replaced between
    depths), `quant_grad_frac`, codebooks of several sizes or changed settings among the layers. With these, the
    package's own losses and gradients around our search: several heads, affine parameters, `vq_bridge`, directional
    reparametrisation (`diveq` too), `sync_update_v`, orthogonal regularisation and an in-place optimizer. With these,
    which need all distances, the package's own code: sampled codes, Gumbel straight-through, `topk` and beam search,
    implicit neural codebooks, given `indices`, cross-entropy commitment and codebook diversity. A call of a codebook
    from elsewhere returns its distances as before.

    Raises:
        ImportError: the package is not there, or older than 1.31.
        ValueError: model has none of its quantizers.
    """
    package = _package()
    replacement = Replacement()
    classes = {
        package.ResidualVQ: {"forward": _residual_vq},
        package.VectorQuantize: {"forward": _vector_quantize},
        package.Codebook: {"forward": _codebook, "init_embed_": _init_embed},
    }
    if model is None:
        owners: list[Any] = list(classes)
    else:
        owners = [module for module in model.modules() if isinstance(module, tuple(classes))]
        if not owners:
            raise ValueError("model must have a quantizer of vector-quantize-pytorch in it, got none")
    for owner in owners:
        for cls, methods in classes.items():
            if owner is cls or isinstance(owner, cls):
                for name, method in methods.items():
                    replacement.replace(owner, name, method)
    return replacement


class _Package:
    """What we use of vector-quantize-pytorch."""

    def __init__(self) -> None:
        from vector_quantize_pytorch import residual_vq, vector_quantize_pytorch

        self.residual, self.vector = residual_vq, vector_quantize_pytorch
        self.ResidualVQ, self.VectorQuantize = residual_vq.ResidualVQ, vector_quantize_pytorch.VectorQuantize
        try:
            self.Codebook = vector_quantize_pytorch.Codebook
        except AttributeError:
            raise ImportError("vector-quantize-pytorch must be 1.31 or newer") from None


@functools.cache
def _package() -> _Package:
    return _Package()


def _residual_vq(
    original: Any,
    self: Any,
    x: Tensor,
    mask: Tensor | None = None,
    indices: Any = None,
    return_all_codes: bool = False,
    sample_codebook_temp: float | None = None,
    freeze_codebook: bool = False,
    beam_size: int | None = None,
    rand_quantize_dropout_fixed_seed: int | None = None,
) -> Any:
    """`ResidualVQ.forward`."""
    beam = beam_size or (self.beam_size if self.training else self.eval_beam_size) or 1
    if indices is not None or beam > 1 or not _has_common_depths(self, x, mask):
        return original(
            self,
            x,
            mask,
            indices,
            return_all_codes,
            sample_codebook_temp,
            freeze_codebook,
            beam_size,
            rand_quantize_dropout_fixed_seed,
        )
    depth = _sampled_depth(self, x.device, rand_quantize_dropout_fixed_seed)
    tokens = x.movedim(1, -1) if self.accept_image_fmap else self.project_in(x)
    quantized, codes, losses = _quantize(self.layers[:depth], tokens, mask, freeze_codebook)
    dropped = self.num_quantizers - depth
    codes, losses = F.pad(codes, (0, dropped), value=-1), F.pad(losses, (0, dropped))
    if self.training and self.shared_codebook and self.vq_is_ema_updating:
        self.layers[0]._codebook.update_ema()
    quantized = self.project_out(quantized)
    if mask is not None:
        quantized = torch.where(mask[..., None], quantized, 0 if self.return_zeros_for_masked_padding else x)
    quantized = quantized.movedim(-1, 1).contiguous() if self.accept_image_fmap else quantized
    result = quantized, codes, losses
    return (*result, self.get_codes_from_indices(codes)) if return_all_codes else result


def _has_common_depths(self: Any, x: Tensor, mask: Tensor | None) -> bool:
    """Whether one operation can quantize all depths of a `ResidualVQ`."""
    layers = list(self.layers)
    codebooks = [layer._codebook for layer in layers]
    settings = {
        (
            layer.training,
            layer.rotation_trick,
            layer.route_gradients_to_input,
            layer.learnable_codebook,
            layer.has_commitment_loss,
            codebook.learnable_codebook,
            codebook.use_ddp,
        )
        for layer, codebook in zip(layers, codebooks, strict=True)
    }
    return (
        len(settings) == 1
        and all(_is_plain(layer) and not layer.use_cosine_sim for layer in layers)
        and self.uniform_codebook_size
        and not self.implicit_neural_codebook
        and not self.diveq
        and not (self.training and self.quant_grad_frac != 0)
        and not (self.training and self.shared_codebook and codebooks[0].has_dead_code_replacement)
        and x.dim() in ((4,) if self.accept_image_fmap else (2, 3))
        and not (self.accept_image_fmap and self.has_projections)
        and _fits(mask, x)
        and layers[0].channel_last
        and bool(torch.stack([codebook.initted for codebook in codebooks]).all())
    )


def _sampled_depth(self: Any, device: torch.device, seed: int | None) -> int:
    """How many depths this call uses, by quantizer dropout: the package's draw from torch's generator."""
    depth = self.num_quantizers
    if not (self.training and self.quantize_dropout):
        return depth
    seed = _package().residual.get_maybe_sync_seed(device) if seed is None else seed
    last = random.Random(seed).randrange(self.quantize_dropout_cutoff_index, depth)
    multiple = self.quantize_dropout_multiple_of
    return min(-(-(last + 1) // multiple) * multiple, depth)


def _vector_quantize(
    original: Any,
    self: Any,
    x: Tensor,
    indices: Tensor | None = None,
    mask: Tensor | None = None,
    lens: Tensor | None = None,
    topk: int | None = None,
    sample_codebook_temp: float | None = None,
    freeze_codebook: bool | None = None,
    return_loss_breakdown: bool = False,
    codebook_transform_fn: Any = None,
    ema_update_weight: Any = None,
    accum_ema_update: bool = False,
    ema_update: bool | None = None,
) -> Any:
    """`VectorQuantize.forward`."""
    if mask is None and lens is not None:
        mask, lens = _package().vector.lens_to_mask(lens, x.shape[1]), None
    pictures = self.accept_image_fmap or self.accept_3d_fmap
    channels_first = pictures or (not self.channel_last and x.dim() == 3)
    tokens = x.movedim(1, -1) if channels_first else x
    special = indices is not None or topk is not None or codebook_transform_fn is not None or return_loss_breakdown
    masked = mask is not None and (pictures or self.use_cosine_sim or self.has_projections)
    dimensions = 4 if self.accept_image_fmap else 5 if self.accept_3d_fmap else 3
    if (
        special
        or masked
        or not _is_plain(self)
        or x.dim() not in (dimensions, 2 if dimensions == 3 else dimensions)
        or not _fits(mask, tokens)
    ):
        used = self.training and (self.has_codebook_diversity_loss or self.commitment_use_cross_entropy_loss)
        token = _distances_unused.set(indices is None and not used)
        try:
            return original(
                self,
                x,
                indices,
                mask,
                lens,
                topk,
                sample_codebook_temp,
                freeze_codebook,
                return_loss_breakdown,
                codebook_transform_fn,
                ema_update_weight,
                accum_ema_update,
                ema_update,
            )
        finally:
            _distances_unused.reset(token)
    codebook = self._codebook
    vectors = codebook.transform_input(self.project_in(tokens))
    codebook.init_embed_(vectors.detach().float().reshape(1, -1, vectors.shape[-1]), _as_rows(mask))
    frozen = self.freeze_codebook if freeze_codebook is None else freeze_codebook
    follow = {"weight": ema_update_weight, "accumulate": accum_ema_update, "ema_update": ema_update}
    quantized, codes, losses = _quantize([self], vectors, mask, frozen, **follow)
    quantized = self.project_out(quantized)
    if mask is not None:
        quantized = torch.where(mask[..., None], quantized, 0 if self.return_zeros_for_masked_padding else tokens)
    return quantized.movedim(-1, 1) if channels_first else quantized, codes[..., 0], losses[0]


def _is_plain(layer: Any) -> bool:
    """Whether a `VectorQuantize` does what our operation does, or nothing but that when it is not training."""
    codebook, package = layer._codebook, _package()
    if type(layer) is not package.VectorQuantize or type(codebook) is not package.Codebook:
        return False
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, codebook._forward_hooks, codebook._forward_pre_hooks)
    special_training = (
        _samples(codebook)
        or layer.has_codebook_diversity_loss
        or layer.has_codebook_orthogonal_loss
        or layer.commitment_use_cross_entropy_loss
        or layer.directional_reparam
        or layer.sync_update_v > 0
        or layer.in_place_codebook_optimizer is not None
    )
    return (
        layer.heads == 1
        and not codebook.affine_param
        and codebook.vq_bridge is None
        and codebook.training == layer.training
        and not (layer.training and special_training)
        and not any(hooks)
    )


def _samples(codebook: Any) -> bool:
    """Whether codes are drawn in training, or chosen by a function of the user's."""
    choose = codebook.gumbel_sample
    if not isinstance(choose, functools.partial) or choose.func is not _package().vector.gumbel_sample:
        return choose is not _package().vector.gumbel_sample
    return any(choose.keywords.get(option) for option in ("stochastic", "straight_through"))


def _fits(mask: Tensor | None, tokens: Tensor) -> bool:
    return mask is None or (mask.dtype == torch.bool and tokens.dim() == 3 and mask.shape == tokens.shape[:-1])


def _as_rows(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.reshape(1, -1)


def _quantize(
    layers: Sequence[Any], vectors: Tensor, mask: Tensor | None, frozen: bool, **follow: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """(quantized [..., D], codes [..., Q], losses [Q]) of vectors [..., D] by Q `VectorQuantize`; updates codebooks."""
    first, depth = layers[0], len(layers)
    embed = _embeddings(layers)
    routed = first.training and vectors.requires_grad and first.route_gradients_to_input
    learns = first.training and first.learnable_codebook and first.has_commitment_loss and not frozen
    rotation = "rotation_per_depth" if first.rotation_trick else "straight_through_per_depth"
    active = None if mask is None else mask * depth
    quantized, codes, commitment, codebook_error = ops.residual_quantize(
        vectors if first.training else vectors.detach(),
        embed if learns else embed.detach(),
        depth=depth,
        active_depths=active,
        metric="dot" if first.use_cosine_sim else "l2",
        gradient=rotation if routed else "none",
    )
    if not routed:  # the package then differentiates what it looks up
        quantized = ops.decode_codes(codes, embed).to(vectors.dtype) if embed.requires_grad else quantized.detach()
    losses = torch.stack([_zero(layer) for layer in layers])
    if first.training:
        error = commitment + codebook_error - codebook_error.detach() if learns else commitment
        every = tuple(range(error.dim() - 1))
        mean = error.mean(every) if mask is None else error.sum(every) / mask.sum()
        weighted = [
            part * layer.commitment_weight for layer, part in zip(layers, mean.unbind(), strict=True) if layer.has_commitment_loss
        ]
        losses = losses + torch.stack(weighted) if weighted else losses
        if not frozen:
            _update(layers, vectors.detach(), codes, embed.detach(), mask, **follow)
    return quantized, codes, losses


def _embeddings(layers: Sequence[Any]) -> Tensor:
    """Codebooks [Q, K, D], or [K, D] that all layers share: a copy, as they may be updated before the backward pass."""
    codebooks = [layer._codebook for layer in layers]
    embeds = [codebook.embed if codebook.learnable_codebook else codebook.embed.detach() for codebook in codebooks]
    if len(layers) > 1 and all(codebook is codebooks[0] for codebook in codebooks):
        return embeds[0][0].clone()
    return torch.cat(embeds)


def _zero(layer: Any) -> Tensor:
    """The package's loss of 0, of which it asks a gradient in training."""
    return layer.zero.requires_grad_() if layer.training else layer.zero


@torch.no_grad()
def _update(
    layers: Sequence[Any],
    vectors: Tensor,
    codes: Tensor,
    embed: Tensor,
    mask: Tensor | None,
    *,
    weight: Any = None,
    accumulate: bool = False,
    ema_update: bool | None = None,
) -> None:
    """What the package's codebooks learn from vectors [..., D] with codes [..., Q], depth by depth."""
    first = layers[0]._codebook
    ema_update = first.ema_update if ema_update is None else ema_update
    if not ema_update and not first.has_dead_code_replacement:
        return
    counts, sums = ops.codebook_statistics(vectors, codes, embed)
    first.all_reduce_fn(counts)
    first.all_reduce_fn(sums)
    residual = vectors.float()
    for depth, layer in enumerate(layers):
        codebook, this = layer._codebook, slice(depth, depth + 1)
        _average(codebook, counts[this], sums[this], weight, accumulate)
        if accumulate:
            continue
        if ema_update and not codebook.manual_ema_update:
            codebook.update_ema()
        if codebook.has_dead_code_replacement:
            codebook.expire_codes_(residual.reshape(1, -1, residual.shape[-1]), seq_mask=_as_rows(mask))
            residual = residual - ops.decode_codes(codes[..., this], embed if embed.dim() == 2 else embed[this])


def _average(codebook: Any, counts: Tensor, sums: Tensor, weight: Any, accumulate: bool) -> None:
    """Moves the averages towards counts [h, K] and sums [h, K, D] of all ranks, or keeps these for the next update."""
    package = _package().vector
    weight = weight(sums, counts) if callable(weight) else weight
    for average, new in ((codebook.cluster_size, counts), (codebook.embed_avg, sums)):
        if accumulate:
            package.accum_grad_(average, new)
        else:
            package.ema_inplace(average, new, codebook.decay, weight)


@torch.autocast("cuda", enabled=False)
def _codebook(
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
    needs_all = topk is not None or codebook_transform_fn is not None or (self.training and _samples(self))
    vectors = x.float() if x.dim() == 4 else x.float()[None]
    if needs_all or not _distances_unused.get() or len(vectors) != self.num_codebooks:
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
    rows = vectors.flatten(1, -2)
    if mask is not None:
        heads = rows.shape[1] // mask.numel()  # that share a codebook
        mask = mask[:, None].expand(-1, heads, -1).reshape(1, -1).expand(len(rows), -1)
    self.init_embed_(rows, mask=mask)
    embed = _transformed_embeddings(self, rows, mask)
    metric = "dot" if self.use_cosine_sim else "l2"
    codes = torch.stack(
        [ops.nearest_code(some, book, metric=metric) for some, book in zip(rows, embed, strict=True)]
    )
    quantized = torch.stack([ops.decode_codes(some[:, None], book) for some, book in zip(codes, embed, strict=True)])
    if self.training and update_usage and not freeze_codebook:
        follow = {"weight": ema_update_weight, "accumulate": accum_ema_update, "ema_update": ema_update}
        _update_heads(self, rows.detach(), codes, mask, **follow)
    return quantized.view(x.shape), codes.view(x.shape[:-1]), None


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
    ema_update = self.ema_update if ema_update is None else ema_update
    if not ema_update and not self.has_dead_code_replacement:
        return
    followed, counted = rows, codes if mask is None else codes.masked_fill(~mask, -1)
    if self.affine_param:
        codebook_std, batch_std = _deviations(self)
        followed = (rows - self.batch_mean) * (codebook_std / batch_std) + self.codebook_mean
    counts, sums = _statistics(followed, counted, self.embed.detach())
    self.all_reduce_fn(counts)
    self.all_reduce_fn(sums)
    _average(self, counts, sums, weight, accumulate)
    if accumulate:
        return
    if ema_update and not self.manual_ema_update:
        self.update_ema()
    self.expire_codes_(rows, seq_mask=mask)


def _statistics(rows: Tensor, codes: Tensor, embed: Tensor) -> tuple[Tensor, Tensor]:
    """counts [h, K] and sums [h, K, D] of rows [h, N, D] with codes [h, N] in codebooks [h, K, D]."""
    found = [
        ops.codebook_statistics(some, chosen[:, None], book)
        for some, chosen, book in zip(rows, codes, embed, strict=True)
    ]
    return torch.cat([counts for counts, _ in found]), torch.cat([sums for _, sums in found])


def _init_embed(original: Any, self: Any, data: Tensor, mask: Tensor | None = None) -> None:
    """`Codebook.init_embed_`: a codebook's start from data [h, N, D] by k-means, unless it has one."""
    if self.initted:
        return
    if mask is not None:
        data = data[mask].view(len(data), -1, data.shape[-1])
    if data.shape[1] < self.codebook_size:
        _package().vector.logger.warning(
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
            new = _package().vector.l2norm(new)
        means = torch.where(sizes[..., None] == 0, means, new)
    return means, sizes
