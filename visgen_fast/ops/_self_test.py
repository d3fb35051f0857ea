"""Small awkward calls of every family, compared with the reference: what a kernel must get right to be trusted.

Sizes are primes beside whole vectors and warps, so that the paths for full and for partial ones both run. A family
takes some milliseconds on a GPU. The tests of the repository are the thorough ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .. import ops, reference

Call = tuple[str, dict[str, Any], tuple[str, ...]]  # operation, arguments, those to differentiate into

_DENSE = (torch.float32, torch.bfloat16, torch.float16)  # kernels are compiled for each, where rows are whole vectors
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}


def complaint_about(family: str, device: torch.device) -> str:
    """Which operation of the family is wrong on the device, and how; "" if none is."""
    for operation, arguments, inputs in calls(family, device):
        try:
            actual = _results(ops, operation, arguments, inputs)
        except RuntimeError as error:
            return f"{operation} failed ({str(error).splitlines()[0]})"
        for result, expected in zip(actual, _results(reference, operation, arguments, inputs), strict=True):
            if wrong := _difference(result, expected):
                return f"{operation} gave {wrong}"
    return ""


def calls(family: str, device: torch.device) -> Iterator[Call]:
    """The calls that a family is tried with."""
    yield from _CALLS[family](device)


def _results(module: Any, operation: str, arguments: dict[str, Any], inputs: tuple[str, ...]) -> list[Tensor]:
    """The results and the gradients of a weighted sum of them; of an operation in place, what it has changed."""
    if operation == "adamw_":
        arguments = {n: [x.clone() for x in v] if isinstance(v, list) else v for n, v in arguments.items()}
        getattr(module, operation)(**arguments)
        return [x for value in arguments.values() if isinstance(value, list) for x in value]
    arguments = {n: v.detach().requires_grad_() if n in inputs else v for n, v in arguments.items()}
    with torch.enable_grad():
        results = [leaf for leaf in tree_leaves(getattr(module, operation)(**arguments)) if isinstance(leaf, Tensor)]
        real = [result for result in results if result.requires_grad]
        if not real:
            return results
        upstream = [torch.arange(one.numel(), device=one.device).sin().view(one.shape).to(one.dtype) for one in real]
        gradients = torch.autograd.grad(real, [arguments[name] for name in inputs], upstream)
    return [*(result.detach() for result in results), *gradients]


def _difference(actual: Tensor, expected: Tensor) -> str:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return f"{actual.dtype} {list(actual.shape)} where {expected.dtype} {list(expected.shape)} is right"
    if not actual.is_floating_point():
        wrong = int((actual != expected).sum())
        return f"{wrong} of {actual.numel()} integers wrong" if wrong else ""
    exact, tolerance = expected.double(), _TOLERANCE[actual.dtype]
    scale = exact.abs().nan_to_num(0.0).max().clamp_min(1.0) if exact.numel() else 1.0
    near = torch.isclose(actual.double(), exact, rtol=tolerance, atol=float(tolerance * scale), equal_nan=True)
    return "" if bool(near.all()) else f"numbers off by {float((actual.double() - exact).abs().max()):.2g}"


class _Draws:
    """Reproducible tensors on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._generator = device, torch.Generator("cpu").manual_seed(1)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        # Rounded to 16 bits: codes and levels are then the same whatever the type, and keep off the borders.
        drawn = torch.randn(shape, generator=self._generator, dtype=torch.float64, device="cpu").bfloat16()
        return drawn.to(dtype).to(self.device)

    def seeds(self, count: int) -> Tensor:
        return torch.arange(count, device=self.device) * 7919 - 3


