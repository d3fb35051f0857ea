"""The multiscale loss and its gradient into the prediction, against the lines people write, eager and compiled.

Every contender does what a training step does between the network's output and its backward pass: the loss, and its
gradient under an upstream gradient of 0.37, so that nobody can leave out the scaling. `denoising_loss` is measured with
the `add_noise` that comes before the network, against noising, target and loss as people write them, and against our
own `diffuse` + `multiscale_loss`. A floor is the bytes of inputs and gradient (and of x_t), each moved once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from visgen_fast import ops, reference

from ..contenders import dtype_name, ours, shape_name
from ..promises import Case as Measured
from ..promises import Promise, avx512_entry, seconds, times_faster, times_memory_floor
from ..workload import Contender, Workload, inputs_bytes
from .noise import NORMAL_OPERATIONS

UPSTREAM = 0.37


@dataclass(frozen=True)
class Case:
    """A batch of predictions."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    operation: str = "multiscale_loss"
    scales: tuple[int, ...] = (1, 2, 4, 8)
    penalty: str = "l2"
    reduction: str = "mean"
    channels_last: bool = False

    @property
    def name(self) -> str:
        parts = [self.operation, dtype_name(self.dtype), shape_name(self.shape), f"to {self.scales[-1]}",
                 None if self.penalty == "l2" else self.penalty, None if self.reduction == "mean" else self.reduction,
                 "channels_last" if self.channels_last else None]  # fmt: skip
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Batch:
    """A prediction, with its target or with what the target is made of."""

    pred: Tensor
    target: Tensor  # the picture itself for denoising_loss
    coefficients: Tensor
    seeds: Tensor


def cases(device: str) -> list[Case]:
    large = (64, 3, 256, 256) if device == "cuda" else (16, 3, 256, 256)
    return [Case(large), Case(large, reduction="none"), Case(large, torch.bfloat16), Case(large, torch.float16),
            Case(large, penalty="pseudo_huber"), Case(large, scales=(1, 2, 4, 8, 16, 32)),
            Case(large, channels_last=True), Case(large, scales=(1,)), Case((64, 4, 64, 64)), Case((5, 3, 123, 123)),
            Case(large, operation="denoising_loss"), Case(large, torch.bfloat16, "denoising_loss")]  # fmt: skip


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""
    denoises = case.operation == "denoising_loss"

    @torch.enable_grad()
    def with_gradient(batch: Batch, loss_of) -> list[Tensor]:
        pred = batch.pred.detach().requires_grad_()
        loss, *others = loss_of(pred, batch)
        (gradient,) = torch.autograd.grad(loss, pred, torch.full_like(loss, UPSTREAM))
        return [loss.detach(), gradient, *others]

    def by(module, *, target_stored: bool = False):
        def loss_of(pred: Tensor, batch: Batch):
            if not denoises:
                return (module.multiscale_loss(pred, batch.target, **_options(case)),)
            given = batch.target, batch.coefficients, batch.seeds
            if target_stored:
                x_t, target = module.diffuse(*given)
                return module.multiscale_loss(pred, target, **_options(case)), x_t
            return module.denoising_loss(pred, *given, **_options(case)), module.add_noise(*given)

        return lambda batch: with_gradient(batch, loss_of)

    def accuracy_of(run):
        def accuracy(batch: Batch):
            exact = Batch(batch.pred.double(), batch.target.double(), batch.coefficients.double(), batch.seeds)
            return run(batch)[:2], by(reference)(exact)[:2]

        return accuracy

    def lines(batch: Batch, noise: Tensor | None = None) -> list[Tensor]:
        noise = torch.randn_like(batch.target) if noise is None and denoises else noise
        return with_gradient(batch, lambda pred, batch: _lines(pred, batch, case, noise))

    compiled_lines = torch.compile(_lines, dynamic=False)

    def compiled(batch: Batch) -> list[Tensor]:
        # The compiler's own random numbers are slow on a CPU.
        noise = torch.randn_like(batch.target) if denoises else None
        return with_gradient(batch, lambda pred, batch: compiled_lines(pred, batch, case, noise))

    mine, sample, numbers = by(ops), _batch(case, device, 0), math.prod(case.shape)
    contenders = [
        *ours(mine, accuracy_of(mine), device),
        Contender("eager", lines, is_peer=True, accuracy=None if denoises else accuracy_of(lines)),
        Contender("torch.compile", compiled, is_peer=True, accuracy=None if denoises else accuracy_of(compiled)),
        Contender("reference", by(reference), accuracy=accuracy_of(by(reference))),
    ]
    if denoises:
        stored = by(ops, target_stored=True)
        contenders.append(Contender("diffuse + multiscale_loss", stored, accuracy=accuracy_of(stored)))
    return Workload(
        name=case.name,
        make_inputs=lambda index: _batch(case, device, index),
        contenders=contenders,
        read_bytes=inputs_bytes([sample.pred, sample.target]),
        written_bytes=sample.pred.nbytes * (2 if denoises else 1),
        vector_operations=numbers * (6 + len(case.scales) + (2 * NORMAL_OPERATIONS if denoises else 0)),
    )


