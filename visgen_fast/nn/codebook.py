"""The state of one or several codebooks, and how they learn from the vectors that are assigned to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from .collective import sum_over_ranks
from .kmeans import kmeans_start
from .side_effects import as_in_forward, is_recomputation, is_transformed
from .snapshot import snapshot
from .state import Float32State, Freezable, state_dtype
from .statistics import Gathered, Statistics, gather

if TYPE_CHECKING:
    from typing import Self


class Codebook(Freezable, Float32State):
    """A codebook [K, D] of `size` codes for each of `depth` depths, or one that all of them share.

    learning="ema": the embedding is a buffer that follows the vectors assigned to it, by exponential moving averages of
    their counts and sums with Laplace smoothing (van den Oord et al., "Neural discrete representation learning", 2017,
    appendix A.1):

        N ← γN + (1−γ)n,   m ← γm + (1−γ)Σr,   e = m / Ñ,   Ñ_k = (N_k + ε)·ΣN / (ΣN + Kε)

    learning="gradient": the embedding is a parameter; of the averages only N is kept, for revival.

    A code whose N falls below `dead_below` is replaced by a random residual of the batch, N by `dead_below`, and m to
    match (Dhariwal et al., "Jukebox", 2020). With `cosine`, codes have length 1: e = m/‖m‖, or as it was where m is 0.
    With `zero_code`, code 0 is 0 for good. With `kmeans_iterations`, the clusters of the first batch that has finite
    vectors are the first codes.

    It learns in training mode. `requires_grad_(False)` freezes it, whichever way it learns: nothing moves it then.

    State: `embedding` [Q, K, D] or, shared, [K, D], `average_size` N, `average_sum` m, `initialized`, and `seed` and
    `batches`, which decide what replaces dead codes; in float32 unless the module is cast to float64. All ranks of a
    data-parallel run hold the same bits. Nothing here synchronises with the host, but for the k-means start and the
    loading of a state that may have it behind it.
    """

    replicated = True  # where a model is sharded, every rank holds its codebooks whole

    embedding: Tensor
    average_size: Tensor
    average_sum: Tensor | None
    initialized: Tensor
    seed: Tensor
    batches: Tensor

    def __init__(
        self,
        size: int,
        dimensions: int,
        *,
        depth: int = 1,
        shared: bool = False,
        learning: str = "ema",
        decay: float = 0.99,
        epsilon: float = 1e-5,
        dead_below: float = 1.0,
        kmeans_iterations: int = 0,
        cosine: bool = False,
        zero_code: bool = False,
    ) -> None:
        super().__init__()
        if learning not in ("ema", "gradient"):
            raise ValueError(f"learning must be ema or gradient, got {learning!r}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        for name, value in {
            "epsilon": epsilon,
            "dead_below": dead_below,
            "kmeans_iterations": kmeans_iterations,
        }.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if cosine and zero_code:
            raise ValueError("zero_code must be False for the cosine metric, whose codes have length 1")
        self.size, self.dimensions, self.depth, self.shared = size, dimensions, depth, shared
        self.learning, self.decay, self.epsilon, self.dead_below = learning, decay, epsilon, dead_below
        self.kmeans_iterations, self.cosine, self.zero_code = kmeans_iterations, cosine, zero_code

        shape = (size, dimensions) if shared else (depth, size, dimensions)
        embedding = torch.empty(shape, dtype=state_dtype()).uniform_(-1 / size, 1 / size)
        embedding = F.normalize(embedding, dim=-1) if cosine else embedding
        if zero_code:
            embedding[..., 0, :] = 0
        if learning == "gradient":
            self.embedding = nn.Parameter(embedding)
            self.register_buffer("average_sum", None)
        else:
            self.register_buffer("embedding", embedding)
            self.register_buffer("average_sum", embedding.clone())
        self.register_buffer("average_size", embedding.new_ones(shape[:-1]))
        self.register_buffer("initialized", torch.tensor(kmeans_iterations == 0))
        self.register_buffer("seed", torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        # Not buffers: data-parallel wrappers overwrite those with rank 0's, and each rank gathers its own.
        self._gathered: Gathered | None = None
        self._started = kmeans_iterations == 0
        self.register_load_state_dict_post_hook(_begin_again)

    def vectors(self) -> Tensor:
        """The codes' vectors, shaped as `embedding`, differentiable where they learn by gradient.

        Where they are about to learn, a copy, for the backward pass; in a recomputation, one of those in its forward.
        """
        vectors = self.embedding
        if self.learns:
            vectors = as_in_forward(self, snapshot(vectors))
        if self.learning == "gradient" and self.cosine:
            vectors = F.normalize(vectors, dim=-1)
        if self.learning == "gradient" and self.zero_code:
            vectors = vectors * (torch.arange(vectors.shape[-2], device=vectors.device) > 0)[:, None]
        return vectors

    @property
    def frozen(self) -> bool:
        """Whether `requires_grad_(False)` was called, of this module or one that hands it on, as quantizers do."""
        return self._frozen or (self.learning == "gradient" and not self.embedding.requires_grad)

    @property
    def learns_from_statistics(self) -> bool:
        """Whether the vectors that are assigned to its codes move them."""
        return not self.frozen and (self.learning == "ema" or self.dead_below > 0)

    @property
    def learns(self) -> bool:
        """Whether a forward teaches it now."""
        return self.training and self.learns_from_statistics

    @property
    def started(self) -> bool:
        """Whether `start` has nothing to do, as far as is known without a look at the device."""
        return self._started or self.frozen

    @torch.compiler.disable(
        reason="the k-means start must run eagerly: give the module one batch before it is compiled"
    )
    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Before the first batch x [N, D] is quantized: sets the embedding by k-means of its residuals, depth by depth.

        A batch that has no finite vector on any rank starts nothing. The host reads whether that has happened until it
        has.
        """
        if self.started or not self.training or is_recomputation():
            return
        self._check_that_it_may_learn()
        if self.initialized.item():
            self._started = True
            return
        (finite,) = sum_over_ranks([x.isfinite().all(-1).sum()])
        if not finite.item():
            return
        self._started = True
        embedding, sizes = kmeans_start(
            x,
            self.embedding,
            self.depth,
            iterations=self.kmeans_iterations,
            seed=self.seed,
            cosine=self.cosine,
            zero_code=self.zero_code,
        )
        self.embedding.copy_(embedding)
        self.average_size.copy_(sizes.clamp_min(1))  # a code without vectors keeps its place as one with one does
        if self.average_sum is not None:
            self.average_sum.copy_(embedding * self.average_size[..., None])
        self.initialized.fill_(True)

    @torch.no_grad()
    def learn(self, x: Tensor, codes: Tensor, vectors: Tensor) -> Tensor:
        """One update from x [N, D] with codes [N, Q], quantized with `vectors`. Returns all ranks' counts [Q, K]."""
        return self._update(self._gather(x, codes, vectors, None))

    @torch.no_grad()
    def observe(self, x: Tensor, codes: Tensor, vectors: Tensor) -> None:
        """Adds x [N, D] with codes [N, Q], quantized with `vectors`, to what the next `commit` learns from."""
        gathered = self._observed()
        gathered.add(self._gather(x, codes, vectors, gathered.rows), len(x))

    @torch.no_grad()
    def commit(self) -> Tensor:
        """One update from everything observed since the last commit. Returns all ranks' counts [Q, K]."""
        gathered = self._observed()
        counts = self._update(gathered.statistics).clone()
        gathered.clear()
        return counts

    def _gather(self, x: Tensor, codes: Tensor, vectors: Tensor, earlier: Tensor | None) -> Statistics:
        self._check_that_it_may_learn()
        revival = self.dead_below > 0
        result = gather(x, codes, vectors, seed=self.seed, batch=self.batches, earlier=earlier, revival=revival)
        self.batches.add_(1)
        return result

    def _check_that_it_may_learn(self) -> None:
        if getattr(self, "_is_replica", False):
            raise RuntimeError(
                "a codebook cannot learn in the replicas of nn.DataParallel, which are thrown away: "
                "use DistributedDataParallel, eval() or requires_grad_(False)"
            )
        if is_transformed():
            raise RuntimeError(
                "a codebook cannot learn under the transforms of torch.func, which allow no side effects: "
                "use eval() or requires_grad_(False)"
            )

    def make_room(self) -> None:
        """Makes room for what `observe` gathers, so that the first forward already finds the memory of all others."""
        self._gathered = Gathered.nothing(self.embedding, self.depth, revival=self.dead_below > 0)

    def _observed(self) -> Gathered:
        """What was gathered since the last commit: the same memory every time."""
        if self._gathered is None:
            self.make_room()
        assert self._gathered is not None
        return self._gathered

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self._gathered is not None:
            self._gathered = self._gathered.converted(fn)
        return self

    def _update(self, gathered: Statistics) -> Tensor:
        counts, sums, candidates, offered = gathered.over_ranks()
        # A depth that no vector used, as under dropout, stays as it is.
        weights = (1 - self.decay) * (counts.sum(-1, keepdim=True) > 0).to(counts.dtype)
        if self.shared:  # the depths enter the averages one after the other
            for q in range(len(counts)):
                self._average(counts[q], sums[q], weights[q])
        else:
            self._average(counts, sums, weights)
        if self.average_sum is not None:
            self._follow_averages(weights.amax(0) > 0 if self.shared else weights > 0)
        if self.dead_below > 0:
            self._revive(candidates[0] if self.shared else candidates, offered[0] if self.shared else offered)
        if self.zero_code:
            self.embedding[..., 0, :] = 0
            if self.average_sum is not None:
                self.average_sum[..., 0, :] = 0
        return counts

    def _average(self, counts: Tensor, sums: Tensor, weights: Tensor) -> None:
        self.average_size.lerp_(counts, weights)
        if self.average_sum is not None:
            self.average_sum.lerp_(sums, weights[..., None])

    def _follow_averages(self, moved: Tensor) -> None:
        assert self.average_sum is not None
        if self.cosine:
            divisor = self.average_sum.norm(dim=-1)
            moved = moved & (divisor >= torch.finfo(divisor.dtype).tiny)  # no direction, no code of length 1
        else:
            total = self.average_size.sum(-1, keepdim=True)
            divisor = (self.average_size + self.epsilon) * (total / (total + self.size * self.epsilon))
        # In place, since codebooks are large. What did not move is multiplied by 1 and has 0, m over infinity, added.
        divisor = torch.where(moved, divisor, torch.inf)
        self.embedding.mul_(~moved[..., None]).addcdiv_(self.average_sum, divisor[..., None])

    def _revive(self, candidates: Tensor, offered: Tensor) -> None:
        """Embedding, sum and size together, so that the next update does not bring the dead code back."""
        replaced = (self.average_size < self.dead_below) & (offered > 0)
        if self.cosine:
            replaced &= candidates.any(-1)
        self.average_size.masked_fill_(replaced, self.dead_below)
        replaced = replaced[..., None]
        torch.where(replaced, candidates, self.embedding, out=self.embedding)
        if self.average_sum is not None:
            torch.where(replaced, candidates.mul_(self.dead_below), self.average_sum, out=self.average_sum)


def _begin_again(codebook: Codebook, _: object) -> None:
    """After a state dict was loaded: what was gathered is for other codebooks, and these may have started."""
    held = codebook._gathered
    if held is not None:
        like = codebook.embedding
        fits = (held.rows.device, held.statistics.sums.dtype) == (like.device, like.dtype)
        held.clear() if fits else codebook.make_room()
    codebook._started = codebook.kmeans_iterations == 0 or _is_true(codebook.initialized)


def _is_true(flag: Tensor) -> bool:
    """The value of a boolean; False where it has none, as on the meta device."""
    return not (flag.is_meta or isinstance(flag, FakeTensor)) and bool(flag)
