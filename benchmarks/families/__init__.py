"""One file a family of operations: its cases, the ways people compute them today, and its promises.

The harness asks each for `cases(device)`, `workload(case, device)` and `PROMISES`.
"""

from __future__ import annotations

from types import ModuleType

from . import binary_quantize, diffuse, finite_scalar, noise, quantize, residual_quantizer, solve

FAMILIES: dict[str, ModuleType] = {
    "noise": noise,
    "diffuse": diffuse,
    "quantize": quantize,
    "residual_quantizer": residual_quantizer,
    "finite_scalar": finite_scalar,
    "binary_quantize": binary_quantize,
    "solve": solve,
}
