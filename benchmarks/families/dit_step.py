"""Whole training steps of a diffusion transformer: forward, backward, clipping, AdamW and the moving average.

Ours is the model as it is, whose norms, gates and activations are operations of this library, and so is the step of its
optimizer. Its peers have the lines of its authors in their place, eager and under torch.compile, over the same weights,
and PyTorch's fused AdamW. The floor is the matrix products at the machine's rate, or the bytes of weights, moments and
averages, whichever takes longer.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import DiffusionObjective, LogitNormalTimes, RectifiedFlow
from visgen_fast.models import DiT
from visgen_fast.training import adamw

from ..contenders import ours
from ..promises import NotMeasured, Promise, seconds, times_faster
from ..published import as_published
from ..shares import KINDS, optimizing, shares
from ..workload import Contender, Workload


@dataclass(frozen=True)
class Case:
    """A model and a batch."""

    model: str
    batch: int
    autocast: bool = False

    @property
    def name(self) -> str:
        sizes = _SIZES[self.model]
        side, channels = sizes["image_size"], sizes["channels"]
        return f"{self.model} {self.batch}×{channels}×{side}×{side} {'bfloat16' if self.autocast else 'float32'}"


_SIZES: dict[str, dict[str, int]] = {
    "DiT-S/2": {
        **{"image_size": 32, "channels": 4, "patch_size": 2, "width": 384, "depth": 12, "heads": 6, "classes": 1000}
    },
    "DiT-XL/2": {
        **{"image_size": 32, "channels": 4, "patch_size": 2, "width": 1152, "depth": 28, "heads": 16, "classes": 1000}
    },
    # The recipe rectified-flow on handwritten digits.
    "digits": {
        **{"image_size": 8, "channels": 1, "patch_size": 2, "width": 128, "depth": 4, "heads": 4, "classes": 10}
    },
}
_RATE, _CLIP, _DECAY = 1e-4, 1.0, 0.999
_SMALL, _DIGITS, _GPU = Case("DiT-S/2", 16), Case("digits", 64), Case("DiT-S/2", 128, autocast=True)


def cases(device: str) -> list[Case]:
    return [_GPU, Case("DiT-XL/2", 32, autocast=True)] if device == "cuda" else [_SMALL, _DIGITS]


@dataclass(frozen=True)
class Batch:
    """Latents in [−1, 1], their labels, and a seed for each."""

    images: Tensor
    labels: Tensor
    seeds: Tensor


def workload(case: Case, device: str) -> Workload:
    """Everything `benchmarks.harness` needs to measure `case`."""
    torch.manual_seed(0)
    sizes = _SIZES[case.model]
    model = DiT(**sizes).to(device)  # type: ignore[arg-type]
    recomputing = copy.deepcopy(model)
    recomputing.recompute = "cheap"
    steps = {
        "ours": Training(model, case, AdamW),
        "ours, recompute": Training(recomputing, case, AdamW),
        "eager": Training(as_published(model), case, TorchAdamW),
        "torch.compile": Training(as_published(model), case, TorchAdamW, compiled=True),
        "ours, torch.compile": Training(copy.deepcopy(model), case, AdamW, compiled=True),
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    shape = sizes["channels"], sizes["image_size"], sizes["image_size"]

    def make_inputs(index: int) -> Batch:
        seeds = ops.derive_seeds(index, torch.arange(case.batch)).to(device)
        labels = torch.arange(case.batch, device=device) % sizes["classes"]
        return Batch(ops.gaussian(seeds, shape).clamp(-1, 1), labels, seeds)

    def details(batch: Batch) -> Mapping[str, Mapping[str, float]]:
        parts = {name: shares(lambda step=step: step(batch), device) for name, step in steps.items()}
        table = {f"share of {kind}": {name: part[kind] for name, part in parts.items()} for kind in KINDS}
        compiling = {name: step.first_seconds for name, step in steps.items() if step.compiled}
        return {**table, "seconds of the first call": compiling}

    peers = ("eager", "torch.compile")
    return Workload(
        name=case.name,
        make_inputs=make_inputs,
        contenders=[
            ours(steps["ours"], None, device)[0],
            *(Contender(name, step, is_peer=name in peers) for name, step in steps.items() if name != "ours"),
        ],
        read_bytes=4 * 5 * parameters,
        written_bytes=4 * 5 * parameters,
        vector_operations=3 * case.batch * _multiply_adds(sizes),
        images=case.batch,
        details=details,
    )


class Training:
    """A network with its optimizer; called with a batch it takes a step and returns the loss."""

    def __init__(
        self, model: nn.Module, case: Case, optimizer: type[AdamW | TorchAdamW], *, compiled: bool = False
    ) -> None:
        self.compiled, self.autocast = compiled, case.autocast
        self.optimizer = optimizer(list(model.parameters()))
        self.objective = DiffusionObjective(RectifiedFlow(), "velocity", LogitNormalTimes())
        self.network: Callable[..., Tensor] = torch.compile(model, dynamic=False) if compiled else model
        self.first_seconds = 0.0

    @torch.enable_grad()
    def __call__(self, batch: Batch) -> Tensor:
        began = time.perf_counter()
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.objective(self.network, batch.images, batch.labels, batch.seeds).mean()
        loss.backward()
        with optimizing():
            self.optimizer.step()
        self.first_seconds = self.first_seconds or time.perf_counter() - began
        return loss.detach()


class AdamW:
    """Clipping, AdamW and the moving average: one norm, and one pass over each parameter."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        averages = {parameter: parameter.detach().clone() for parameter in parameters}
        self.optimizer = adamw.AdamW(parameters, averages, lr=_RATE)
        self.optimizer.average_decay = _DECAY
        self.parameters = parameters

    def step(self) -> None:
        norm = ops.gradient_norm(adamw.gradients_of(self.parameters))
        self.optimizer.gradient_scale = (_CLIP / (norm + 1e-6)).clamp(max=1)
        self.optimizer.step()
        self.optimizer.zero_grad()


class TorchAdamW:
    """The same of PyTorch."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters, self.averages = parameters, [parameter.detach().clone() for parameter in parameters]
        self.optimizer = torch.optim.AdamW(parameters, lr=_RATE, fused=True)

    def step(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, _CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1 - _DECAY)


def _multiply_adds(sizes: Mapping[str, int]) -> int:
    """Of an image's forward pass: 12 width² a token and block in layers, 2 width a pair of tokens in attention."""
    tokens, width = (sizes["image_size"] // sizes["patch_size"]) ** 2, sizes["width"]
    block = 12 * tokens * width**2 + 2 * tokens**2 * width + 6 * width**2
    return sizes["depth"] * block + 2 * tokens * width * sizes["channels"] * sizes["patch_size"] ** 2


def _faster(case: Case, peer: str, at_least: float) -> Promise:
    return Promise(
        f"times faster than {peer}",
        lambda cases: times_faster(cases[case.name], cases[case.name]["entries"]["ours"], peer),
        at_least=at_least,
        needs=[case.name],
    )


def _recomputing(cases: Mapping[str, Mapping]) -> float:
    entries = cases[_SMALL.name]["entries"]
    if "ours, recompute" not in entries:
        raise NotMeasured("it was not run")
    return seconds(entries["ours, recompute"]) / seconds(entries["eager"])


PROMISES = [
    _faster(_SMALL, "eager", 1.07),
    _faster(_SMALL, "torch.compile", 1.0),
    _faster(_GPU, "eager", 1.15),
    _faster(_GPU, "torch.compile", 1.0),
    Promise("of eager's time with recompute='cheap'", _recomputing, at_most=1.05, needs=[_SMALL.name]),
]
