"""Noising: `diffuse` and `add_noise` against the lines people write, eager and under torch.compile.

Everyone starts from the pictures, their times and their indices, as a training step does: our coefficients and seeds
and the peers' weights are computed within the time measured. The peers are those lines at their leanest: rectified
flow's target costs one subtraction, and everything stays in the picture's dtype. Their error is taken with the noise
given, since each draws numbers of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen_fast import ops, reference

from ..contenders import dtype_name, ours, shape_name
from ..promises import Entry, NotMeasured, Promise, best_peer, ours_entry, seconds, times_faster, times_memory_floor
from ..workload import Contender, Workload, inputs_bytes
from .noise import NORMAL_OPERATIONS


@dataclass(frozen=True)
class Case:
    """A batch of pictures to noise."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    prediction: str = "velocity"  # rectified flow's velocity, or "v" of a variance-preserving diffusion
    operation: str = "diffuse"
    noise_given: bool = False

    @property
    def name(self) -> str:
        parts = [self.operation, self.prediction if self.operation == "diffuse" else None, dtype_name(self.dtype),
                 shape_name(self.shape), "noise given" if self.noise_given else None]  # fmt: skip
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Batch:
    """What a training step has at hand when it noises its pictures."""

    x: Tensor
    time: Tensor  # [B], float32
    index: Tensor  # [B], int64: the samples' numbers in the run
    noise: Tensor | None


def cases(device: str) -> list[Case]:
    large = (64, 3, 256, 256) if device == "cuda" else (16, 3, 256, 256)
    latents = (64, 4, 64, 64)
    shared = [Case(large), Case(large, torch.bfloat16), Case(large, torch.float16), Case(large, torch.uint8),
              Case(large, prediction="v"), Case(large, operation="add_noise"), Case(large, noise_given=True),
              Case(latents), Case(latents, torch.bfloat16), Case((5, 3, 123, 123))]  # fmt: skip
    return shared if device == "cuda" else [*shared, Case((64, 3, 32, 32)), Case((64, 3, 256, 256))]


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""

    def compute(batch: Batch, module=ops):
        # Nobody can use both: given noise needs no seeds.
        seeds = None if case.noise_given else module.derive_seeds(0, batch.index)
        return getattr(module, case.operation)(batch.x, _coefficients(batch, case), seeds, noise=batch.noise)

    def define(batch: Batch):
        return compute(batch, reference)

    def exact(batch: Batch) -> list[Tensor]:
        z = batch.noise
        if z is None:
            z = reference.gaussian(reference.derive_seeds(0, batch.index), case.shape[1:], dtype=torch.float64)
        return _exact(batch, case, z)

    def accuracy_of(run: Callable[[Batch], Tensor | tuple[Tensor, ...]]):
        return lambda batch: (_as_list(run(batch)), exact(batch))

    sample, out_dtype = _batch(case, device, 0), torch.float32 if case.dtype == torch.uint8 else case.dtype
    numbers = math.prod(case.shape)
    return Workload(
        name=case.name,
        make_inputs=lambda index: _batch(case, device, index),
        contenders=[
            *ours(compute, accuracy_of(compute), device),
            *_peers(case),
            Contender("reference", define, accuracy=accuracy_of(define)),
            Contender("reference, compiled", torch.compile(define, dynamic=False)),
        ],
        read_bytes=inputs_bytes([sample.x, sample.time, None if case.noise_given else sample.index, sample.noise]),
        written_bytes=_outputs(case) * numbers * out_dtype.itemsize,
        vector_operations=numbers * (2 * _outputs(case) + (0 if case.noise_given else NORMAL_OPERATIONS)),
    )


def _outputs(case: Case) -> int:
    return 2 if case.operation == "diffuse" else 1


def _batch(case: Case, device: str, index: int) -> Batch:
    size, generator = case.shape[0], torch.Generator(device).manual_seed(index)
    if case.dtype == torch.uint8:
        x = torch.randint(0, 256, case.shape, dtype=torch.uint8, device=device, generator=generator)
    else:
        x = torch.randn(case.shape, device=device, generator=generator).to(case.dtype)
    time = torch.rand(size, device=device, generator=generator)
    noise = torch.randn(case.shape, device=device, generator=generator).to(x.dtype) if case.noise_given else None
    return Batch(x, time, torch.arange(size, device=device) + index * size, noise)


def _coefficients(batch: Batch, case: Case) -> Tensor:
    return torch.stack(_COEFFICIENTS[case.prediction](batch.time), -1)


def _velocity_coefficients(time: Tensor) -> tuple[Tensor, ...]:
    return 1 - time, time, torch.full_like(time, -1), torch.ones_like(time)


def _v_coefficients(time: Tensor) -> tuple[Tensor, ...]:
    alpha, sigma = _levels(time)
    return alpha, sigma, -sigma, alpha


def _levels(time: Tensor) -> tuple[Tensor, Tensor]:
    angle = time * (math.pi / 2)
    return angle.cos(), angle.sin()


