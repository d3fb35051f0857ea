"""A training step's end: clipping, AdamW and the moving average of all parameters of a network.

In one pass over each tensor after the norm, against torch's fused AdamW and its default one, each with
`clip_grad_norm_` and a moving average by `_foreach_lerp_`. Gradients are read for the norm; then parameters, gradients,
both moments and averages are read, and all but the gradients written: 40 bytes a parameter in float32.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.models.dit import DiT

from ..contenders import dtype_name, ours
from ..promises import Promise, avx512_entry, times_faster, times_memory_floor
from ..workload import Contender, Workload

_OPTIONS = {"lr": 1e-4, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}
_DECAY, _CLIP = 0.999, 1.0
_FUSED, _DEFAULT = "AdamW(fused=True), clip_grad_norm_, _foreach_lerp_", "AdamW(), clip_grad_norm_, _foreach_lerp_"


@dataclass(frozen=True)
class Case:
    """The parameters of a diffusion transformer."""

    network: str
    width: int
    depth: int
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        return f"adamw_ {dtype_name(self.dtype)} {self.network}"


@dataclass(frozen=True)
class State:
    """What a training has in memory after its backward pass; squares are as large as the gradients'."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    averages: list[Tensor]


def cases(device: str) -> list[Case]:
    sizes = (
        [("DiT-S/2", 384, 12)] + [("digits", 96, 4)] * (device == "cpu") + [("DiT-XL/2", 1152, 28)] * (device != "cpu")
    )
    return [Case(*size) for size in sizes]


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""
    shapes = _shapes(case)
    elements = sum(shape.numel() for shape in shapes)
    return Workload(
        name=case.name,
        make_inputs=lambda index: _state(shapes, case.dtype, device, index),
        contenders=[
            *ours(_step, _accuracy, device),
            Contender(_FUSED, _Peer(shapes, case.dtype, device, fused=True), is_peer=True),
            Contender(_DEFAULT, _Peer(shapes, case.dtype, device, fused=False), is_peer=True),
        ],
        read_bytes=elements * case.dtype.itemsize * 6,
        written_bytes=elements * case.dtype.itemsize * 4,
        vector_operations=elements * 16,
    )


def _shapes(case: Case) -> list[torch.Size]:
    with torch.device("meta"):
        heads = case.width // 64 or 1
        model = DiT(
            image_size=32, channels=4, patch_size=2, width=case.width, depth=case.depth, heads=heads, classes=1000
        )
    return [parameter.shape for parameter in model.parameters()]


def _state(shapes: list[torch.Size], dtype: torch.dtype, device: str, index: int) -> State:
    generator = torch.Generator(device).manual_seed(index)

    def draw(scale: float) -> list[Tensor]:
        return [scale * torch.randn(shape, device=device, dtype=dtype, generator=generator) for shape in shapes]

    parameters = draw(0.02)
    averages = [parameter.clone() for parameter in parameters]
    return State(parameters, draw(1e-3), draw(1e-4), [x.square() for x in draw(1e-3)], averages)


def _step(state: State) -> list[Tensor]:
    norm = ops.gradient_norm(state.gradients)
    ops.adamw_(
        *(state.parameters, state.gradients, state.means, state.squares),
        averages=state.averages,
        learning_rate=_OPTIONS["lr"],
        betas=_OPTIONS["betas"],
        eps=_OPTIONS["eps"],
        weight_decay=_OPTIONS["weight_decay"],
        step=100,
        average_decay=_DECAY,
        gradient_scale=(_CLIP / (norm + 1e-6)).clamp(max=1),
    )
    return state.parameters


def _accuracy(state: State) -> tuple[list[Tensor], list[Tensor]]:
    def copies(change) -> State:
        return State(*([change(tensor) for tensor in tensors] for tensors in vars(state).values()))

    return _step(copies(Tensor.clone)), _step(copies(Tensor.double))


class _Peer:
    """Steps of torch's AdamW from the gradients of a state, on parameters of its own."""

    def __init__(self, shapes: list[torch.Size], dtype: torch.dtype, device: str, *, fused: bool) -> None:
        self.make = functools.partial(_state, shapes, dtype, device, 0)
        self.fused = fused

    @functools.cached_property
    def own(self) -> tuple[list[nn.Parameter], torch.optim.Optimizer, list[Tensor]]:
        state = self.make()
        parameters = [nn.Parameter(parameter) for parameter in state.parameters]
        fused = {"fused": True} if self.fused else {}
        return parameters, torch.optim.AdamW(parameters, **_OPTIONS, **fused), state.averages

    def __call__(self, state: State) -> list[Tensor]:
        parameters, optimizer, averages = self.own
        for parameter, gradient in zip(parameters, state.gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimizer.step()
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in parameters], 1 - _DECAY)
        return [parameter.detach() for parameter in parameters]


_SMALL = Case("DiT-S/2", 384, 12).name
_LARGE = Case("DiT-XL/2", 1152, 28).name


def _faster(peer: str, at_least: float) -> Promise:
    return Promise(
        f"times faster than {peer}, AVX-512",
        lambda cases: times_faster(cases[_SMALL], avx512_entry(cases[_SMALL]), peer),
        at_least=at_least,
        needs=[_SMALL],
    )


PROMISES = [
    _faster(_FUSED, 1.4),
    _faster(_DEFAULT, 3),
    Promise(
        "of the copy's bandwidth on a GPU",
        lambda cases: 1 / times_memory_floor(cases[_LARGE], cases[_LARGE]["entries"]["ours"]),
        at_least=0.85,
        needs=[_LARGE],
    ),
]
