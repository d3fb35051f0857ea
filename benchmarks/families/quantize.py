"""Residual quantization against what people run today: distance matrices, FAISS, vector-quantize-pytorch.

Everyone returns the quantized vectors, the codes and the errors. FAISS searches exactly, but only searches: the
residuals are its users' loop, timed with it, as is handing it each codebook, which training changes every step. The
error is by how much the distance of a chosen code exceeds the least, in float64, over a sample of the vectors.

A multiply-add counts as one operation in float32, so the floor is that of exact arithmetic: a filter in fewer bits may
beat it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast._library import use_filters_from
from visgen_fast.reference.quantize import scores

from .. import quantize_peers as peers
from ..contenders import ours, shape_name
from ..promises import Promise, ours_entry, seconds, times_faster
from ..quantize_peers import Vectors
from ..workload import Contender, Workload

_SAMPLED = 256  # vectors whose codes are checked
_TILE = "ours, float32 alone"  # without the integer filters


@dataclass(frozen=True)
class Case:
    """Vectors and codebooks of one size."""

    vectors: int
    dimensions: int
    size: int  # of a codebook
    depth: int
    data: str = "normal"
    backward: bool = False

    @property
    def name(self) -> str:
        sizes = f"{shape_name((self.vectors, self.dimensions))} K={self.size} Q={self.depth}"
        marks = [self.data] * (self.data != "normal") + ["backward"] * self.backward
        return " ".join(["residual_quantize", sizes, *marks])


SIZES = [Case(16384, 64, 1024, 4), Case(4096, 256, 4096, 8), Case(65536, 32, 512, 8), Case(16384, 8, 16384, 1)]
HEAVY_TAILED = [replace(size, data=data) for size in SIZES for data in ("student t3", "one dimension × 20")]
LARGE = Case(65536, 256, 16384, 4)
BACKWARD = replace(SIZES[0], backward=True)


def cases(device: str) -> list[Case]:
    if device == "cuda":
        return [LARGE, replace(LARGE, backward=True), *SIZES]
    return [*SIZES, replace(SIZES[0], data="clustered"), *HEAVY_TAILED, BACKWARD]


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""

    def compute(inputs: Vectors) -> tuple[Tensor, ...]:
        return ops.residual_quantize(inputs.x, inputs.codebooks)

    def tiled(inputs: Vectors) -> tuple[Tensor, ...]:
        with use_filters_from("float32"):
            return compute(inputs)

    def accuracy_of(run: Callable[[Vectors], Sequence[Tensor]]):
        return lambda inputs: _distances(inputs, run(inputs)[1])

    if case.backward:
        contenders = ours(_with_gradients(compute), None, device)
        contenders += [Contender(name, _with_gradients(run), is_peer=True) for name, run in peers.in_pytorch()]
    else:
        contenders = ours(compute, accuracy_of(compute), device)
        if device == "cpu" and case.data != "normal":
            contenders.insert(1, Contender(_TILE, tiled, accuracy=accuracy_of(tiled)))
        # How data are distributed decides over exact searches alone.
        rivals = peers.all_of(device) if case.data == "normal" else peers.exact()
        contenders += [Contender(name, run, True, accuracy_of(run)) for name, run in rivals]
    numbers = case.vectors * case.dimensions
    return Workload(
        name=case.name,
        make_inputs=lambda index: vectors_of(case, device, index),
        contenders=contenders,
        read_bytes=4 * numbers + 4 * case.depth * case.size * case.dimensions,
        written_bytes=4 * numbers + 16 * case.vectors * case.depth,
        vector_operations=numbers * case.size * case.depth,
    )


def vectors_of(case: Case, device: str, index: int) -> Vectors:
    """Vectors whose variance each codebook lowers, as trained ones do: codes of depth q shrink with what is left."""
    generator = torch.Generator(device).manual_seed(index)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    scales = 0.8 ** torch.arange(case.depth, device=device)
    codebooks = normal(case.depth, case.size, case.dimensions) * scales[:, None, None]
    x = normal(case.vectors, case.dimensions)
    if case.data == "clustered":
        centre = torch.randint(case.size, (case.vectors,), device=device, generator=generator)
        x = codebooks[0, centre] + 0.3 * x
    elif case.data == "student t3":
        chi_square = sum(normal(*x.shape).square() for _ in range(3))
        x = x / (chi_square / 3).sqrt()
    elif case.data == "one dimension × 20":
        x[:, 0] *= 20
        codebooks[:, :, 0] *= 20
    return Vectors(x, codebooks, normal(case.vectors, case.dimensions))


def _distances(inputs: Vectors, codes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Squared distances of the codes chosen and the least there are, at each depth after the codes chosen before."""
    residual, chosen, least = inputs.x[:_SAMPLED], [], []
    for q, codebook in enumerate(inputs.codebooks):
        distances = scores(residual, codebook, "l2")
        code = codes[:_SAMPLED, q]
        chosen.append(distances.gather(1, code[:, None])[:, 0])
        least.append(distances.amin(1))
        residual = residual - codebook[code]
    return chosen, least


def _with_gradients(run: Callable[[Vectors], Sequence[Tensor]]) -> Callable[[Vectors], tuple[Tensor, ...]]:
    """Forward, then the gradients that a commitment loss and the networks after it send back."""

    @torch.enable_grad()
    def train(inputs: Vectors) -> tuple[Tensor, ...]:
        x, codebooks = inputs.x.requires_grad_(), inputs.codebooks.requires_grad_()
        quantized, _, *errors = run(Vectors(x, codebooks, inputs.incoming))
        loss = 0.25 * errors[0].mean() + errors[-1].mean()
        gradients = torch.autograd.grad((quantized, loss), (x, codebooks), (inputs.incoming, torch.ones_like(loss)))
        return gradients

    return train


def _faster(case: Case, instruction_set: str, *rivals: str) -> Callable[..., float]:
    return lambda cases: times_faster(cases[case.name], ours_entry(cases[case.name], instruction_set), *rivals)


def _share_of_tile(case: Case) -> Callable[..., float]:
    return lambda cases: (
        seconds(ours_entry(cases[case.name], "avx512vnni")) / seconds(cases[case.name]["entries"][_TILE])
    )


def _promises() -> list[Promise]:
    found = []
    against_faiss = {"avx512vnni": (3, 3, 3.2, 2.2), "avx2": (1.6, 1.5, 1.1, 1.15)}
    rivals = {"vector-quantize-pytorch": 30, "addmm + argmin, compiled": 4}
    for instruction_set, factors in against_faiss.items():
        for case, factor in zip(SIZES, factors, strict=True):
            text = f"times faster than FAISS, {instruction_set}"
            found.append(Promise(text, _faster(case, instruction_set, "FAISS"), at_least=factor, needs=[case.name]))
    for rival, factor in rivals.items():
        for case in SIZES:
            text, measure = f"times faster than {rival}, avx512vnni", _faster(case, "avx512vnni", rival)
            found.append(Promise(text, measure, at_least=factor, needs=[case.name]))
    for case in HEAVY_TAILED:
        text = "of the time of our own float32 search, heavy tails, avx512vnni"
        measure = _share_of_tile(case)
        found.append(Promise(text, measure, at_most=1, needs=[case.name]))
    for rival, factor in {"cdist": 10, "addmm + argmin, compiled": 3}.items():
        found.append(
            Promise(
                f"times faster than {rival} on a GPU",
                lambda cases, rival=rival: times_faster(cases[LARGE.name], cases[LARGE.name]["entries"]["ours"], rival),
                at_least=factor,
                needs=[LARGE.name],
            )
        )
    return found


PROMISES = _promises()