def _noise(device: torch.device) -> Iterator[Call]:
    seeds = _Draws(device).seeds(3)
    yield "derive_seeds", {"seed": -7, "index": torch.arange(300, device=device), "step": 5, "purpose": 2}, ()
    for operation in ("gaussian", "uniform", "gumbel"):
        yield operation, {"seeds": seeds, "shape": (5, 67), "stream": 5 << 32}, ()
        yield operation, {"seeds": seeds, "shape": (1031,), "dtype": torch.bfloat16}, ()
        for dtype in _DENSE:
            yield operation, {"seeds": seeds, "shape": (2056,), "dtype": dtype}, ()


def _diffuse(device: torch.device) -> Iterator[Call]:
    draw = _Draws(device)
    for shape, dtype in (((3, 3, 5, 7), torch.float32), ((2, 4, 256), torch.bfloat16)):
        given = {"x": draw(*shape, dtype=dtype), "coefficients": draw(shape[0], 6), "seeds": draw.seeds(shape[0])}
        yield "diffuse", {**given, "endpoint": draw(*shape, dtype=dtype)}, ("x", "endpoint", "coefficients")
    yield "add_noise", {"x": draw(2, 1031), "coefficients": draw(2, 4), "noise": draw(2, 1031)}, ("x", "noise")
    for dtype in _DENSE:
        given = {"x": draw(2, 2056, dtype=dtype), "coefficients": draw(2, 4), "seeds": draw.seeds(2)}
        yield "diffuse", given, ()
        yield "add_noise", given, ()


def _multiscale(device: torch.device) -> Iterator[Call]:
    draw = _Draws(device)
    sizes = {"scales": (1, 2, 4, 8), "reduction": "none"}
    for shape, dtype in (((2, 3, 13, 11), torch.float32), ((2, 3, 32, 32), torch.bfloat16)):
        pair = {"pred": draw(*shape, dtype=dtype), "target": draw(*shape, dtype=dtype)}
        yield "multiscale_loss", {**pair, **sizes, "weight": draw(*shape).abs()}, ("pred", "target", "weight")
        yield "multiscale_loss", {**pair, "scales": (64,), "penalty": "pseudo_huber"}, ("pred", "target")
    noised = {"pred": draw(3, 3, 9, 16), "x": draw(3, 3, 9, 16), "coefficients": draw(3, 4), "seeds": draw.seeds(3)}
    yield "denoising_loss", {**noised, **sizes, "weight": draw(3).abs()}, ("pred", "x", "coefficients")


def _modulate(device: torch.device) -> Iterator[Call]:
    draw = _Draws(device)
    inputs = ("x", "branch", "gate", "scale", "shift")
    for width, each, norm in ((37, 1, "layer"), (384, 19, "layer"), (1152, 1, "rms")):
        parts = dict(zip(inputs[2:], draw(2, each, 3 * width).chunk(3, -1), strict=True))
        yield (
            "gated_residual_norm",
            {"x": draw(2, 19, width), "branch": draw(2, 19, width), **parts, "norm": norm},
            inputs,
        )
    yield (
        "modulated_norm",
        {"x": draw(5, 67, dtype=torch.bfloat16), "scale": draw(67), "shift": draw(67)},
        ("x", "scale"),
    )
    yield (
        "adaptive_instance_norm",
        {"x": draw(2, 3, 9, 16), "scale": draw(2, 3), "shift": draw(2, 3)},
        ("x", "scale", "shift"),
    )


def _activate(device: torch.device) -> Iterator[Call]:
    draw = _Draws(device)
    for kind in ("gelu_tanh", "gelu", "silu"):
        yield "activate", {"x": 3 * draw(7, 148), "kind": kind, "bias": draw(148)}, ("x", "bias")
    yield "gated_activate", {"x": draw(7, 2 * 37), "bias": draw(2 * 37)}, ("x", "bias")
    yield "gated_activate", {"x": draw(3, 512, dtype=torch.bfloat16), "kind": "geglu"}, ("x",)


