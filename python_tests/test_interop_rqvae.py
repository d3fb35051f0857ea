"""RQ-VAE's quantizer gives the same with our operations in it as by itself.

The modules here have that codebase's names and interface, and do by one-hot matrices what it does.
"""

from __future__ import annotations

import math

import pytest
import torch
from largest_result import LargestResult
from torch import nn
from torch.nn import functional as F

from visgen_fast.interop import apply_visgen_to_rqvae


class VQEmbedding(nn.Embedding):
    """A codebook with a row for padding, which learns by moving averages and restarts codes used less than once."""

    def __init__(self, n_embed, embed_dim, decay=0.9, restart_unused_codes=True, eps=1e-5):
        super().__init__(n_embed + 1, embed_dim, padding_idx=n_embed)
        self.weight.requires_grad_(False)
        self.n_embed, self.decay, self.eps, self.ema = n_embed, decay, eps, True
        self.restart_unused_codes = restart_unused_codes
        self.register_buffer("cluster_size_ema", torch.zeros(n_embed))
        self.register_buffer("embed_ema", self.weight[:-1].clone())

    def find_nearest_embedding(self, inputs):
        return torch.cdist(inputs.flatten(0, -2), self.weight[:-1]).argmin(-1).view(inputs.shape[:-1])

    def _tile_with_noise(self, x, target_n):
        x = x.repeat(-(-target_n // len(x)), 1)
        return x + torch.rand_like(x) * (0.01 / math.sqrt(x.shape[1]))

    @torch.no_grad()
    def _update_buffers(self, vectors, idxs):
        vectors = vectors.reshape(-1, vectors.shape[-1])
        assigned = F.one_hot(idxs.flatten(), self.n_embed).to(vectors)
        self.cluster_size_ema.lerp_(assigned.sum(0), 1 - self.decay)
        self.embed_ema.lerp_(assigned.T @ vectors, 1 - self.decay)
        if self.restart_unused_codes:
            enough = vectors if len(vectors) >= self.n_embed else self._tile_with_noise(vectors, self.n_embed)
            fresh = enough[torch.randperm(len(enough))[: self.n_embed]]
            unused = self.cluster_size_ema < 1
            self.embed_ema[unused] = fresh[unused]
            self.cluster_size_ema[unused] = 1

    @torch.no_grad()
    def _update_embedding(self):
        total = self.cluster_size_ema.sum()
        sizes = total * (self.cluster_size_ema + self.eps) / (total + self.n_embed * self.eps)
        self.weight[:-1] = self.embed_ema / sizes[:, None]

    def embed(self, idxs):
        return super().forward(idxs)

    def forward(self, inputs):
        codes = self.find_nearest_embedding(inputs)
        if self.training:
            self._update_buffers(inputs, codes)
        embeddings = self.embed(codes)
        if self.training:
            self._update_embedding()
        return embeddings, codes


class RQBottleneck(nn.Module):
    """Residual quantization of maps [B, H, W, D] to codes [B, h, w, d]."""

    def __init__(self, latent_shape, code_shape, n_embed, shared_codebook=False, **options):
        super().__init__()
        height, width, dimensions = latent_shape
        self.cell = (height // code_shape[0], width // code_shape[1])
        dimensions *= self.cell[0] * self.cell[1]
        sizes = n_embed if isinstance(n_embed, list) else [n_embed] * code_shape[2]
        self.shared_codebook, self.code_shape = shared_codebook, code_shape
        first = VQEmbedding(sizes[0], dimensions, **options)
        own = [first, *(VQEmbedding(size, dimensions, **options) for size in sizes[1:])]
        self.codebooks = nn.ModuleList([first] * len(sizes) if shared_codebook else own)

    def to_code_shape(self, x):
        rows, columns = self.cell
        cells = x.unflatten(1, (-1, rows)).unflatten(3, (-1, columns))  # [B, h, rows, w, columns, D]
        return cells.transpose(2, 3).flatten(3)

    def to_latent_shape(self, x):
        cells = x.unflatten(3, (*self.cell, -1))
        return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def quantize(self, x):
        residual, total, sums, codes = x.detach().clone(), torch.zeros_like(x), [], []
        for codebook in self.codebooks:
            embeddings, chosen = codebook(residual)
            residual, total = residual - embeddings, total + embeddings
            sums.append(total)
            codes.append(chosen)
        return sums, torch.stack(codes, -1)

    def compute_commitment_loss(self, x, quant_list):
        return torch.stack([(x - total.detach()).square().mean() for total in quant_list]).mean()

    def forward(self, x):
        cells = self.to_code_shape(x)
        sums, codes = self.quantize(cells)
        quantized = self.to_latent_shape(sums[-1])
        return x + (quantized - x).detach(), self.compute_commitment_loss(cells, sums), codes


def train(options, how):
    """Everything that three steps give, the last in evaluation mode."""
    torch.manual_seed(0)
    bottleneck, found = RQBottleneck((4, 6, 8), **{"code_shape": (4, 6, 3), "n_embed": 20} | options), []
    replacement = {"own": None, "classes": lambda: None, "model": lambda: bottleneck}[how]
    replacement = replacement and apply_visgen_to_rqvae(replacement())
    for step in range(3):
        torch.manual_seed(10 + step)
        bottleneck.train(step < 2)
        x = torch.randn(2, 4, 6, 8, requires_grad=True)
        quantized, commitment, codes = bottleneck(x)
        ((quantized * torch.randn(x.shape)).sum() + 10 * commitment).backward()
        state = [value.clone() for value in bottleneck.state_dict().values()]
        found.append([quantized.detach(), commitment.detach(), codes, x.grad, *state, torch.get_rng_state()])
    if replacement:
        replacement.revert()
    return found


@pytest.mark.parametrize("how", ["classes", "model"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shared_codebook": True, "restart_unused_codes": False},
        {"restart_unused_codes": False},
        {"n_embed": [10, 20, 30]},
        {"n_embed": 100},
        {"code_shape": (2, 3, 3)},
    ],
    ids=str,
)
def test_values_codes_losses_gradients_and_state_are_the_same(options, how):
    torch.testing.assert_close(train(options, how), train(options, "own"), rtol=1e-5, atol=1e-5)


def test_a_shared_codebook_learns_between_its_depths():
    torch.manual_seed(0)
    own = RQBottleneck((4, 6, 8), (4, 6, 3), 20, shared_codebook=True)
    ours = RQBottleneck((4, 6, 8), (4, 6, 3), 20, shared_codebook=True)
    ours.load_state_dict(own.state_dict())
    x, results = torch.randn(2, 4, 6, 8), []
    with apply_visgen_to_rqvae(ours):
        for bottleneck in (own, ours):
            torch.manual_seed(1)
            results.append([*bottleneck(x), *bottleneck.state_dict().values()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_no_matrix_of_vectors_and_codes_is_made(shared):
    bottleneck, x = RQBottleneck((10, 10, 4), (10, 10, 2), 1000, shared_codebook=shared), torch.randn(4, 10, 10, 4)

    def largest():
        with LargestResult() as made:
            bottleneck(x)
        return made.numbers

    assert largest() == 400 * 1000
    with apply_visgen_to_rqvae():
        assert largest() <= 2 * 1001 * 4


def test_revert_puts_the_methods_back():
    names = [(VQEmbedding, "find_nearest_embedding"), (VQEmbedding, "_update_buffers"), (RQBottleneck, "quantize")]
    before = [vars(cls)[name] for cls, name in names]
    replacement = apply_visgen_to_rqvae()
    assert all(vars(cls)[name] is not method for (cls, name), method in zip(names, before, strict=True))
    replacement.revert()
    assert all(vars(cls)[name] is method for (cls, name), method in zip(names, before, strict=True))


def test_a_model_without_quantizers_is_refused():
    with pytest.raises(ValueError, match="no VQEmbedding with find_nearest_embedding.* model must have one"):
        apply_visgen_to_rqvae(nn.Linear(2, 2))
