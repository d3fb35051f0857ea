"""`ResidualVQ.forward` and `VectorQuantize.forward`: what they do alike in one operation, all else as it was."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import ops
from ...nn.side_effects import refuse_recomputation
from .._replacement import original_class
from .codebook import distances_unused, learn, learns, samples
from .package import theirs


def residual_vq_forward(
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
    with torch.autocast(tokens.device.type, enabled=False):
        quantized, codes, losses = _quantize(self.layers[:depth], tokens, mask, freeze_codebook)
    dropped = self.num_quantizers - depth
    losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
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
    seed = theirs().residual.get_maybe_sync_seed(device) if seed is None else seed
    last = random.Random(seed).randrange(self.quantize_dropout_cutoff_index, depth)
    multiple = self.quantize_dropout_multiple_of
    return min(-(-(last + 1) // multiple) * multiple, depth)


def vector_quantize_forward(
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
        mask, lens = theirs().vector.lens_to_mask(lens, x.shape[1]), None
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
        token = distances_unused.set(indices is None and not used)
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
            distances_unused.reset(token)
    codebook = self._codebook
    vectors = codebook.transform_input(self.project_in(tokens))
    codebook.init_embed_(vectors.detach().float().reshape(1, -1, vectors.shape[-1]), _as_rows(mask))
    frozen = self.freeze_codebook if freeze_codebook is None else freeze_codebook
    follow = {"weight": ema_update_weight, "accumulate": accum_ema_update, "ema_update": ema_update}
    with torch.autocast(tokens.device.type, enabled=False):
        quantized, codes, losses = _quantize([self], vectors, mask, frozen, **follow)
    quantized = self.project_out(quantized)
    if mask is not None:
        quantized = torch.where(mask[..., None], quantized, 0 if self.return_zeros_for_masked_padding else tokens)
    loss = losses[0].to(_loss_dtype(self, vectors))
    return quantized.movedim(-1, 1) if channels_first else quantized, codes[..., 0], loss


def _loss_dtype(self: Any, vectors: Tensor) -> torch.dtype:
    """The type of the package's loss, which is that of the vectors unless autocast takes it to float32."""
    if not (self.training and self.has_commitment_loss):
        return self.zero.dtype
    error = torch.float32 if torch.is_autocast_enabled(vectors.device.type) else vectors.dtype
    return torch.promote_types(self.zero.dtype, error)


def _is_plain(layer: Any) -> bool:
    """Whether a `VectorQuantize` does what our operation does, or nothing but that when it is not training."""
    codebook, package = layer._codebook, theirs()
    if original_class(layer) is not package.VectorQuantize or original_class(codebook) is not package.Codebook:
        return False
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, codebook._forward_hooks, codebook._forward_pre_hooks)
    special_training = (
        samples(codebook)
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


def _fits(mask: Tensor | None, tokens: Tensor) -> bool:
    return mask is None or (mask.dtype == torch.bool and tokens.dim() == 3 and mask.shape == tokens.shape[:-1])


def _as_rows(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.reshape(1, -1)


def _quantize(
    layers: Sequence[Any], vectors: Tensor, mask: Tensor | None, frozen: bool, **follow: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """(quantized [..., D], codes [..., Q], losses [Q]) of vectors [..., D] by Q `VectorQuantize`; updates codebooks."""
    first, depth = layers[0], len(layers)
    if first.training and not frozen and learns(first._codebook, follow.get("ema_update")):
        refuse_recomputation(first)
    embed = _embeddings(layers)
    routed = first.training and vectors.requires_grad and first.route_gradients_to_input
    by_gradient = first.training and first.learnable_codebook and first.has_commitment_loss and not frozen
    rotation = "rotation_per_depth" if first.rotation_trick else "straight_through_per_depth"
    active = None if mask is None else mask * depth
    quantized, codes, commitment, codebook_error = ops.residual_quantize(
        vectors if first.training else vectors.detach(),
        embed if by_gradient else embed.detach(),
        depth=depth,
        active_depths=active,
        metric="dot" if first.use_cosine_sim else "l2",
        gradient=rotation if routed else "none",
    )
    if not routed:  # the package then differentiates what it looks up
        quantized = ops.decode_codes(codes, embed).to(vectors.dtype) if embed.requires_grad else quantized.detach()
    losses = torch.stack([_zero(layer) for layer in layers])
    if first.training:
        error = commitment + codebook_error - codebook_error.detach() if by_gradient else commitment
        every = tuple(range(error.dim() - 1))
        mean = error.mean(every) if mask is None else error.sum(every) / mask.sum()
        if first.has_commitment_loss:
            parts = zip(layers, mean.unbind(), strict=True)
            losses = losses + torch.stack([part * layer.commitment_weight for layer, part in parts])
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
    if not learns(first, ema_update):
        return
    counts, sums = ops.codebook_statistics(vectors, codes, embed)
    first.all_reduce_fn(counts)
    first.all_reduce_fn(sums)
    residual = vectors.float()
    for depth, layer in enumerate(layers):
        this, rows = slice(depth, depth + 1), residual.reshape(1, -1, residual.shape[-1])
        learn(layer._codebook, counts[this], sums[this], rows, _as_rows(mask), weight, accumulate, ema_update)
        if layer._codebook.has_dead_code_replacement:
            residual = residual - ops.decode_codes(codes[..., this], embed if embed.dim() == 2 else embed[this])
