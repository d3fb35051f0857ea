"""VAR's draws (FoundationVision/VAR) with our operation: guidance, filters and the draw in one pass over the logits."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ._own_code import say_once
from ._replacement import Replacement, find_classes

_METHOD = "autoregressive_infer_cfg"
_PARTS = (
    *("class_emb", "pos_start", "lvl_embed", "lvl_1L", "pos_1LC", "blocks", "shared_ada_lin", "get_logits"),
    *("word_embed", "vae_proxy", "vae_quant_proxy", "patch_nums", "num_classes", "first_l", "uniform_prob", "rng"),
)


def replace_draws(replacement: Replacement, model: Any) -> bool:
    """Replaces `VAR.autoregressive_infer_cfg` in the model, or in all classes; whether there was any."""
    found = find_classes(model, "VAR", (_METHOD, "get_logits"), needed=False)
    for owner in found:
        replacement.replace(owner, _METHOD, _draw)
    return bool(found)


@torch.no_grad()
def _draw(original: Any, self: Any, *args: Any, **kwargs: Any) -> Tensor:
    """`VAR.autoregressive_infer_cfg`: images [B, 3, H, W] in [0, 1].

    Each image has a seed, from `g_seed` or else from torch's random state. Without guidance the network is not asked
    for the unconditional logits.
    """
    call = inspect.signature(original).bind(self, *args, **kwargs)
    call.apply_defaults()
    asked = call.arguments
    reason = _reason(self, asked)
    if reason is not None:
        say_once(f"VAR.{_METHOD}", "VAR", reason)
        return original(self, *args, **kwargs)
    labels, seeds = _labels_and_seeds(self, asked)
    scale = float(asked["cfg"])
    told = labels if scale == 0 else torch.cat((labels, torch.full_like(labels, self.num_classes)))
    condition = self.class_emb(told)
    adapted = self.shared_ada_lin(condition)
    positions = self.lvl_embed(self.lvl_1L) + self.pos_1LC
    slots = condition[:, None] + self.pos_start + positions[:, : self.first_l]
    quantizer, sides = self.vae_quant_proxy[0], self.patch_nums
    features = slots.new_zeros(len(labels), quantizer.Cvae, sides[-1], sides[-1])
    for block in self.blocks:
        block.attn.kv_caching(True)
    try:
        first = self.first_l
        for scale_index, side in enumerate(sides):
            for block in self.blocks:
                slots = block(x=slots, cond_BD=adapted, attn_bias=None)
            codes = _codes(self.get_logits(slots, condition), seeds, scale_index, len(sides), asked)
            vectors = quantizer.embedding(codes).transpose(1, 2).unflatten(2, (side, side))
            features, held = quantizer.get_next_autoregressive_input(scale_index, len(sides), features, vectors)
            if scale_index + 1 < len(sides):
                slots = self.word_embed(held.flatten(2).transpose(1, 2))
                slots = slots + positions[:, first : first + slots.shape[1]]
                first += slots.shape[1]
                slots = slots.repeat(len(told) // len(labels), 1, 1)
    finally:
        for block in self.blocks:
            block.attn.kv_caching(False)
    return self.vae_proxy[0].fhat_to_img(features).add_(1).mul_(0.5)


def _codes(logits: Tensor, seeds: Tensor, scale: int, scales: int, asked: Any) -> Tensor:
    """The codes [B, l] of a scale, of the conditional logits and, with guidance, the unconditional ones after them."""
    guided = len(logits) > len(seeds)
    conditional, unconditional = logits.chunk(2) if guided else (logits, None)
    drawn = ops.sample_tokens(
        conditional,
        seeds,
        unconditional=unconditional,
        guidance=1 + asked["cfg"] * scale / (scales - 1) if guided else 1.0,
        top_k=asked["top_k"] or None,
        top_p=asked["top_p"] or None,
        stream=ops.Purpose.CODE.stream(scale),
    )
    assert isinstance(drawn, Tensor)  # no log-probability was asked for
    return drawn.clamp_min(0)


def _labels_and_seeds(model: Any, asked: Any) -> tuple[Tensor, Tensor]:
    batch, labels, device = asked["B"], asked["label_B"], model.lvl_1L.device
    generator = None
    if asked["g_seed"] is not None:
        generator = model.rng
        generator.manual_seed(asked["g_seed"])
    if labels is None:
        labels = torch.multinomial(model.uniform_prob, batch, replacement=True, generator=generator).reshape(batch)
    elif isinstance(labels, int):
        labels = torch.full((batch,), model.num_classes if labels < 0 else labels, device=device)
    return labels, ops.draw_seeds(batch, device=device, generator=generator)


def _reason(model: Any, asked: Any) -> str | None:
    """Why the model's own code must run."""
    if asked.get("more_smooth"):
        return "more_smooth mixes the vectors of all codes, in the place of a draw"
    missing = [part for part in _PARTS if not hasattr(model, part)]
    return f"it has no {missing[0]}" if missing else None
