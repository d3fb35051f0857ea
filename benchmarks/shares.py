"""What the parts of a training step cost: the share of each kind of operation in its time, as torch's profiler sees it.

Kinds go by the names of operations. The optimizer's are those inside of `optimizing()`, since it shares names with
others. What torch.compile makes of several operations is one kernel without a name of a kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

PRODUCTS, ATTENTION, MODULATION = "matrix products", "attention", "norms, scales, shifts, gates and sums"
ACTIVATIONS, OPTIMIZER, COMPILED, OTHERS = "activations", "optimizer and average", "kernels of torch.compile", "others"
KINDS = (PRODUCTS, ATTENTION, MODULATION, ACTIVATIONS, OPTIMIZER, COMPILED, OTHERS)

# The first kind of which a name has a part. Copies belong to what makes them: heads to attention, the rest to others.
_PARTS = {
    ATTENTION: ("scaled_dot_product", "softmax", "flash"),
    PRODUCTS: ("addmm", "::mm", "bmm", "linear", "convolution", "gemm"),
    ACTIVATIONS: ("gelu", "silu", "activate"),
    MODULATION: ("modulated_norm", "gated_residual_norm", "layer_norm", "::mul", "::add", "::sum", "addcmul"),
    COMPILED: ("Compiled", "compiled", "Inductor", "inductor", "triton"),
}


def optimizing() -> record_function:
    """What the optimizer and the moving average do is inside of it."""
    return record_function(OPTIMIZER)


def shares(step: Callable[[], Any], device: str, calls: int = 2) -> dict[str, float]:
    """The share of each kind in the time of `step`, on a GPU in that of its kernels; they add up to 1."""
    step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as profiler:
        for _ in range(calls):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
    times: Counter[str] = Counter()
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CPU:
            times[_kind(event)] += event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
    total = sum(times.values()) or 1
    return {kind: times[kind] / total for kind in KINDS}


def _kind(event: Any) -> str:
    names, above = [event.name], event.cpu_parent
    while above is not None:
        names.append(above.name)
        above = above.cpu_parent
    if OPTIMIZER in names:
        return OPTIMIZER
    found = (kind for kind, parts in _PARTS.items() if any(part in event.name for part in parts))
    return next(found, OTHERS)
