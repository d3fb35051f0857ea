"""A gated residual with its modulated norm, and adaptive instance norms, against the lines people write.

Every contender does what a training step does: the results, and the gradients of all inputs under given upstream
gradients. A floor is the bytes of inputs and outputs, each moved once: with one modulation a sample, four tensors of
x's size forward (x and branch read, residual and y written) and six backward (residual, branch and two gradients read,
two written). Where each token has its own, three more are read forward, and backward three read and three written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from visgen_fast import ops, reference

from ..contenders import dtype_name, ours, shape_name
from ..promises import Promise, avx512_entry, seconds, times_faster, times_memory_floor
from ..workload import Contender, Workload


@dataclass(frozen=True)
class Case:
    """A batch of tokens, or of pictures."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    operation: str = "gated_residual_norm"
    each: str = "sample"  # what has a modulation of its own
    norm: str = "layer"

    @property
    def name(self) -> str:
        parts = [self.operation, dtype_name(self.dtype), shape_name(self.shape),
                 "each token" if self.each == "token" else None, "rms" if self.norm == "rms" else None]  # fmt: skip
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Batch:
    """What is differentiated, in the order of the operation's arguments, and the upstream gradients."""

    inputs: list[Tensor]
    upstream: list[Tensor]


def cases(device: str) -> list[Case]:
    if device == "cuda":
        large, pictures = (128, 256, 1152), (64, 128, 64, 64)
        return [Case(large, dtype, each=each, norm=norm) for dtype in (torch.float32, torch.bfloat16)
                for each in ("sample", "token") for norm in ("layer", "rms")] + [
                Case(pictures, operation="adaptive_instance_norm")]  # fmt: skip
    return [Case(_TOKENS), Case(_TOKENS, each="token"), Case(_TOKENS, norm="rms"), Case(_TOKENS, torch.bfloat16),
            Case(_TOKENS, torch.bfloat16, each="token"), Case((4, 256, 1152)), Case((5, 257, 37)),
            Case(_PICTURES, operation="adaptive_instance_norm")]  # fmt: skip


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""

    @torch.enable_grad()
    def with_gradients(batch: Batch, function) -> list[Tensor]:
        leaves = [value.detach().requires_grad_() for value in batch.inputs]
        results = function(*leaves)
        results = [results] if isinstance(results, Tensor) else list(results)
        return [out.detach() for out in results] + list(torch.autograd.grad(results, leaves, batch.upstream))

    def by(module):
        options = {} if case.operation == "adaptive_instance_norm" else {"norm": case.norm}
        return lambda batch: with_gradients(batch, lambda *inputs: getattr(module, case.operation)(*inputs, **options))

    def accuracy_of(run):
        def accuracy(batch: Batch):
            exact = Batch([value.double() for value in batch.inputs], [value.double() for value in batch.upstream])
            return run(batch), by(reference)(exact)

        return accuracy

    def lines(*inputs: Tensor):
        return _instances(*inputs) if case.operation == "adaptive_instance_norm" else _tokens(*inputs, norm=case.norm)

    compiled_lines = torch.compile(lines, dynamic=False)
    runs = {
        "eager": lambda batch: with_gradients(batch, lines),
        "torch.compile": lambda batch: with_gradients(batch, compiled_lines),
    }
    mine, sample = by(ops), _batch(case, device, 0)
    size, own = sample.inputs[0].nbytes, sum(value.nbytes for value in _modulations(case, sample))
    forward_reads, writes = (2, 2) if case.operation == "gated_residual_norm" else (1, 1)
    backward_reads = 4 if case.operation == "gated_residual_norm" else 2
    return Workload(
        name=case.name,
        make_inputs=lambda index: _batch(case, device, index),
        contenders=[
            *ours(mine, accuracy_of(mine), device),
            *(Contender(name, run, is_peer=True, accuracy=accuracy_of(run)) for name, run in runs.items()),
            Contender("reference", by(reference), accuracy=accuracy_of(by(reference))),
        ],
        read_bytes=size * (forward_reads + backward_reads) + 2 * own,
        written_bytes=size * 2 * writes + own,
        vector_operations=math.prod(case.shape) * 40,
    )


def _modulations(case: Case, batch: Batch) -> list[Tensor]:
    return batch.inputs[2 if case.operation == "gated_residual_norm" else 1 :]


def _batch(case: Case, device: str, index: int) -> Batch:
    generator = torch.Generator(device).manual_seed(index)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(case.dtype)

    if case.operation == "adaptive_instance_norm":
        rows = case.shape[:2]
        return Batch([draw(*case.shape), draw(*rows), draw(*rows)], [draw(*case.shape)])
    batch, tokens, width = case.shape
    slices = draw(batch, tokens if case.each == "token" else 1, 3 * width).chunk(3, -1)
    return Batch([draw(*case.shape), draw(*case.shape), *slices], [draw(*case.shape), draw(*case.shape)])


def _tokens(x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """As people write it."""
    residual = x + gate * branch
    normed = (F.layer_norm if norm == "layer" else F.rms_norm)(residual, x.shape[-1:], eps=1e-6)
    return residual, normed * (1 + scale) + shift


def _instances(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.instance_norm(x) * (1 + scale[..., None, None]) + shift[..., None, None]


_TOKENS, _PICTURES = (16, 256, 384), (16, 128, 64, 64)
_SAMPLE, _TOKEN, _RMS = Case(_TOKENS).name, Case(_TOKENS, each="token").name, Case(_TOKENS, norm="rms").name
_BFLOAT16 = Case(_TOKENS, torch.bfloat16).name
_INSTANCES = Case(_PICTURES, operation="adaptive_instance_norm").name
_GPU = Case((128, 256, 1152), torch.bfloat16).name


def _faster(name: str, peer: str, at_least: float) -> Promise:
    return Promise(
        f"times faster than {peer}, AVX-512",
        lambda cases: times_faster(cases[name], avx512_entry(cases[name]), peer),
        at_least=at_least,
        needs=[name],
    )


def _near_the_floor(name: str) -> Promise:
    return Promise(
        "times the memory floor, AVX-512",
        lambda cases: times_memory_floor(cases[name], avx512_entry(cases[name])),
        at_most=1.7,
        needs=[name],
    )


PROMISES = [
    *(_faster(name, "eager", 2.2) for name in (_SAMPLE, _TOKEN, _RMS)),
    *(_faster(name, "torch.compile", 1.25) for name in (_SAMPLE, _TOKEN, _RMS)),
    *(_near_the_floor(name) for name in (_SAMPLE, _TOKEN, _RMS)),
    Promise(
        "of float32's time taken by bfloat16, AVX-512",
        lambda cases: seconds(avx512_entry(cases[_BFLOAT16])) / seconds(avx512_entry(cases[_SAMPLE])),
        at_most=1,
        needs=[_BFLOAT16, _SAMPLE],
    ),
    _faster(_INSTANCES, "eager", 2),
    Promise(
        "of the copy's bandwidth, bfloat16 on a GPU",
        lambda cases: 1 / times_memory_floor(cases[_GPU], cases[_GPU]["entries"]["ours"]),
        at_least=0.85,
        needs=[_GPU],
    ),
]
