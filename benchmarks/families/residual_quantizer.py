"""A training step of a residual quantizer: forward, moving averages of its codebooks, backward.

Our module against vector-quantize-pytorch's ResidualVQ with the same options: no revival of dead codes, codebooks that
learn in every forward, rotation of the gradient at each depth (its default). Both begin with the same codebooks, which
then follow the same vectors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visgen_fast.nn import ResidualQuantizer

from ..contenders import ours
from ..promises import Promise, ours_entry, times_faster
from ..quantize_peers import Vectors
from ..workload import Contender, Workload
from .quantize import LARGE, SIZES, vectors_of
from .quantize import Case as Size


@dataclass(frozen=True)
class Case:
    """A size of `quantize`."""

    size: Size

    @property
    def name(self) -> str:
        return self.size.name.replace("residual_quantize", "ResidualQuantizer training")


def cases(device: str) -> list[Case]:
    return [Case(LARGE)] if device == "cuda" else [Case(size) for size in SIZES]


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""
    size, first = case.size, vectors_of(case.size, device, 0)
    module = ResidualQuantizer(
        size.depth, size.size, size.dimensions, gradient="rotation_per_depth", dead_below=0, commitment_weight=1.0
    ).to(device)
    module.codebook.embedding.copy_(first.codebooks)
    module.codebook.average_sum.copy_(first.codebooks)

    def own(inputs: Vectors) -> tuple[Tensor, Tensor]:
        quantized, _, loss = module(inputs.x)
        return quantized, loss.mean()

    contenders = ours(_training_step(own), None, device)
    if importlib.util.find_spec("vector_quantize_pytorch"):
        peer = _peer(first, device)
        contenders.append(Contender("vector-quantize-pytorch", _training_step(peer), is_peer=True))
    numbers = size.vectors * size.dimensions
    return Workload(
        name=case.name,
        make_inputs=lambda index: vectors_of(size, device, index),
        contenders=contenders,
        read_bytes=8 * numbers + 4 * size.depth * size.size * size.dimensions,
        written_bytes=4 * numbers + 4 * size.depth * size.size * size.dimensions,
        vector_operations=numbers * size.size * size.depth,
    )


def _peer(inputs: Vectors, device: str) -> Callable[[Vectors], tuple[Tensor, Tensor]]:
    from vector_quantize_pytorch import ResidualVQ

    depth, size, dimensions = inputs.codebooks.shape
    module: nn.Module = ResidualVQ(
        dim=dimensions, num_quantizers=depth, codebook_size=size, decay=0.99, threshold_ema_dead_code=0
    ).to(device)
    for layer, codebook in zip(module.layers, inputs.codebooks, strict=True):
        layer._codebook.embed.copy_(codebook[None])
        layer._codebook.embed_avg.copy_(codebook[None])

    def run(inputs: Vectors) -> tuple[Tensor, Tensor]:
        quantized, _, losses = module(inputs.x[None])
        return quantized[0], losses.mean()

    return run


def _training_step(run: Callable[[Vectors], tuple[Tensor, Tensor]]) -> Callable[[Vectors], Tensor]:
    @torch.enable_grad()
    def step(inputs: Vectors) -> Tensor:
        x = inputs.x.detach().requires_grad_()
        quantized, loss = run(Vectors(x, inputs.codebooks, inputs.incoming))
        return torch.autograd.grad((quantized, loss), x, (inputs.incoming, torch.ones_like(loss)))[0]

    return step


def _faster(name: str) -> Callable[..., float]:
    return lambda cases: times_faster(cases[name], ours_entry(cases[name], "avx512vnni"), "vector-quantize-pytorch")


PROMISES = [
    Promise("times faster than vector-quantize-pytorch, avx512vnni", _faster(case.name), at_least=15, needs=[case.name])
    for case in cases("cpu")
]
