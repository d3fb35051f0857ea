"""RQ-Transformer draws the same greedy codes with our `sample` as by itself, and right ones otherwise.

The modules here have that codebase's names and interface, and do plainly what it does: every code recomputes all.
"""

from __future__ import annotations

import itertools
import warnings
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visgen_fast.interop import _own_code, apply_visgen_to_rqvae
from visgen_fast.interop.rq_transformer import _Loop

SIZES = {"block_size": (3, 4, 3), "vocab_size": 11, "embed_dim": 16, "body": 3, "head": 2, "heads": 4}


class MultiSelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.n_head = heads
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        query, key, value = (
            part(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        return self.proj(F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = MultiSelfAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class AttentionStack(nn.Module):
    def __init__(self, layers, width, heads):
        super().__init__()
        self.blocks = nn.ModuleList(AttentionBlock(width, heads) for _ in range(layers))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class FirstStage(nn.Module):
    """What the model asks of an RQ-VAE: the embeddings of codes, of each depth's own codebook."""

    def __init__(self, depths, vocab_size, dimensions):
        super().__init__()
        self.books = nn.Parameter(torch.randn(depths, vocab_size, dimensions))

    def get_code_emb_with_depth(self, codes):
        return torch.stack([self.books[depth][codes[..., depth]] for depth in range(codes.shape[-1])], -2), None


class DepthLinear(nn.Module):
    """A linear layer for each depth."""

    def __init__(self, depths, width, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(depths, width, size) / 4)
        self.bias = nn.Parameter(torch.randn(depths, size))

    def forward(self, x, indices=None):
        indices = range(len(self.weight)) if indices is None else indices
        parts = [x[..., i, :] @ self.weight[depth] + self.bias[depth] for i, depth in enumerate(indices)]
        return torch.stack(parts, -2)


class TupleEmbedding(nn.Module):
    """A table for each depth."""

    def __init__(self, depths, size, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(depths, size, width))

    def forward(self, codes):
        assert codes.shape[-1] == len(self.weight)
        return torch.stack([self.weight[depth][codes[..., depth]] for depth in range(len(self.weight))], -2)


class RQTransformer(nn.Module):
    """vqvae: codes are told by the RQ-VAE's vectors, to the head too, as sums with `cumsum`; else by own embeddings."""

    def __init__(
        self, block_size, vocab_size, embed_dim, body, head, heads, classes=1, dimensions=6, vqvae=True, cumsum=True,
        shared=False, prefix=1,
    ):  # fmt: skip
        super().__init__()
        self.block_size, self.vocab_size, self.block_size_cond = block_size, [vocab_size] * block_size[2], prefix
        self.config = SimpleNamespace(cumsum_depth_ctx=cumsum, shared_cls_emb=shared)
        self.cond_emb = nn.Embedding(classes, embed_dim)
        self.pos_emb_cond = nn.Parameter(torch.randn(1, prefix, embed_dim))
        self.pos_emb_hw = nn.Parameter(torch.randn(1, block_size[0] * block_size[1], embed_dim))
        self.pos_emb_d = nn.Parameter(torch.randn(1, block_size[2], embed_dim))
        self.input_mlp = nn.Linear(dimensions, embed_dim) if vqvae else None
        self.head_mlp = nn.Linear(dimensions, embed_dim) if vqvae else None
        self.tok_emb = None if vqvae else TupleEmbedding(block_size[2], vocab_size, embed_dim)
        self.body_transformer = AttentionStack(body, embed_dim, heads)
        self.head_transformer = AttentionStack(head, embed_dim, heads)
        linear = nn.Linear(embed_dim, vocab_size) if shared else DepthLinear(block_size[2], embed_dim, vocab_size)
        parts = {"layer_norm": nn.LayerNorm(embed_dim), "linear": linear, "logit_mask": nn.Identity()}
        self.classifier = nn.Sequential(OrderedDict(parts))

    def embed_with_model_aux(self, codes, model_aux):
        return model_aux.get_code_emb_with_depth(codes)[0]

    def forward(self, codes, model_aux=None, cond=None):
        batch, height, width, depths = codes.shape
        codes = codes.flatten(1, 2)
        if self.tok_emb is None:
            embedded = self.embed_with_model_aux(codes, model_aux)  # [B, HW, D, dimensions]
            places = self.input_mlp(embedded).sum(2)
            above = self.head_mlp(embedded.cumsum(2) if self.config.cumsum_depth_ctx else embedded)
        else:
            above = self.tok_emb(codes)
            places = above.sum(2)
        cond = torch.zeros(batch, self.block_size_cond, dtype=torch.int64) if cond is None else cond
        start = self.cond_emb(cond.reshape(batch, -1)) + self.pos_emb_cond
        context = self.body_transformer(torch.cat((start, (places + self.pos_emb_hw)[:, :-1]), 1))
        slots = torch.cat((context[:, self.block_size_cond - 1 :, None], above[:, :, :-1]), 2).flatten(0, 1)
        h = self.head_transformer(slots + self.pos_emb_d)
        return self.classifier(h).view(batch, height, width, depths, -1)

    @torch.no_grad()
    def sample(
        self,
        partial_sample,
        model_aux=None,
        cond=None,
        start_loc=(0, 0),
        temperature=1.0,
        top_k=None,
        top_p=None,
        amp=False,
        cached=True,
        is_tqdm=False,
        desc="",
        fast=True,
    ):
        codes = partial_sample.clone()
        height, width, depths = self.block_size
        for row, column, depth in itertools.product(range(height), range(width), range(depths)):
            if (row, column) < start_loc:
                continue
            logits = self(codes, model_aux, cond)[:, row, column, depth] / temperature
            k = top_k[min(depth, len(top_k) - 1)] if isinstance(top_k, list) else top_k
            if k:
                logits = logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)
            codes[:, row, column, depth] = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        return codes


def make(**options) -> tuple[RQTransformer, FirstStage]:
    torch.manual_seed(0)
    model = RQTransformer(**{**SIZES, **options}).double().eval()
    stage = FirstStage(model.block_size[2], model.vocab_size[0], 6).double()
    with torch.no_grad():
        for table in (stage.books, *([] if model.tok_emb is None else [model.tok_emb.weight])):
            table.mul_(5)  # so that codes decide more than places do
    return model, stage


EMPTY = torch.zeros(5, 3, 4, 3, dtype=torch.int64)


KINDS = {
    "sums of the vectors above": {},
    "the vector above": {"cumsum": False},
    "own embeddings": {"vqvae": False},
    "one classifier": {"shared": True},
    "a caption of three": {"classes": 9, "prefix": 3},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_logits_from_the_caches_are_those_of_the_whole_model(kind):
    model, stage = make(**kind)
    codes = torch.randint(11, EMPTY.shape, generator=torch.Generator().manual_seed(0))
    flat, steps = codes.flatten(1, 2), []
    with torch.no_grad():
        loop = _Loop(model, stage, None, 5, codes.device)
        context = loop.begin(flat[:, :2])  # two places are given
        for place in range(2, 12):
            steps.append(torch.stack([loop.logits(context, flat[:, place], depth) for depth in range(3)], 1))
            context = None if place == 11 else loop.next_place(flat[:, place], place)
        expected = model(codes, stage).flatten(1, 2)
    torch.testing.assert_close(torch.stack(steps, 1), expected[:, 2:], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("kind", [{}, {"vqvae": False, "shared": True}], ids=["vectors", "embeddings"])
def test_greedy_codes_are_the_same(classes, kind):
    model, stage = make(classes=classes, **kind)
    cond = None if classes == 1 else torch.arange(5)[:, None] % classes
    own = model.sample(EMPTY, stage, cond, top_k=1)
    with apply_visgen_to_rqvae(model):
        ours = model.sample(EMPTY, model_aux=stage, cond=cond, top_k=1, amp=False)
    assert torch.equal(own, ours) and len(own.unique()) > 1
    assert torch.equal(EMPTY, torch.zeros_like(EMPTY))
    with apply_visgen_to_rqvae():
        assert torch.equal(model.sample(EMPTY, stage, cond, (0, 0), 1.0, [1, 1, 1]), own)


def test_in_float32_the_codes_are_those_of_the_weights_at_each_call():
    model, stage = make(shared=True)
    model, stage = model.float(), stage.float()
    drawn = []
    for factor in (1, -1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        own = model.sample(EMPTY, stage, top_k=1)
        with apply_visgen_to_rqvae(model):
            drawn.append(model.sample(EMPTY, stage, top_k=1))
        assert torch.equal(own, drawn[-1])
    assert not torch.equal(*drawn)


def test_codes_before_the_start_stay():
    model, stage = make()
    given = torch.randint(11, EMPTY.shape, generator=torch.Generator().manual_seed(0))
    own = model.sample(given, stage, None, start_loc=(1, 2), top_k=1)
    with apply_visgen_to_rqvae(model):
        ours = model.sample(given, stage, None, start_loc=(1, 2), top_k=1)
    assert torch.equal(own, ours) and torch.equal(ours.flatten(1, 2)[:, :6], given.flatten(1, 2)[:, :6])
    assert not torch.equal(ours, given)


def test_draws_have_the_model_s_probabilities_and_follow_torch_s_random_state():
    model, stage = make(block_size=(1, 2, 1), vocab_size=3)
    start = torch.zeros(4000, 1, 2, 1, dtype=torch.int64)
    with apply_visgen_to_rqvae(model):
        torch.manual_seed(3)
        codes = model.sample(start, stage, temperature=1.5)
        torch.manual_seed(3)
        assert torch.equal(model.sample(start, stage, temperature=1.5), codes)
        assert not torch.equal(model.sample(start, stage, temperature=1.5), codes)
    arrays = torch.tensor(list(itertools.product(range(3), repeat=2))).view(-1, 1, 2, 1)
    with torch.no_grad():
        logs = (model(arrays, stage) / 1.5).log_softmax(-1).gather(-1, arrays[..., None]).flatten(1).sum(1)
    expected, found = logs.exp(), (codes[:, 0, 0, 0] * 3 + codes[:, 0, 1, 0]).bincount(minlength=9) / 4000
    assert (found - expected).abs().max() < 0.04


def test_the_body_and_the_head_see_each_slot_once():
    model, stage = make()
    seen = {"body": 0, "head": 0}
    for name, stack in (("body", model.body_transformer), ("head", model.head_transformer)):
        stack.blocks[0].ln2.register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(name, seen[name] + output.shape[1])
        )
    with apply_visgen_to_rqvae(model):
        model.sample(EMPTY, stage)
    assert seen == {"body": 12, "head": 36}


def test_revert_puts_the_method_back_and_a_model_of_other_parts_runs_its_own():
    model, stage = make()
    before = RQTransformer.sample
    replacement = apply_visgen_to_rqvae(model)
    assert type(model).sample is not before
    replacement.revert()
    assert type(model).sample is before and type(model) is RQTransformer
    own = model.sample(EMPTY, stage, top_k=1)
    del model.classifier
    model.forward = lambda codes, aux, cond: torch.zeros(5, 3, 4, 3, 11, dtype=torch.float64)
    _own_code.said.clear()
    with apply_visgen_to_rqvae(model), pytest.warns(UserWarning, match="own code: it has no classifier"):
        other = model.sample(EMPTY, stage, top_k=1)
    assert other.shape == own.shape
    with apply_visgen_to_rqvae(model), warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        model.sample(EMPTY, stage, top_k=1)
