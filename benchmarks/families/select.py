"""Draws of codes: `sample_tokens` against what people write, softmax and multinomial after filters that sort."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visgen_fast import ops, reference

from ..contenders import dtype_name, ours, shape_name
from ..promises import Promise, ours_entry, seconds, times_faster
from ..workload import Contender, Inputs, Workload
from .noise import PHILOX_OPERATIONS


@dataclass(frozen=True)
class Case:
    """A batch of rows of logits, and how a code is drawn from each."""

    shape: tuple[int, int]
    guidance: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        options = {"guidance": self.guidance if self.guidance != 1 else None, "top_k": self.top_k, "top_p": self.top_p}
        said = " ".join(f"{name}={value}" for name, value in options.items() if value is not None)
        return f"sample_tokens {dtype_name(self.dtype)} {shape_name(self.shape)} {said}".strip()


def cases(device: str) -> list[Case]:
    if device == "cuda":
        return [
            Case((4096, 16384)),
            Case((4096, 16384), dtype=torch.bfloat16),
            Case((4096, 16384), guidance=3.0, top_k=250, top_p=0.96),
            Case((4096, 16384), top_p=0.96),
            Case((64, 16384), guidance=3.0, top_k=250, top_p=0.96),
        ]
    return [
        Case((1024, 16384)),
        Case((1024, 16384), guidance=3.0, top_k=250, top_p=0.96),
        Case((1024, 16384), top_p=0.96),
        Case((4096, 4096), top_k=900, top_p=0.96),
        Case((16, 16384), guidance=3.0, top_k=250, top_p=0.96),
    ]


def workload(case: Case, device: str) -> Workload:
    batch, codes = case.shape
    guided = case.guidance != 1
    options = {"guidance": case.guidance, "top_k": case.top_k, "top_p": case.top_p}

    def make_inputs(index: int) -> Inputs:
        seeds = reference.derive_seeds(0, torch.arange(batch, device=device) + index * batch)
        logits = [2 * ops.gaussian(seeds, (codes,), stream=j, dtype=case.dtype) for j in range(1 + guided)]
        return seeds, logits[0], logits[1] if guided else None

    def compute(inputs):
        seeds, logits, unconditional = inputs
        return ops.sample_tokens(logits, seeds, unconditional=unconditional, **options)

    def define(inputs):
        seeds, logits, unconditional = inputs
        return reference.sample_tokens(logits, seeds, unconditional=unconditional, **options)

    def judged(function):
        return lambda inputs: ([function(inputs)], [define(inputs)])

    def by_hand(inputs):
        return torch.multinomial(_filtered(inputs, case).softmax(-1), 1)[:, 0]

    def gumbel_argmax(inputs):
        logits = _filtered(inputs, case)
        return (logits - torch.empty_like(logits).exponential_().log_()).argmax(-1)

    return Workload(
        name=case.name,
        make_inputs=make_inputs,
        contenders=[
            *ours(compute, judged(compute), device),
            Contender("softmax, multinomial", by_hand, is_peer=True),
            Contender("Gumbel argmax, compiled", torch.compile(gumbel_argmax, dynamic=False), is_peer=True),
            Contender("uniform", lambda inputs: ops.uniform(inputs[0], (codes,))),
            Contender("reference", define, accuracy=judged(define)),
        ],
        read_bytes=batch * (8 + (1 + guided) * codes * case.dtype.itemsize),
        written_bytes=8 * batch,
        vector_operations=batch * codes * (PHILOX_OPERATIONS / 2 + 4),
    )


def _filtered(inputs: Inputs, case: Case) -> Tensor:
    """Guidance, then the published filters: by the k-th largest value, and by the cumulated mass of sorted logits."""
    _, logits, unconditional = inputs
    if unconditional is not None:
        logits = unconditional + case.guidance * (logits - unconditional)
    if case.top_k is not None:
        least = logits.topk(case.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if case.top_p is not None:
        ranked, order = logits.sort(-1)
        dropped = ranked.softmax(-1).cumsum(-1) <= 1 - case.top_p
        dropped[:, -1] = False
        logits = logits.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
    return logits


PLAIN, GUIDED, NUCLEUS, LONG, STEP = (case.name for case in cases("cpu"))


def _faster(name: str, peer: str, at_least: float) -> Promise:
    return Promise(
        f"times faster than {peer}, AVX-512",
        lambda cases: times_faster(cases[name], ours_entry(cases[name], "avx512"), peer),
        at_least=at_least,
        needs=[name],
    )


PROMISES = [
    Promise(
        "times as long as `uniform` takes for as many numbers, AVX-512",
        lambda cases: seconds(ours_entry(cases[PLAIN], "avx512")) / seconds(cases[PLAIN]["entries"]["uniform"]),
        at_most=1.5,
        needs=[PLAIN],
    ),
    _faster(PLAIN, "softmax, multinomial", 25),
    _faster(PLAIN, "Gumbel argmax, compiled", 10),
    _faster(GUIDED, "softmax, multinomial", 30),
    _faster(NUCLEUS, "softmax, multinomial", 30),
    _faster(LONG, "softmax, multinomial", 25),
    _faster(STEP, "softmax, multinomial", 15),
]
