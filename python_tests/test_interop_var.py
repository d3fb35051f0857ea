"""VAR's multiscale quantizer gives the same with our operation in it as by itself.

The module here has that codebase's name and interface, and searches its codebook by a matrix of distances.
"""

from __future__ import annotations

import pytest
import torch
from largest_result import LargestResult
from torch import nn
from torch.nn import functional as F

from visgen_fast.interop import apply_visgen_to_var


class Phis(nn.ModuleList):
    """Convolutions; a scale's place in [0, 1] says which of them is its."""

    def __getitem__(self, place):
        return super().__getitem__(round(place * (len(self) - 1)))


class VectorQuantizer2(nn.Module):
    """Maps [B, C, H, W] as codes at rising resolutions, coarse to fine."""

    def __init__(self, vocab_size=24, Cvae=8, using_znorm=False, beta=0.25, v_patch_nums=(1, 2, 3, 5), phis=2):
        super().__init__()
        self.vocab_size, self.Cvae, self.using_znorm, self.beta = vocab_size, Cvae, using_znorm, beta
        self.v_patch_nums, self.prog_si, self.record_hit = v_patch_nums, -1, 0
        self.embedding = nn.Embedding(vocab_size, Cvae)
        self.quant_resi = Phis(nn.Conv2d(Cvae, Cvae, 3, padding=1) for _ in range(phis))
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(len(v_patch_nums), vocab_size))

    def nearest(self, rest, grid, last):
        if not last:
            rest = F.interpolate(rest, size=grid, mode="area")
        rows, codes = rest.permute(0, 2, 3, 1), self.embedding.weight.detach()
        if self.using_znorm:
            return (F.normalize(rows, dim=-1) @ F.normalize(codes, dim=-1).T).argmax(-1)
        return (rows[..., None, :] - codes).square().sum(-1).argmin(-1)

    def part(self, codes, size, place):
        h = self.embedding(codes).permute(0, 3, 1, 2)
        if place < 1:
            h = F.interpolate(h, size=size, mode="bicubic")
        return self.quant_resi[place](h.contiguous())

    def forward(self, f_BChw, ret_usages=False):
        f, total, loss = f_BChw.float(), 0.0, 0.0
        rest, last = f.detach(), len(self.v_patch_nums) - 1
        for scale, patches in enumerate(self.v_patch_nums):
            h = self.part(self.nearest(rest, (patches, patches), scale == last), f.shape[2:], scale / last)
            total, rest = total + h, rest - h.detach()
            loss = loss + self.beta * F.mse_loss(total.detach(), f) + F.mse_loss(total, f.detach())
        return f + (total - f).detach(), None, loss / len(self.v_patch_nums)

    def f_to_idxBl_or_fhat(self, f_BChw, to_fhat, v_patch_nums=None):
        grids = [(n, n) if isinstance(n, int) else n for n in v_patch_nums or self.v_patch_nums]
        total, rest, last, found = 0.0, f_BChw.detach(), len(grids) - 1, []
        for scale, grid in enumerate(grids):
            codes = self.nearest(rest, grid, scale == last)
            h = self.part(codes, f_BChw.shape[2:], scale / last)
            total, rest = total + h, rest - h.detach()
            found.append(total if to_fhat else codes.flatten(1))
        return found

    def idxBl_to_var_input(self, gt_ms_idx_Bl):
        raise NotImplementedError

    def embed_to_fhat(self, ms_h_BChw, all_to_max_scale=True, last_one=False):
        raise NotImplementedError


def results(quantizer, dtype=torch.float32):
    torch.manual_seed(1)
    f = torch.randn(2, 8, 5, 5).to(dtype).requires_grad_()
    f_hat, usages, loss = quantizer(f)
    quantizer.zero_grad()
    ((f_hat * torch.randn(f.shape)).sum() + 10 * loss).backward()
    gradients = [f.grad, *(parameter.grad.clone() for parameter in quantizer.parameters())]
    codes = quantizer.f_to_idxBl_or_fhat(f.float(), False)
    maps = quantizer.f_to_idxBl_or_fhat(f.float(), True, [(1, 1), (2, 3), (5, 5)])
    return [f_hat, usages, loss, gradients, codes, maps]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("options", [{}, {"using_znorm": True}, {"phis": 4, "beta": 1.0}], ids=str)
def test_values_codes_losses_and_gradients_are_the_same(options, dtype):
    torch.manual_seed(0)
    quantizer = VectorQuantizer2(**options)
    expected = results(quantizer, dtype)
    for model in (None, quantizer):
        with apply_visgen_to_var(model):
            torch.testing.assert_close(results(quantizer, dtype), expected, rtol=1e-5, atol=1e-5)


def test_no_matrix_of_patches_and_codes_is_made():
    quantizer, f = VectorQuantizer2(vocab_size=4096, using_znorm=True), torch.randn(2, 8, 5, 5, requires_grad=True)

    def largest():
        with LargestResult() as made:
            quantizer(f)[2].backward()
            quantizer.f_to_idxBl_or_fhat(f, False)
        return made.numbers

    assert largest() >= 2 * 25 * 4096
    with apply_visgen_to_var():
        assert largest() == 4096 * 8  # the codebook and its gradient


def test_usages_are_percentages_of_the_vocabulary():
    quantizer = VectorQuantizer2()
    quantizer.ema_vocab_hit_SV[0, :6] = 50
    with apply_visgen_to_var(quantizer):
        assert quantizer(torch.randn(2, 8, 5, 5), ret_usages=True)[1] == [25.0, 0.0, 0.0, 0.0]


def test_maps_of_another_size_than_the_last_scale_are_refused():
    quantizer = VectorQuantizer2()
    with apply_visgen_to_var(quantizer), pytest.raises(ValueError, match=r"size \[5, 5\] of the last scale"):
        quantizer.f_to_idxBl_or_fhat(torch.randn(2, 8, 6, 6), False)


def test_revert_puts_the_methods_back():
    before = VectorQuantizer2.forward
    replacement = apply_visgen_to_var()
    assert VectorQuantizer2.forward is not before
    replacement.revert()
    assert VectorQuantizer2.forward is before


def test_a_model_without_quantizers_is_refused():
    with pytest.raises(ValueError, match="no VectorQuantizer2 .* model must have one"):
        apply_visgen_to_var(nn.Linear(2, 2))