def _optimize(device: torch.device) -> Iterator[Call]:
    draw, names = _Draws(device), ("parameters", "gradients", "means", "averages")
    lists = {name: [draw(5, 7), draw(1031)] for name in names}
    lists["squares"] = [draw(5, 7).square(), draw(1031).square()]
    yield "gradient_norm", {"gradients": lists["gradients"]}, ()
    rates: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 0.1, "average_decay": 0.9, "gradient_scale": 0.5}
    yield "adamw_", {**lists, **rates, "step": 3}, ()


def _quantize(device: torch.device) -> Iterator[Call]:
    draw = _Draws(device)
    for rows, codes, dimensions in ((70, 19, 7), (130, 300, 64)):
        yield "nearest_code", {"x": draw(rows, dimensions), "codebook": draw(codes, dimensions)}, ()
        books = draw(3, codes, dimensions)
        yield "residual_quantize", {"x": draw(rows, dimensions), "codebooks": books}, ("x", "codebooks")
    yield "decode_codes", {"codes": torch.arange(60, device=device).view(20, 3) % 19, "codebooks": draw(3, 19, 7)}, ()


def _codebook(device: torch.device) -> Iterator[Call]:
    draw = _Draws(device)
    codes = torch.arange(3 * 130, device=device).view(130, 3) % 19 - 1
    yield "codebook_statistics", {"x": draw(130, 37), "codes": codes, "codebooks": draw(3, 19, 37)}, ()


def _finite_scalar(device: torch.device) -> Iterator[Call]:
    draw, levels = _Draws(device), (8, 5, 5, 5)
    yield "finite_scalar_quantize", {"x": draw(67, 4), "levels": levels}, ("x",)
    yield "finite_scalar_decode", {"codes": torch.arange(1000, device=device), "levels": levels}, ()


def _binary_quantize(device: torch.device) -> Iterator[Call]:
    draw = _Draws(device)
    for operation in ("lookup_free_quantize", "binary_spherical_quantize"):
        yield operation, {"x": draw(67, 18), "group_size": 9, "inverse_temperature": 2.0}, ("x",)
    yield "binary_decode", {"codes": torch.arange(300, device=device), "bits": 11, "scale": 0.5}, ()


def _solve(device: torch.device) -> Iterator[Call]:
    draw = _Draws(device)
    table = draw(2, 32, dtype=torch.float64) / 2
    table[:, 3:8] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], device=device)
    for first in (8, 16, 24):
        table[:, first + 5 : first + 7] = 0
    for shape in ((3, 3, 5, 7), (2, 1031)):
        x, *others = (draw(*shape) for _ in range(5))
        given = {"x": x, "outputs": others[:2], "table": table, "step": 1}
        weights = draw(1, shape[0], 2, dtype=torch.float64)
        yield "solver_step", {**given, "slots": others[2:], "weights": weights, "seeds": draw.seeds(shape[0])}, ()
        yield "denoised_quantile", {**given, "q": 0.9, "weights": weights}, ()
        yield "output_products", {"outputs": others[:2], "x": x}, ()


def _select(device: torch.device) -> Iterator[Call]:
    draw = _Draws(device)
    given: dict[str, Any] = {"logits": 3 * draw(3, 5, 1031), "seeds": draw.seeds(3), "stream": 11 << 32}
    yield "sample_tokens", {**given, "log_probability": True}, ()
    guided = {**given, "unconditional": 3 * draw(3, 5, 1031), "guidance": 1.5}
    yield "sample_tokens", {**guided, "top_k": 100, "top_p": 0.9, "temperature": 1.3}, ()
    yield "sample_tokens", {**given, "temperature": 0.0}, ()


_CALLS: dict[str, Callable[[torch.device], Iterator[Call]]] = {
    "noise": _noise,
    "diffuse": _diffuse,
    "multiscale": _multiscale,
    "modulate": _modulate,
    "activate": _activate,
    "optimize": _optimize,
    "quantize": _quantize,
    "codebook": _codebook,
    "finite_scalar": _finite_scalar,
    "binary_quantize": _binary_quantize,
    "solve": _solve,
    "select": _select,
}
FAMILIES = tuple(_CALLS)
