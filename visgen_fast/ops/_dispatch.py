"""What every operation asks before it calls its kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._library import has_kernels

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # of tensors that operations take


def runs_reference(*tensors: Tensor | None) -> bool:
    """Whether the reference must serve this call instead of the compiled operation.

    So it is where no kernels were built for the device, and where a forward-mode tangent or a `torch.func.vmap`
    dimension rides on an input: PyTorch would drop the one silently and has no rule for the other.
    """
    given = [t for t in tensors if t is not None]
    if torch.compiler.is_compiling():
        return not has_kernels(given[0].device) or forward_ad._current_level >= 0
    return not has_kernels(given[0].device) or any(_is_transformed(t) for t in given)


def _is_transformed(tensor: Tensor) -> bool:
    if torch._C._functorch.is_batchedtensor(tensor):
        return True
    if torch._C._functorch.is_gradtrackingtensor(tensor):
        return _has_tangent(tensor) or _is_transformed(torch._C._functorch.get_unwrapped(tensor))
    return _has_tangent(tensor)


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


def check_tensor(value: object, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def check_seeds(seeds: object, batch: int, device: torch.device) -> None:
    check_tensor(seeds, "seeds")
    assert isinstance(seeds, Tensor)
    if seeds.dtype != torch.int64 or seeds.dim() != 1:
        raise ValueError(f"seeds must be int64 of shape [B], got {seeds.dtype} of shape {list(seeds.shape)}")
    if seeds.shape[0] != batch:
        raise ValueError(f"seeds must have one number for each of the {batch} samples, got {seeds.shape[0]}")
    if seeds.device != device:
        raise ValueError(f"seeds must be on {device}, the device of the samples, got {seeds.device}")


def check_stream(stream: int) -> None:
    if isinstance(stream, int) and not 0 <= stream < 2**63:
        raise ValueError(f"stream must lie in [0, 2**63), got {stream}")
