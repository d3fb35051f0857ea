"""One file a family of operations: its cases, the ways people compute them today, and its promises."""

from __future__ import annotations

from types import ModuleType

from . import diffuse, noise, quantize, residual_quantizer, scalar_quantize

FAMILIES: dict[str, ModuleType] = {
    "noise": noise,
    "diffuse": diffuse,
    "quantize": quantize,
    "residual_quantizer": residual_quantizer,
    "scalar_quantize": scalar_quantize,
}