_COEFFICIENTS = {"velocity": _velocity_coefficients, "v": _v_coefficients}


def _exact(batch: Batch, case: Case, z: Tensor) -> list[Tensor]:
    x = batch.x.double() / 127.5 - 1 if batch.x.dtype == torch.uint8 else batch.x
    outputs = reference.diffuse(x.double(), _coefficients(batch, case).double(), noise=z.double())
    return list(outputs)[: _outputs(case)]


def _peers(case: Case) -> list[Contender]:
    lines = _LINES[case.prediction] if case.operation == "diffuse" else _add_noise_lines

    def eager(batch: Batch, z: Tensor | None = None):
        x = batch.x.float() / 127.5 - 1 if batch.x.dtype == torch.uint8 else batch.x
        z = batch.noise if z is None else z
        return lines(x, _per_picture(batch, case, x), torch.randn_like(x) if z is None else z)

    compiled = torch.compile(eager, dynamic=False)

    def compiled_but_noise(batch: Batch):
        return compiled(batch, _noise_like(batch.x))

    def accuracy_of(run):
        def accuracy(batch: Batch):
            z = _noise_like(batch.x)
            return _as_list(run(batch, z)), _exact(batch, case, z)

        return accuracy

    peers = [
        Contender("eager", eager, is_peer=True, accuracy=accuracy_of(eager)),
        Contender("torch.compile", compiled, is_peer=True, accuracy=accuracy_of(compiled)),
    ]
    if not case.noise_given:
        # The compiler's own random numbers are slow on a CPU: this is what they leave to gain.
        peers.append(Contender("torch.compile, eager noise", compiled_but_noise, True, accuracy_of(compiled)))
    return peers


def _noise_like(x: Tensor) -> Tensor:
    return torch.randn(x.shape, dtype=x.dtype if x.is_floating_point() else torch.float32, device=x.device)


def _per_picture(batch: Batch, case: Case, x: Tensor) -> tuple[Tensor, ...]:
    weights = (batch.time,) if case.prediction == "velocity" else _levels(batch.time)
    return tuple(weight.view(-1, 1, 1, 1).to(x.dtype) for weight in weights)


def _velocity_lines(x: Tensor, coefficients: tuple[Tensor, ...], z: Tensor) -> tuple[Tensor, Tensor]:
    (t,) = coefficients
    return (1 - t) * x + t * z, z - x


def _v_lines(x: Tensor, coefficients: tuple[Tensor, ...], z: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = coefficients
    return alpha * x + sigma * z, alpha * z - sigma * x


def _add_noise_lines(x: Tensor, coefficients: tuple[Tensor, ...], z: Tensor) -> Tensor:
    (t,) = coefficients
    return (1 - t) * x + t * z


_LINES = {"velocity": _velocity_lines, "v": _v_lines}


def _as_list(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _widest(case: Entry) -> Entry:
    try:
        return ours_entry(case, "avx512bf16")
    except NotMeasured:
        return ours_entry(case, "avx512")


_FLOAT32 = Case((16, 3, 256, 256)).name
_BFLOAT16 = Case((16, 3, 256, 256), torch.bfloat16).name
_GPU_BFLOAT16 = Case((64, 3, 256, 256), torch.bfloat16).name

PROMISES = [
    Promise(
        "times faster than eager and than torch.compile, AVX-512",
        lambda cases: times_faster(cases[_FLOAT32], ours_entry(cases[_FLOAT32], "avx512"), "eager", "torch.compile"),
        at_least=6,
        needs=[_FLOAT32],
        beside=lambda cases: "{:.2f} times faster than the best of all peers, {}".format(
            *best_peer(cases[_FLOAT32], ours_entry(cases[_FLOAT32], "avx512"))
        ),
    ),
    Promise(
        "times the memory floor, AVX-512",
        lambda cases: times_memory_floor(cases[_FLOAT32], ours_entry(cases[_FLOAT32], "avx512")),
        at_most=3,
        needs=[_FLOAT32],
    ),
    Promise(
        "of float32's time taken by bfloat16, AVX-512",
        lambda cases: seconds(_widest(cases[_BFLOAT16])) / seconds(_widest(cases[_FLOAT32])),
        at_most=1,
        needs=[_BFLOAT16, _FLOAT32],
    ),
    Promise(
        "times faster than eager, baseline instruction set",
        lambda cases: times_faster(cases[_FLOAT32], ours_entry(cases[_FLOAT32], "baseline"), "eager"),
        at_least=1,
        needs=[_FLOAT32],
    ),
    Promise(
        "of the copy's bandwidth, bfloat16 on a GPU",
        lambda cases: 1 / times_memory_floor(cases[_GPU_BFLOAT16], cases[_GPU_BFLOAT16]["entries"]["ours"]),
        at_least=0.85,
        needs=[_GPU_BFLOAT16],
    ),
]
