"""Named calls of the operations, whose launches are counted. Small, but of whole blocks: counts are for each unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from visgen_fast import ops
from visgen_fast.diffusion import CosineVP, plan


@dataclass(frozen=True)
class Case:
    """`prepare()` makes the arguments, `call(*arguments)` is what is counted."""

    family: str
    name: str
    units: int  # elements or rows
    unit: str
    prepare: Callable[[], tuple[Any, ...]]
    call: Callable[..., Any]
    stores_of_a_vector: int = 1  # that nvcc makes of a `store_vec` here; one is what the source asks for


def _seeds() -> torch.Tensor:
    return torch.arange(2, dtype=torch.int64) + 12345


def _numbers(*shape: int, dtype: torch.dtype = torch.float32, key: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(key)).to(dtype)


_PICTURES = (2, 3, 64, 64)
_ELEMENTS = 2 * 3 * 64 * 64
_SHORT = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def _noise(operation: str, dtype: torch.dtype) -> Case:
    run = getattr(ops, operation)
    return Case("noise", f"{operation} {_SHORT[dtype]}", _ELEMENTS, "element", lambda: (_seeds(),),
                lambda seeds: run(seeds, _PICTURES[1:], dtype=dtype))  # fmt: skip


def _diffuse(operation: str, dtype: torch.dtype) -> Case:
    run = getattr(ops, operation)
    return Case("diffuse", f"{operation} {_SHORT[dtype]}", _ELEMENTS, "element",
                lambda: (_numbers(*_PICTURES, dtype=dtype), _numbers(2, 4, key=1), _seeds()), run)  # fmt: skip


def _multiscale(operation: str, dtype: torch.dtype) -> Case:
    def prepare() -> tuple[Any, ...]:
        pictures = _numbers(*_PICTURES, dtype=dtype), _numbers(*_PICTURES, dtype=dtype, key=1)
        return pictures if operation == "multiscale_loss" else (*pictures, _numbers(2, 4, key=2), _seeds())

    run = getattr(ops, operation)
    return Case("multiscale", f"{operation} {_SHORT[dtype]}", _ELEMENTS, "element", prepare,
                lambda *arguments: run(*arguments, scales=(1, 2, 4, 8)))  # fmt: skip


def _solve(dtype: torch.dtype) -> Case:
    def prepare() -> tuple[Any, ...]:
        steps, weights = plan("dpm++2m", CosineVP(), "v", steps=20), torch.tensor([[[3.0, -2.0]]], dtype=torch.float64)
        x, conditional, unconditional, slot = (_numbers(*_PICTURES, dtype=dtype, key=key) for key in range(4))
        return x, (conditional, unconditional), steps.table.clone(), torch.tensor(8).clone(), (slot,), weights.clone()

    def call(x, outputs, table, step, slots, weights):
        return ops.solver_step_(x, outputs, table, step, slots=slots, weights=weights)

    return Case("solve", f"solver_step_ guided {_SHORT[dtype]}", _ELEMENTS, "element", prepare, call)


def _modulate(operation: str, dtype: torch.dtype) -> Case:
    rows, width = 64, 1152

    def prepare() -> tuple[Any, ...]:
        x, branch = (_numbers(2, rows // 2, width, dtype=dtype, key=key) for key in range(2))
        gate, scale, shift = (_numbers(2, 1, width, dtype=dtype, key=key) for key in range(2, 5))
        return (x, scale, shift) if operation == "modulated_norm" else (x, branch, gate, scale, shift)

    name = f"{operation} {_SHORT[dtype]}"
    return Case("modulate", name, rows * width, "element", prepare, getattr(ops, operation))


def _activate(operation: str, kind: str, dtype: torch.dtype) -> Case:
    run, width = getattr(ops, operation), 2048
    return Case("activate", f"{operation} {kind} {_SHORT[dtype]}", 16 * width, "element",
                lambda: (_numbers(16, width * (1 if operation == "activate" else 2), dtype=dtype),),
                lambda x: run(x, kind), stores_of_a_vector=4)  # fmt: skip


def _select(guided: bool) -> Case:
    codes = 16384
    options = {"guidance": 3.0, "top_k": 250, "top_p": 0.96} if guided else {}

    def call(logits, other, seeds):
        return ops.sample_tokens(logits, seeds, unconditional=other if guided else None, **options)

    name = "sample_tokens guided top_k top_p" if guided else "sample_tokens"
    return Case("select", f"{name} float32", 2 * codes, "logit",
                lambda: (_numbers(2, codes), _numbers(2, codes, key=1), _seeds()), call)  # fmt: skip


def _quantize(rows: int, width: int, codes: int, depth: int) -> Case:
    name = f"residual_quantize {rows}×{width}, {codes} codes, {depth} deep"
    return Case("quantize", name, rows * depth, "row and depth",
                lambda: (_numbers(rows, width), _numbers(depth, codes, width, key=1)),
                lambda x, books: ops.residual_quantize(x, books))  # fmt: skip


_BOTH = (torch.float32, torch.bfloat16)

CASES = [
    *(_noise(operation, dtype) for operation in ("gaussian", "uniform") for dtype in _BOTH),
    *(_diffuse(operation, dtype) for operation in ("diffuse", "add_noise") for dtype in _BOTH),
    *(_multiscale(operation, dtype) for operation in ("multiscale_loss", "denoising_loss") for dtype in _BOTH),
    *(_solve(dtype) for dtype in _BOTH),
    *(_modulate(operation, dtype) for operation in ("modulated_norm", "gated_residual_norm") for dtype in _BOTH),
    *(_activate(*kind, dtype) for kind in (("activate", "gelu_tanh"), ("gated_activate", "swiglu")) for dtype in _BOTH),
    *(_select(guided) for guided in (False, True)),
    _quantize(128, 64, 256, 2),
]


def units_of(family: str) -> dict[str, str]:
    """What the counts of a family's cases are for, by case."""
    return {case.name: case.unit for case in CASES if case.family == family}
