"""VAR draws the same greedy codes with our draws as by itself, and right ones otherwise.

The modules here have that codebase's names and interface, and do plainly what it does.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from test_interop_var import VectorQuantizer2
from torch import nn
from torch.nn import functional as F

from visgen_fast.interop import _own_code, apply_visgen_to_var

SIDES = (1, 2, 3)


class Quantizer(VectorQuantizer2):
    def get_next_autoregressive_input(self, si, SN, f_hat, h_BChw):
        size = (self.v_patch_nums[-1],) * 2
        if si < SN - 1:
            h_BChw = F.interpolate(h_BChw, size=size, mode="bicubic")
        f_hat.add_(self.quant_resi[si / (SN - 1)](h_BChw))
        return f_hat, f_hat if si == SN - 1 else F.interpolate(
            f_hat, size=(self.v_patch_nums[si + 1],) * 2, mode="area"
        )


class VQVAE(nn.Module):
    def __init__(self, quantizer):
        super().__init__()
        self.quantize = quantizer

    def fhat_to_img(self, f_hat):
        return f_hat[:, :3].clone().tanh()


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mat_qkv, self.seen = nn.Linear(width, 3 * width), 0
        self.kv_caching(False)

    def kv_caching(self, enable):
        self.caching, self.cached = enable, None

    def forward(self, x):
        query, key, value = self.mat_qkv(x).chunk(3, -1)
        if self.caching:
            if self.cached is not None:
                key, value = torch.cat((self.cached[0], key), 1), torch.cat((self.cached[1], value), 1)
            self.cached = key, value
        self.seen += len(x)
        return F.scaled_dot_product_attention(query, key, value)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn, self.ada_lin = Attention(width), nn.Linear(width, width)

    def forward(self, x, cond_BD, attn_bias):
        return x + self.attn(x + self.ada_lin(cond_BD)[:, None])


class VAR(nn.Module):
    def __init__(self, vocab_size=11, width=8, classes=4):
        super().__init__()
        vae = VQVAE(Quantizer(vocab_size, Cvae=4, v_patch_nums=SIDES))
        self.vae_proxy, self.vae_quant_proxy = (vae,), (vae.quantize,)
        self.patch_nums, self.first_l, self.num_classes = SIDES, SIDES[0] ** 2, classes
        self.rng, self.uniform_prob = torch.Generator(), torch.full((1, classes), 1 / classes)
        self.word_embed, self.class_emb = nn.Linear(4, width), nn.Embedding(classes + 1, width)
        self.pos_start = nn.Parameter(torch.randn(1, self.first_l, width))
        self.pos_1LC = nn.Parameter(torch.randn(1, 14, width))
        self.lvl_embed = nn.Embedding(3, width)
        self.register_buffer("lvl_1L", torch.tensor([[0] + 4 * [1] + 9 * [2]]))
        self.shared_ada_lin, self.blocks = nn.Identity(), nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, vocab_size)

    def get_logits(self, h, cond_BD):
        return self.head(h + cond_BD[:, None])

    @torch.no_grad()
    def autoregressive_infer_cfg(self, B, label_B, g_seed=None, cfg=1.5, top_k=0, top_p=0.0, more_smooth=False):
        rng = None if g_seed is None else self.rng.manual_seed(g_seed)
        if label_B is None:
            label_B = torch.multinomial(self.uniform_prob, B, replacement=True, generator=rng).reshape(B)
        elif isinstance(label_B, int):
            label_B = torch.full((B,), self.num_classes if label_B < 0 else label_B)
        cond = self.class_emb(torch.cat((label_B, torch.full_like(label_B, self.num_classes))))
        positions, first = self.lvl_embed(self.lvl_1L) + self.pos_1LC, self.first_l
        x = cond[:, None].expand(-1, first, -1) + self.pos_start + positions[:, :first]
        f_hat = torch.zeros(B, 4, SIDES[-1], SIDES[-1])
        for block in self.blocks:
            block.attn.kv_caching(True)
        for si, side in enumerate(SIDES):
            for block in self.blocks:
                x = block(x=x, cond_BD=self.shared_ada_lin(cond), attn_bias=None)
            logits, t = self.get_logits(x, cond), cfg * si / (len(SIDES) - 1)
            logits = (1 + t) * logits[:B] - t * logits[B:]
            if top_k:
                logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
            codes = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=rng).view(B, -1)
            h = self.vae_quant_proxy[0].embedding(codes).transpose(1, 2).reshape(B, 4, side, side)
            f_hat, x = self.vae_quant_proxy[0].get_next_autoregressive_input(si, len(SIDES), f_hat, h)
            if si + 1 < len(SIDES):
                x = self.word_embed(x.flatten(2).transpose(1, 2)) + positions[:, first : first + SIDES[si + 1] ** 2]
                x, first = x.repeat(2, 1, 1), first + SIDES[si + 1] ** 2
        for block in self.blocks:
            block.attn.kv_caching(False)
        return self.vae_proxy[0].fhat_to_img(f_hat).add_(1).mul_(0.5)


def make() -> VAR:
    torch.manual_seed(0)
    return VAR().eval()


LABELS = torch.tensor([0, 1, 3])


@pytest.mark.parametrize("labels", [LABELS, 2, -1], ids=str)
@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_greedy_images_are_the_same(labels, cfg):
    model = make()
    own = model.autoregressive_infer_cfg(3, labels, cfg=cfg, top_k=1)
    with apply_visgen_to_var(model):
        ours = model.autoregressive_infer_cfg(B=3, label_B=labels, cfg=cfg, top_k=1)
    with apply_visgen_to_var():
        again = model.autoregressive_infer_cfg(3, labels, None, cfg, 1)
    torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours, again) and not any(block.attn.caching for block in model.blocks)


def test_draws_follow_torch_s_random_state_or_the_seed_and_the_model_s_probabilities():
    model = make()
    with apply_visgen_to_var(model):
        torch.manual_seed(3)
        first = model.autoregressive_infer_cfg(3, LABELS)
        other = model.autoregressive_infer_cfg(3, LABELS)
        torch.manual_seed(3)
        assert torch.equal(model.autoregressive_infer_cfg(3, LABELS), first) and not torch.equal(other, first)
        assert torch.equal(
            model.autoregressive_infer_cfg(3, None, 5), model.autoregressive_infer_cfg(3, None, g_seed=5)
        )
        drawn = []
        model.vae_quant_proxy[0].embedding.register_forward_hook(lambda module, inputs, _: drawn.append(inputs[0]))
        model.autoregressive_infer_cfg(4000, 1)
    slot = model.class_emb.weight[1] + model.pos_start[0, 0] + model.lvl_embed.weight[0] + model.pos_1LC[0, 0]
    with torch.no_grad():
        x = slot[None, None]
        for block in model.blocks:
            x = block(x, model.class_emb.weight[1:2], None)
        expected = model.get_logits(x, model.class_emb.weight[1:2])[0, 0].softmax(-1)
    found = drawn[0].flatten().bincount(minlength=11) / 4000
    assert (found - expected).abs().max() < 0.04


def test_without_guidance_the_network_sees_half_as_much():
    model = make()
    with apply_visgen_to_var(model):
        model.autoregressive_infer_cfg(3, LABELS, cfg=0.0)
        assert model.blocks[0].attn.seen == 3 * len(SIDES)
        model.autoregressive_infer_cfg(3, LABELS, cfg=1.0)
    assert model.blocks[0].attn.seen == 3 * 3 * len(SIDES)


def test_revert_puts_the_method_back_and_what_is_not_drawn_runs_its_own_code():
    model = make()
    before = VAR.autoregressive_infer_cfg
    replacement = apply_visgen_to_var(model)
    assert type(model).autoregressive_infer_cfg is not before
    replacement.revert()
    assert type(model) is VAR and VAR.autoregressive_infer_cfg is before
    _own_code.said.clear()
    with apply_visgen_to_var(model), pytest.warns(UserWarning, match="own code: more_smooth mixes the vectors"):
        model.autoregressive_infer_cfg(3, LABELS, more_smooth=True)
    with apply_visgen_to_var(model), warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        model.autoregressive_infer_cfg(3, LABELS, more_smooth=True)
    del model.uniform_prob
    with apply_visgen_to_var(model), pytest.warns(UserWarning, match="own code: it has no uniform_prob"):
        model.autoregressive_infer_cfg(3, LABELS)
