"""What a step costs at 64² and at 128² pixels: all of an hourglass transformer with one level more, and RIN's latents.

`python -m benchmarks.latent_models_costs` prints both, in alternating steps on one thread. Seconds are the processor's,
which a busy neighbour changes little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from visgen_fast.models import RIN, HDiT

SIDES = (64, 128)
# Of 64² pixels; twice the resolution has one more of the finest.
LEVELS, WIDE = (128, 256), 128
_PATCH, _BATCH, _HEAD = 4, 4, 64


def costs(short: bool = False) -> dict[str, Any]:
    """Seconds by name and side, the least of several steps: "hdit", forward and backward, and "latents", forward."""
    rounds, scale = (1, 16) if short else (6, 1)
    hourglasses = {64: hourglass(64, LEVELS, scale), 128: hourglass(128, (WIDE, *LEVELS), scale)}
    taken: dict[str, dict[int, float]] = {"hdit": {}, "latents": {}, "rin": {}}
    for _ in range(rounds):
        for side in SIDES:
            hdit = _least(taken["hdit"], side)
            hdit(_seconds(lambda side=side: _step(hourglasses[side], side)))
            whole, latents = _interface_seconds(interface(side, scale), side)
            _least(taken["rin"], side)(whole)
            _least(taken["latents"], side)(latents)
    return taken


def ratios(taken: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """The time at 128² over that at 64²."""
    return {name: seconds[SIDES[1]] / seconds[SIDES[0]] for name, seconds in taken.items()}


def hourglass(side: int, widths: tuple[int, ...], scale: int) -> HDiT:
    """The network for images of this side, its widths divided by `scale`."""
    narrow = [width // scale for width in widths]
    heads = [max(1, width // _HEAD) for width in narrow]
    depths = [*[2] * (len(widths) - 1), 4]
    options: dict[str, Any] = {"image_size": side, "channels": 3, "patch_size": _PATCH, "classes": 10}
    return HDiT(widths=narrow, depths=depths, heads=heads, **options)


def interface(side: int, scale: int) -> RIN:
    """A network of 64 latents for images of this side, its widths divided by `scale`."""
    sizes = {"interface": 128 // scale, "width": 256 // scale, "heads": max(1, 4 // scale)}
    options: dict[str, Any] = {"image_size": side, "channels": 3, "patch_size": _PATCH, "classes": 10}
    return RIN(latents=64, blocks=2, depth=4, **sizes, **options)


def _step(model: nn.Module, side: int) -> None:
    x, t, labels = torch.randn(_BATCH, 3, side, side), torch.rand(_BATCH), torch.zeros(_BATCH, dtype=torch.int64)
    model(x, t, labels).square().mean().backward()


@torch.no_grad()
def _interface_seconds(model: RIN, side: int) -> tuple[float, float]:
    """Seconds of a forward pass, and of the layers in which latents work among themselves."""
    spent, began = [0.0], [0.0]

    def begin(*_: Any) -> None:
        began[0] = time.process_time()

    def end(*_: Any) -> None:
        spent[0] += time.process_time() - began[0]

    for block in model.blocks:
        for layer in block.work:
            layer.register_forward_pre_hook(begin)
            layer.register_forward_hook(end)
    x, t, labels = torch.randn(_BATCH, 3, side, side), torch.rand(_BATCH), torch.zeros(_BATCH, dtype=torch.int64)
    return _seconds(lambda: model(x, t, labels)), spent[0]


def _seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _least(seconds: dict[int, float], side: int) -> Callable[[float], None]:
    def note(taken: float) -> None:
        seconds[side] = min(taken, seconds.get(side, float("inf")))

    return note


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = costs()
    for name, seconds in found.items():
        times = ", ".join(f"{1000 * seconds[side]:.1f} ms at {side}²" for side in SIDES)
        print(f"{name}: {times}, {ratios(found)[name]:.2f} times")