def _options(case: Case) -> dict:
    return {"scales": case.scales, "penalty": case.penalty, "penalty_scale": 0.1, "reduction": case.reduction}


def _batch(case: Case, device: str, index: int) -> Batch:
    generator = torch.Generator(device).manual_seed(index)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format

    def draw() -> Tensor:
        return torch.randn(case.shape, device=device, generator=generator).to(case.dtype, memory_format=layout)

    size = case.shape[0]
    time = torch.rand(size, device=device, generator=generator)
    rows = torch.stack((1 - time, time, torch.full_like(time, -1), torch.ones_like(time)), -1)
    return Batch(draw(), draw(), rows, torch.arange(size, device=device) + index * size)


def _lines(pred: Tensor, batch: Batch, case: Case, noise: Tensor | None) -> tuple[Tensor, ...]:
    """As people write it: of rectified flow, where noise is given."""
    target, others = batch.target, ()
    if noise is not None:
        time = batch.coefficients[:, 1].view(-1, 1, 1, 1).to(target.dtype)
        others = ((1 - time) * target + time * noise,)
        target = noise - target
    residual = pred.float() - target.float()
    losses = 0
    for scale in case.scales:
        mean = F.avg_pool2d(residual, scale) if scale > 1 else residual
        values = mean.square() if case.penalty == "l2" else (mean.square() + 0.01).sqrt() - 0.1
        losses = losses + values.flatten(1).mean(1) / len(case.scales)
    return (losses if case.reduction == "none" else losses.mean(), *others)


_SHAPE = (16, 3, 256, 256)
_FLOAT32 = Case(_SHAPE).name
_DENOISING = Case(_SHAPE, operation="denoising_loss").name
_GPU = Case((64, 3, 256, 256), torch.bfloat16).name
_GPU_DENOISING = Case((64, 3, 256, 256), torch.bfloat16, "denoising_loss").name


def _ours(case: Measured) -> float:
    """Seconds of the widest AVX-512 kernels."""
    return seconds(avx512_entry(case))


def _faster(name: str, peer: str, at_least: float, text: str) -> Promise:
    return Promise(
        f"times faster than {text}, AVX-512",
        lambda cases: times_faster(cases[name], avx512_entry(cases[name]), peer),
        at_least=at_least,
        needs=[name],
    )


def _of_float32(text: str, case: Case, at_most: float) -> Promise:
    return Promise(
        f"of float32's time taken by {text}, AVX-512",
        lambda cases: _ours(cases[case.name]) / _ours(cases[_FLOAT32]),
        at_most=at_most,
        needs=[case.name, _FLOAT32],
    )


PROMISES = [
    _faster(_FLOAT32, "torch.compile", 4, "torch.compile"),
    _faster(_FLOAT32, "eager", 12, "eager"),
    Promise(
        "times the memory floor, AVX-512",
        lambda cases: times_memory_floor(cases[_FLOAT32], avx512_entry(cases[_FLOAT32])),
        at_most=3,
        needs=[_FLOAT32],
    ),
    _of_float32('reduction "none"', Case(_SHAPE, reduction="none"), 1.25),
    _of_float32("bfloat16", Case(_SHAPE, torch.bfloat16), 1.25),
    _of_float32("pseudo-Huber", Case(_SHAPE, penalty="pseudo_huber"), 1.5),
    _of_float32("scales to 32", Case(_SHAPE, scales=(1, 2, 4, 8, 16, 32)), 1.5),
    _of_float32("channels_last", Case(_SHAPE, channels_last=True), 2),
    _faster(_DENOISING, "torch.compile", 5, "noising and loss compiled"),
    _faster(_DENOISING, "eager", 10, "noising and loss eager"),
    Promise(
        "of the time of diffuse + multiscale_loss, AVX-512",
        lambda cases: _ours(cases[_DENOISING]) / seconds(cases[_DENOISING]["entries"]["diffuse + multiscale_loss"]),
        at_most=1.25,
        needs=[_DENOISING],
    ),
    Promise(
        "of the copy's bandwidth, bfloat16 on a GPU",
        lambda cases: 1 / times_memory_floor(cases[_GPU], cases[_GPU]["entries"]["ours"]),
        at_least=0.85,
        needs=[_GPU],
    ),
    Promise(
        "of the copy's bandwidth, denoising_loss in bfloat16 on a GPU",
        lambda cases: 1 / times_memory_floor(cases[_GPU_DENOISING], cases[_GPU_DENOISING]["entries"]["ours"]),
        at_least=0.6,
        needs=[_GPU_DENOISING],
    ),
]
