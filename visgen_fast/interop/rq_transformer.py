"""RQ-Transformer's `sample` (kakaobrain/rq-vae-transformer) on caches that are allocated once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..nn.prepacked import Prepacked
from ._own_code import say_once
from ._replacement import Replacement, find_classes

_PARTS = (
    *("body_transformer", "head_transformer", "cond_emb", "pos_emb_cond", "pos_emb_hw", "pos_emb_d"),
    *("input_mlp", "head_mlp", "tok_emb", "classifier", "config", "block_size_cond"),
)
_METHODS = ("sample", "embed_with_model_aux")


def replace_samplers(replacement: Replacement, model: Any) -> bool:
    """Replaces `RQTransformer.sample` in the model, or in all classes; whether there was any."""
    found = find_classes(model, "RQTransformer", _METHODS, needed=False)
    for owner in found:
        replacement.replace(owner, "sample", _sample)
    return bool(found)


@torch.no_grad()
def _sample(original: Any, self: Any, *args: Any, **kwargs: Any) -> Tensor:
    """`RQTransformer.sample`: the codes [B, H, W, D] of `partial_sample`, drawn from `start_loc` on.

    Each code costs one slot of the head, and each place one of the body. Draws are made by seeds from torch's random
    state, one a sample; `top_k` and `top_p` are numbers, or one for each depth.
    """
    reason = _reason(self)
    if reason is not None:
        say_once("RQTransformer.sample", "rq-vae-transformer", reason)
        return original(self, *args, **kwargs)
    call = inspect.signature(original).bind(self, *args, **kwargs)
    call.apply_defaults()
    asked = call.arguments
    codes = asked["partial_sample"].clone()
    batch, height, width, depths = codes.shape
    row, column = asked.get("start_loc") or (0, 0)
    seeds = ops.draw_seeds(batch, device=codes.device)
    flat = codes.view(batch, height * width, depths)
    mixed = bool(asked.get("amp")) and codes.device.type == "cuda"
    with torch.autocast(codes.device.type, enabled=mixed):
        loop = _Loop(self, asked.get("model_aux"), asked.get("cond"), batch, codes.device)
        first = row * width + column
        context = loop.begin(flat[:, :first])
        for place in range(first, height * width):
            for depth in range(depths):
                drawn = ops.sample_tokens(
                    loop.logits(context, flat[:, place], depth),
                    seeds,
                    temperature=asked.get("temperature", 1.0),
                    top_k=_of_depth(asked.get("top_k"), depth),
                    top_p=_of_depth(asked.get("top_p"), depth),
                    stream=ops.Purpose.CODE.stream(place * depths + depth),
                )
                assert isinstance(drawn, Tensor)  # no log-probability was asked for
                flat[:, place, depth] = drawn.clamp_min(0)
            if place + 1 < height * width:
                context = loop.next_place(flat[:, place], place)
    return codes


def _of_depth(value: Any, depth: int) -> Any:
    """A filter of one depth; that of None, or of a top_k of 0, is none."""
    if isinstance(value, Sequence):
        value = value[depth if len(value) > 1 else 0]
    return value or None


def _reason(model: Any) -> str | None:
    """Why the model's own code must run."""
    if model.training:
        return "it is in training mode"
    missing = [part for part in _PARTS if not hasattr(model, part)]
    blocks = [] if missing else [*model.body_transformer.blocks, *model.head_transformer.blocks]
    missing += [name for name in ("ln1", "ln2", "attn", "mlp") if not all(hasattr(block, name) for block in blocks)]
    names = ("query", "key", "value", "proj", "n_head")
    missing += [name for name in names if not missing and not all(hasattr(block.attn, name) for block in blocks)]
    return f"it has no {missing[0]}" if missing else None


