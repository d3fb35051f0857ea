"""Random numbers that are a pure function of (seed, stream, element index): the family `noise`.

The same seed gives the same numbers at any batch size, in any memory layout, on any number of ranks, instruction set or
device: the random integers are identical, the normal numbers agree to 1e-6, Gumbel's to the rounding of float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ..reference import Purpose
from ._derivatives import gate, register_fake

__all__ = ["Purpose", "derive_seeds", "draw_seeds", "gaussian", "gumbel", "uniform"]

runs_reference = gate("noise")


def derive_seeds(seed: int | Tensor, index: Tensor, *, step: int = 0, purpose: int = 0) -> Tensor:
    """Seeds for the samples `index` of the run `seed`: a pure integer hash, the same everywhere.

    Args:
        seed: the run's seed, an int of 64 bits, or an int64 tensor of shape [] or [B].
        index: int64 [B], global sample indices (position in the data order, number of the image to sample, …).
        step: 0 to 2³² − 1, for samples that need a fresh seed at each step.
        purpose: a `Purpose`, or any number from 0 to 2³¹ − 1, that keeps uses of one seed apart.

    Returns:
        int64 [B]: the first 64 bits of Philox4x32-10 at key `seed`, counter (index, purpose·2³² + step).
        TypeError or ValueError for an argument that does not fit.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    check.tensor(index, "index")
    if index.dtype != torch.int64 or index.dim() != 1:
        raise ValueError(f"index must be int64 of shape [B], got {index.dtype} of shape {list(index.shape)}")
    if isinstance(seed, Tensor):
        check.device(seed, "seed", index.device, "index")
        if seed.dtype != torch.int64 or seed.dim() > 1 or seed.numel() not in (1, index.shape[0]):
            raise ValueError(f"seed must be an int64 tensor of shape [] or [{index.shape[0]}], got {list(seed.shape)}")
    elif not check.is_integer(seed):
        raise TypeError(f"seed must be an int or an int64 tensor, got {type(seed).__name__}")
    else:
        check.integer(seed, "seed", -(2**63), 2**63 - 1)
    check.integer(step, "step", 0, 2**32 - 1)
    check.integer(purpose, "purpose", 0, 2**31 - 1)
    if runs_reference(index, seed if isinstance(seed, Tensor) else None):
        return reference.derive_seeds(seed, index, step=step, purpose=purpose)
    if not isinstance(seed, Tensor):
        seed = torch.full((1,), seed, dtype=torch.int64, device=index.device)
    return torch.ops.visgen_fast.derive_seeds(seed.reshape(-1), index, int(purpose) << 32 | step)


def draw_seeds(
    batch: int, *, device: torch.device | str | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Fresh seeds [batch] (int64) from torch's random state: what `torch.randn_like` users need in its place.

    They are drawn on the CPU (or the generator's device) and copied to `device`, so that `torch.manual_seed` makes them
    the same whatever the device. RuntimeError while a CUDA graph is captured or `torch.compile` traces, where torch's
    random state cannot advance: draw the seeds outside and pass them in.
    """
    check.integer(batch, "batch", 0)
    if torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        raise RuntimeError("draw_seeds must be called outside torch.compile and CUDA graph capture: pass the seeds in.")
    where = generator.device if generator is not None else torch.device("cpu")
    seeds = torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator, device=where, dtype=torch.int64)
    return seeds if device is None else seeds.to(device)


def gaussian(
    seeds: Tensor, shape: Sequence[int], *, stream: int = 0, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """Standard normal numbers of each seed.

    Args:
        seeds: int64 [B], one a sample.
        shape: of one sample.
        stream: which of the seed's independent sequences; see `Purpose.stream`.
        dtype: float32 (the default), float64, bfloat16 or float16. float64 is computed in float64, all else in float32.
        out: a tensor [B, *shape] of any memory layout to fill; its dtype takes the place of `dtype`.

    Returns:
        [B, *shape] on the seeds' device, or `out`. TypeError or ValueError for an argument that does not fit.

    Source: Philox4x32-10 (Salmon et al., SC 2011); Box and Muller, "A note on the generation of random normal
    deviates", 1958.
    """
    return _fill(torch.ops.visgen_fast.gaussian_, reference.gaussian, seeds, shape, stream, dtype, out)


def uniform(
    seeds: Tensor, shape: Sequence[int], *, stream: int = 0, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """Uniform numbers in (0, 1] of each seed, (word + 1)·2⁻³² rounded to the dtype but never to 0. All else as in
    `gaussian`."""
    return _fill(torch.ops.visgen_fast.uniform_, reference.uniform, seeds, shape, stream, dtype, out)


def gumbel(
    seeds: Tensor, shape: Sequence[int], *, stream: int = 0, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """Numbers of Gumbel's distribution, −ln(−ln u) with u of 48 bits: finite, from −3.53 to 33.97.

    The 48 bits are identical everywhere. Two logarithms follow in float64, whatever the dtype, and their rounding is
    the machine's own: numbers agree to 4 units in the last place of float64 (those of 1 for numbers below 1), and are
    then rounded to the dtype. All else as in `gaussian`.

    Source: Gumbel, "Statistical theory of extreme values", 1954.
    """
    return _fill(torch.ops.visgen_fast.gumbel_, reference.gumbel, seeds, shape, stream, dtype, out)


def _fill(operation, definition, seeds, shape, stream, dtype, out):
    check.seeds(seeds)
    check.stream(stream)
    size = [seeds.shape[0], *check.integers(shape, "shape", 0)]
    if len(size) > 9:
        raise ValueError(f"shape must have at most 8 dimensions, got {len(size) - 1}")
    if out is not None:
        _check_out(out, size, dtype, seeds.device)
        dtype = out.dtype
    dtype = torch.float32 if dtype is None else dtype
    check.float_type(dtype, "dtype")
    if runs_reference(seeds, out):
        return definition(seeds, shape, stream=stream, dtype=dtype, out=out)
    if out is not None and out.is_neg():  # PyTorch's fallback for such a view cannot call what returns nothing
        return out.copy_(_fill(operation, definition, seeds, shape, stream, dtype, None))
    result = torch.empty(size, dtype=dtype, device=seeds.device) if out is None else out
    operation(result, seeds.contiguous(), stream)
    if out is not None and not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(out)  # so that autograd notices what was saved and is now overwritten
    return result


def _check_out(out: Tensor, size: list[int], dtype: torch.dtype | None, device: torch.device) -> None:
    check.tensor(out, "out")
    if list(out.shape) != size:
        raise ValueError(f"out must have the shape {size}, got {list(out.shape)}")
    if dtype is not None and dtype != out.dtype:
        raise ValueError(f"dtype must be left out or be that of out, {out.dtype}, got {dtype}")
    check.device(out, "out", device, "the seeds")
    if not torch.compiler.is_compiling() and torch._debug_has_internal_overlap(out) == 1:
        raise ValueError("out must not overlap itself: several of its elements share memory")
    if out.requires_grad:
        raise ValueError("out must not require a gradient: random numbers have none")


register_fake("derive_seeds", lambda seed, index, _: torch.empty_like(index, memory_format=torch.contiguous_format))
register_fake("gaussian_", lambda out, seeds, stream: None)
register_fake("uniform_", lambda out, seeds, stream: None)
register_fake("gumbel_", lambda out, seeds, stream: None)
