"""Random numbers: `gaussian` and `uniform` against torch.randn and torch.rand.

Torch's numbers depend on the batch and the order of calls; who needs them per sample keeps a generator a sample and
draws one sample at a time (diffusers' list of generators), hence that peer too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from visgen_fast import ops, reference

from ..contenders import dtype_name, ours, shape_name
from ..promises import Promise
from ..workload import Contender, Inputs, Workload

# What a normal number takes at least, in lanes of vector instructions. Philox: ten rounds of two wide products and four
# exclusive ors for four words. Box and Muller, for two numbers: a logarithm and a sine and cosine as polynomials of
# eight, four and four coefficients, a square root, two products, two conversions and three reductions of an argument.
PHILOX_OPERATIONS = 10 * (2 + 4) / 4
NORMAL_OPERATIONS = PHILOX_OPERATIONS + (8 + 4 + 4 + 1 + 2 + 2 + 3) / 2


@dataclass(frozen=True)
class Case:
    """A batch of random numbers."""

    operation: str  # "gaussian" or "uniform"
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        return f"{self.operation} {dtype_name(self.dtype)} {shape_name(self.shape)}"


def cases(device: str) -> list[Case]:
    if device == "cuda":
        large, latents = (64, 3, 256, 256), (64, 4, 64, 64)
        return [Case("gaussian", large, torch.float32), Case("gaussian", large, torch.bfloat16),
                Case("uniform", large), Case("gaussian", latents)]  # fmt: skip
    large, small = (16, 3, 256, 256), (64, 3, 32, 32)
    return [Case("gaussian", large), Case("gaussian", large, torch.bfloat16), Case("uniform", large),
            Case("gaussian", small), Case("gaussian", (64, 4, 64, 64)), Case("gaussian", (5, 3, 123, 123))]  # fmt: skip


def workload(case: Case, device: str) -> Workload:
    batch, shape, operation = case.shape[0], case.shape[1:], case.operation
    numbers = math.prod(case.shape)

    def make_inputs(index: int) -> Inputs:
        return reference.derive_seeds(0, torch.arange(batch, device=device) + index * batch)

    def compute(seeds):
        return getattr(ops, operation)(seeds, shape, dtype=case.dtype)

    def define(seeds):
        return getattr(reference, operation)(seeds, shape, dtype=case.dtype)

    def exact(seeds):
        return [getattr(reference, operation)(seeds, shape, dtype=torch.float64)]

    return Workload(
        name=case.name,
        make_inputs=make_inputs,
        contenders=[
            *ours(compute, lambda seeds: ([compute(seeds)], exact(seeds)), device),
            *_peers(case, device),
            Contender("reference", define, accuracy=lambda seeds: ([define(seeds)], exact(seeds))),
            Contender("reference, compiled", torch.compile(define, dynamic=False)),
        ],
        read_bytes=8 * batch,
        written_bytes=numbers * case.dtype.itemsize,
        vector_operations=numbers * (NORMAL_OPERATIONS if operation == "gaussian" else PHILOX_OPERATIONS + 2),
    )


def _peers(case: Case, device: str) -> list[Contender]:
    draw = {"gaussian": torch.randn, "uniform": torch.rand}[case.operation]
    generators = [torch.Generator(device).manual_seed(index) for index in range(case.shape[0])]

    def eager(_):
        return draw(case.shape, dtype=case.dtype, device=device)

    def per_sample(_):
        samples = [draw(case.shape[1:], dtype=case.dtype, device=device, generator=own) for own in generators]
        return torch.stack(samples)

    return [
        Contender("eager", eager, is_peer=True),
        Contender("torch.compile", torch.compile(eager, dynamic=False), is_peer=True),
        Contender("generator a sample", per_sample, is_peer=True),
    ]


PROMISES: list[Promise] = []