class _Loop:
    """Both transformers of a model with the keys and values of what they have seen."""

    def __init__(self, model: Any, aux: Any, cond: Any, batch: int, device: torch.device) -> None:
        none = torch.zeros(batch, model.block_size_cond, dtype=torch.int64, device=device)
        self.cond = none if cond is None else cond.reshape(batch, model.block_size_cond)
        self.model, self.aux = model, aux
        places, depths = model.pos_emb_hw.shape[1], model.pos_emb_d.shape[1]
        self.linear = Prepacked()
        self.body = _Cache(model.body_transformer.blocks, batch, model.block_size_cond + places - 1, self.linear)
        self.head = _Cache(model.head_transformer.blocks, batch, depths, self.linear)
        self.total = torch.zeros(())

    def begin(self, given: Tensor) -> Tensor:
        """What the body says of the first place to draw, [B, 1, width], after the given places [B, n, D]."""
        slots = self.model.cond_emb(self.cond) + self.model.pos_emb_cond[:, : self.cond.shape[1]]
        if given.shape[1]:
            slots = torch.cat((slots, self._places(given) + self.model.pos_emb_hw[:, : given.shape[1]]), 1)
        return self.body.advance(slots)[:, -1:]

    def next_place(self, codes: Tensor, place: int) -> Tensor:
        """The same of the next place, after the codes [B, D] of this one."""
        return self.body.advance(self._places(codes[:, None]) + self.model.pos_emb_hw[:, place : place + 1])

    def logits(self, context: Tensor, codes: Tensor, depth: int) -> Tensor:
        """Of a place's code at this depth, [B, V], given its codes [B, D] before it."""
        if depth == 0:
            self.head.length = 0
        slot = context if depth == 0 else self._codes_before(codes, depth)
        h, classifier = self.head.advance(slot + self.model.pos_emb_d[:, depth : depth + 1]), self.model.classifier
        h, shared = classifier.layer_norm(h), self.model.config.shared_cls_emb
        logits = self.linear(classifier.linear, h) if shared else classifier.linear(h, indices=[depth])
        return classifier.logit_mask(logits)[:, 0]

    def _places(self, codes: Tensor) -> Tensor:
        """What the body is told of places with codes [B, n, D]: [B, n, width]."""
        if self.model.input_mlp is None:
            return self.model.tok_emb(codes).sum(2)
        return self.model.input_mlp(self.model.embed_with_model_aux(codes, self.aux)).sum(2)

    def _codes_before(self, codes: Tensor, depth: int) -> Tensor:
        """What the head is told of the codes of a place above this depth: [B, 1, width]."""
        if self.model.head_mlp is None:
            return self.model.tok_emb(codes[:, None])[:, :, depth - 1]
        last = self.model.embed_with_model_aux(codes[:, None], self.aux)[:, :, depth - 1]
        summed = self.model.config.cumsum_depth_ctx and depth > 1
        self.total = self.total + last if summed else last
        return self.model.head_mlp(self.total)


class _Cache:
    """Blocks with the keys and values of their slots so far, in memory for all of them."""

    def __init__(self, blocks: Any, batch: int, slots: int, linear: Prepacked) -> None:
        self.blocks, self.length, self.shape, self.linear = list(blocks), 0, (batch, slots), linear
        self.projections = [_joined(block.attn) for block in self.blocks]
        self.mlps = [_with_gelus(block.mlp) for block in self.blocks]
        self.memory: Tensor | None = None

    def advance(self, x: Tensor) -> Tensor:
        """The next slots [B, n, width]; several are causal, and come first."""
        first, self.length = self.length, self.length + x.shape[1]
        for index, block in enumerate(self.blocks):
            parts = self.linear(self.projections[index], block.ln1(x))
            qkv = parts.unflatten(-1, (3, block.attn.n_head, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, n, features]
            if self.memory is None:
                batch, slots = self.shape
                self.memory = qkv.new_empty(len(self.blocks), 2, batch, qkv.shape[2], slots, qkv.shape[-1])
            memory = self.memory[index, :, :, :, : self.length]
            memory[:, :, :, first:] = qkv[1:]
            mixed = F.scaled_dot_product_attention(qkv[0], memory[0], memory[1], is_causal=x.shape[1] > 1)
            x = x + self.linear(block.attn.proj, mixed.transpose(1, 2).flatten(2))
            h = block.ln2(x)
            for layer, gelu in self.mlps[index]:
                h = self.linear(layer, h, gelu=gelu)
            x = x + h
        return x


def _joined(attention: Any) -> nn.Linear:
    """One product for queries, keys and values: three small ones take longer."""
    layers = [attention.query, attention.key, attention.value]
    biased, sizes = layers[0].bias is not None, (layers[0].in_features, 3 * layers[0].out_features)
    joined = nn.Linear(*sizes, bias=biased, device="meta")
    joined.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]))
    if biased:
        joined.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]))
    return joined


def _with_gelus(layers: Any) -> list[tuple[Any, bool]]:
    """The layers of an MLP, each with whether the exact GELU that follows is made in one with it."""
    found: list[tuple[Any, bool]] = []
    for layer in layers if isinstance(layers, nn.Sequential) else [layers]:
        exact = getattr(layer, "approximate", None) == "none" or getattr(layer, "version", None) == "v1"
        if found and type(found[-1][0]) is nn.Linear and type(layer).__name__ == "GELU" and exact:
            found[-1] = (found[-1][0], True)
        else:
            found.append((layer, False))
    return found
