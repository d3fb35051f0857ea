"""Residual vector quantization as a module, whose codebooks learn; vector quantization is its case of depth 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import decode_codes, draw_seeds, nearest_code, residual_quantize
from ..ops.quantize import GRADIENTS, checked_active_depths
from ..reference.quantize import from_codes
from .beam import beam_search
from .codebook import Codebook
from .dropout import draw_active_depths
from .quantized import Quantized
from .quantizer import Quantizer, check_weights
from .side_effects import is_recomputation
from .state import state_dtype


class ResidualQuantizer(Quantizer):
    """Each vector as a sum of one code from each of `depth` codebooks, see `visgen_fast.ops.residual_quantize`.

        loss = Σ_q w_q (β·commitment_q + β'·codebook_error_q),   Σ_q w_q = 1

    commitment_q is the mean square of what depths 0 to q leave of the vector, ‖z − S_q‖²/D with S_q the sum of the
    codes so far: averaged over the depths, it is RQ-VAE's loss, and its gradient reaches the input from every depth.

    Args:
        depth, size, dimensions: Q codebooks of K codes of D numbers.
        shared: one codebook for all depths.
        metric: "l2", or for one depth "cosine": vectors and codes have length 1, and the output is such a code.
        gradient: how the quantized vectors differentiate into x, as in `residual_quantize`.
        commitment_weight: β.
        depth_weights: Q numbers in proportion to w_q, by default all equal; with rising ones the sum of all depths
            counts more than the first few.
        learning: "ema", codebooks are moving averages, and β' = 0; or "gradient": parameters, trained by the loss.
        codebook_weight: β', for learning="gradient".
        decay, epsilon, dead_below, kmeans_iterations: see `Codebook`; 0 switches revival or the k-means start off.
        update: "snapshot": all depths are quantized before the codebooks learn, by one collective a commit;
            "sequential": a shared codebook learns after each depth, by as many collectives.
        commit: "forward": codebooks learn in every forward of training mode, under `torch.no_grad` too; "manual": when
            `commit` is called, from all forwards since the last, so that they follow accumulated gradients. Without
            revival, n micro-batches then teach what one batch of all of them does.
        dropout: the share of samples that use only their first depths while training, a random number of them.
        dropout_multiple_of: rounds those numbers up to multiples.
        zero_code: code 0 of each codebook stays 0, so that no depth can increase a vector's error.
        beam: the width of the beam search that chooses codes in evaluation mode; 1 takes the nearest at each depth.

    Under torch.compile, and where seeds matter, give `seeds` to forward. Embeddings are float32 whatever x is. The
    k-means start runs eagerly: before the module is compiled as one graph, it must have seen a batch.

    ValueError for an argument that does not fit the above.

    Source: van den Oord et al., "Neural discrete representation learning", 2017; Zeghidour et al., "SoundStream: an
    end-to-end neural audio codec", 2021; Lee et al., "Autoregressive image generation using residual quantization",
    2022, section 3.1.
    """

    depth_weights: Tensor

    def __init__(
        self,
        depth: int,
        size: int,
        dimensions: int,
        *,
        shared: bool = False,
        metric: str = "l2",
        gradient: str = "straight_through",
        commitment_weight: float = 0.25,
        depth_weights: Sequence[float] | None = None,
        learning: str = "ema",
        codebook_weight: float = 1.0,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        dead_below: float = 1.0,
        kmeans_iterations: int = 0,
        update: str = "snapshot",
        commit: str = "forward",
        dropout: float = 0.0,
        dropout_multiple_of: int = 1,
        zero_code: bool = False,
        beam: int = 1,
    ) -> None:
        self._weights = _normalised(depth_weights, depth)
        super().__init__(dimensions, depth, size)
        _one_of("metric", metric, ("l2", "cosine"))
        _one_of("gradient", gradient, GRADIENTS)
        check_weights(commitment_weight=commitment_weight, codebook_weight=codebook_weight)
        _one_of("update", update, ("snapshot", "sequential"))
        _one_of("commit", commit, ("forward", "manual"))
        if metric == "cosine" and depth > 1:
            raise ValueError(f"metric must be l2 for depth {depth}: codes of length 1 do not shrink a residual")
        if update == "sequential" and not (shared and learning == "ema" and commit == "forward"):
            raise ValueError('update must be snapshot unless shared=True, learning="ema" and commit="forward"')
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie in [0, 1], got {dropout}")
        if dropout_multiple_of < 1 or beam < 1:
            raise ValueError(f"dropout_multiple_of and beam must be at least 1, got {dropout_multiple_of} and {beam}")
        self.metric, self.gradient = metric, gradient
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.update, self.commits_in_forward = update, commit == "forward"
        self.dropout, self.dropout_multiple_of, self.beam = dropout, dropout_multiple_of, beam
        self.codebook = Codebook(
            size,
            dimensions,
            depth=depth,
            shared=shared,
            learning=learning,
            decay=decay,
            epsilon=epsilon,
            dead_below=dead_below,
            kmeans_iterations=kmeans_iterations,
            cosine=metric == "cosine",
            zero_code=zero_code,
        )
        if not self.commits_in_forward:
            self.codebook.make_room()

    def fresh_buffers(self) -> dict[str, Tensor]:
        return {**super().fresh_buffers(), "depth_weights": torch.tensor(self._weights, dtype=state_dtype())}

    def forward(self, x: Tensor, *, seeds: Tensor | None = None, active_depths: Tensor | None = None) -> Quantized:
        """x [B, ..., D] float32, bfloat16, float16 or float64, quantized; see `Quantizer.forward`."""
        self.check(x)
        vectors = (
            F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1) if self.metric == "cosine" else x
        )
        if active_depths is None and self.training and self.dropout > 0:
            seeds = draw_seeds(x.shape[0], device=x.device) if seeds is None else seeds
            active_depths = draw_active_depths(
                seeds, self.depth, probability=self.dropout, multiple_of=self.dropout_multiple_of
            )
        if self.training and not self.codebook.started:
            self.codebook.start(self._rows(vectors))
        if self._learns and self.update == "sequential":
            results = self._quantize_sequentially(vectors, active_depths)
        elif not self.training and self.beam > 1:
            results = self._quantize_by_beam(vectors, active_depths)
        else:
            results = self._quantize(vectors, active_depths)
        quantized, codes, commitment, codebook_error = results
        return Quantized(quantized.to(x.dtype), codes, self._loss(commitment, codebook_error))

    def decode(self, codes: Tensor) -> Tensor:
        return decode_codes(codes, self.codebook.vectors())

    def commit(self) -> None:
        if not self.commits_in_forward and self.codebook.learns_from_statistics:
            self._count_columns(self.codebook.commit())

    def _loss(self, commitment: Tensor, codebook_error: Tensor) -> Tensor:
        loss = self.commitment_weight * commitment
        if self.codebook.learning == "gradient":
            loss = loss + self.codebook_weight * codebook_error
        return (loss * self.depth_weights.to(loss.dtype)).sum(-1)

    def _quantize(self, x: Tensor, active_depths: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        vectors = self.codebook.vectors()
        results = residual_quantize(
            x,
            vectors,
            depth=self.depth,
            active_depths=active_depths,
            metric=self.metric,
            gradient=self.gradient,
        )
        self._learn(x, results[1], vectors)
        return results

    def _quantize_sequentially(self, x: Tensor, active_depths: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As RQ-VAE does: each depth uses the shared codebook as the depth before it left it."""
        residual = self._rows(x).to(torch.promote_types(x.dtype, torch.float32))
        active = self._active(active_depths, x).reshape(-1)
        used, chosen, counts = [], [], []
        for q in range(self.depth):
            vectors = self.codebook.vectors()
            code = torch.where(active > q, nearest_code(residual, vectors), -1)
            if not is_recomputation():
                counts.append(self.codebook.learn(residual, code[:, None], vectors))
            residual = residual - torch.where(code[:, None] >= 0, vectors[code.clamp_min(0)], 0)
            used.append(vectors)
            chosen.append(code)
        if counts:
            self._count_columns(torch.cat(counts))
        codes = torch.stack(chosen, -1).view(*x.shape[:-1], self.depth)
        quantized, commitment, codebook_error = from_codes(x, torch.stack(used), codes, gradient=self.gradient)
        return quantized, codes, commitment, codebook_error

    def _quantize_by_beam(self, x: Tensor, active_depths: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        vectors = self.codebook.vectors()
        codes = beam_search(x, vectors, self.beam, depth=self.depth)
        depths = torch.arange(self.depth, device=x.device)
        codes = torch.where(depths < self._active(active_depths, x)[..., None], codes, -1)
        self.count(codes)
        quantized, commitment, codebook_error = from_codes(x, vectors, codes, gradient=self.gradient)
        return quantized, codes, commitment, codebook_error

    @property
    def _learns(self) -> bool:
        return self.training and self.codebook.learns

    def _learn(self, x: Tensor, codes: Tensor, vectors: Tensor) -> None:
        """Counts the codes of x [..., D], quantized with `vectors`, and lets the codebook learn from them."""
        if not self._learns:
            self.count(codes)
        elif self.commits_in_forward and not is_recomputation():
            self._count_columns(self.codebook.learn(self._rows(x), codes.view(-1, self.depth), vectors))
        elif not is_recomputation():
            self.codebook.observe(self._rows(x), codes.view(-1, self.depth), vectors)

    def _active(self, active_depths: Tensor | None, x: Tensor) -> Tensor:
        """How many depths each vector of x [..., D] uses, int64 [...], as the operation takes `active_depths`."""
        if active_depths is None:
            return torch.full(x.shape[:-1], self.depth, device=x.device)
        return checked_active_depths(active_depths, x)

    def _rows(self, x: Tensor) -> Tensor:
        return x.detach().reshape(-1, self.dimensions)

    def _count_columns(self, counts: Tensor) -> None:
        if self.code_counts.numel():
            self.code_counts.add_(counts.to(torch.int64))


class VectorQuantizer(ResidualQuantizer):
    """Each vector as its nearest code of one codebook; the arguments are those of `ResidualQuantizer`.

    Source: van den Oord et al., "Neural discrete representation learning", 2017; with metric="cosine", Yu et al.,
    "Vector-quantized image modeling with improved VQGAN", 2022, section 3.2.
    """

    def __init__(
        self,
        size: int,
        dimensions: int,
        *,
        metric: str = "l2",
        gradient: str = "straight_through",
        commitment_weight: float = 0.25,
        learning: str = "ema",
        codebook_weight: float = 1.0,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        dead_below: float = 1.0,
        kmeans_iterations: int = 0,
        commit: str = "forward",
        zero_code: bool = False,
    ) -> None:
        super().__init__(
            1,
            size,
            dimensions,
            metric=metric,
            gradient=gradient,
            commitment_weight=commitment_weight,
            learning=learning,
            codebook_weight=codebook_weight,
            decay=decay,
            epsilon=epsilon,
            dead_below=dead_below,
            kmeans_iterations=kmeans_iterations,
            commit=commit,
            zero_code=zero_code,
        )


def _one_of(name: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")


def _normalised(weights: Sequence[float] | None, depth: int) -> list[float]:
    given = [1.0] * depth if weights is None else [float(weight) for weight in weights]
    if len(given) != depth or min(given) < 0 or not 0 < sum(given) < math.inf:
        raise ValueError(f"depth_weights must be {depth} numbers, none negative and not all 0, got {weights}")
    return [weight / sum(given) for weight in given]
