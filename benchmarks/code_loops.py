"""Whole loops that draw codes, against what draws them today: `python -m benchmarks.code_loops`.

Batch 16, width 256 and random weights of one seed. A `SequenceModel` of 8 blocks draws 256 codes against transformers'
GPT-2 of the same size (`pip install transformers`), and a `PixelCNN` of the recipe's size draws 28×28 pixels from its
cached rows against a loop that runs the whole network for each pixel. With --rq-transformer CHECKOUT, kakaobrain's
RQ-Transformer draws greedy codes with our `sample` against its own. With --var CHECKOUT, FoundationVision's VAR draws
ten scales with our draws against its own, and a `ScaleModel` of the same size against it, all without the decoder.
Rivals take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.autoregression import CodeModel, raster, sample
from visgen_fast.interop import apply_visgen_to_rqvae, apply_visgen_to_var
from visgen_fast.models import PixelCNN, ScaleModel, SequenceModel
from visgen_fast.nn import MultiscaleQuantizer

from . import rq_transformer as published_rq_transformer
from . import var as published_var
from .machine import OtherLoad, describe, provenance

_BATCH, _WIDTH, _BLOCKS, _HEADS, _CODES = 16, 256, 8, 8, 256
_VAR_BATCH, _VAR_CODES = 4, 4096


@dataclass(frozen=True)
class Loop:
    """Our way and another to draw the same number of codes.

    at_least: how many times faster ours is promised to be; same: whether both draw the same codes.
    """

    name: str
    ours: Callable[[], Tensor]
    peer_name: str
    peer: Callable[[], Tensor]
    at_least: float
    same: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes the times; 1 where a loop is slower than promised or draws other codes than it should."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.code_loops", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--case", default="", metavar="TEXT", help="only loops whose name contains this text")
    parser.add_argument("--rq-transformer", type=Path, metavar="CHECKOUT", help="of kakaobrain/rq-vae-transformer")
    parser.add_argument("--var", type=Path, metavar="CHECKOUT", help="of FoundationVision/VAR")
    parser.add_argument("--rounds", type=int, default=3, help="of each loop; default: 3")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a JSON file for the times")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    known = loops(options.device, options.rq_transformer, options.var)
    found = [measure(make(), options.rounds) for name, make in known.items() if options.case in name]
    for one in found:
        beside = f"{one['peer_name']} {one['peer']:.3g} s"
        wrong = "" if one["right"] else ", and OTHER CODES"
        print(f"{one['name']}: {one['ours']:.3g} s, {beside}: {one['times']:.2f} times (≥ {one['at_least']:g}){wrong}")
    if any(one["load_of_others"] > 0.05 for one in found):
        print("other processes kept the CPUs busy: these times are not worth keeping")
    if options.out is not None:
        head = provenance(describe(options.device))
        options.out.write_text(json.dumps({**head, "loops": found}, indent=1) + "\n")
    return int(not all(one["right"] and one["times"] >= one["at_least"] for one in found))


def loops(device: str, rq_transformer: Path | None = None, var: Path | None = None) -> dict[str, Callable[[], Loop]]:
    """The loops by their names; those without their peer are left out."""
    found: dict[str, Callable[[], Loop]] = {}
    if importlib.util.find_spec("transformers"):
        found["sequence V=1024"] = lambda: _sequence("sequence V=1024", 1024, {}, 1.3, device)
        filters = {"top_k": 250, "top_p": 0.96}
        found["sequence V=16384 top-k top-p"] = lambda: _sequence(
            "sequence V=16384 top-k top-p", 16384, filters, 2.0, device
        )
    else:
        print("transformers is not installed: its loops are left out")
    found["pixel-cnn 28×28"] = lambda: _pixels("pixel-cnn 28×28", device)
    if rq_transformer is not None:
        for shape, body, batch, at_least in (((8, 8, 4), 8, 16, 2.0), ((16, 16, 4), 6, 8, 3.5)):
            name = f"rq-transformer {'×'.join(map(str, shape))}"
            found[name] = functools.partial(_residual, name, rq_transformer, shape, body, batch, at_least, device)
    if var is not None:
        for name, at_least in (("VAR", 1.0), ("ScaleModel", 1.5)):
            found[name] = functools.partial(_scales, name, var, at_least, device)
    return found


def measure(loop: Loop, rounds: int) -> dict[str, Any]:
    """Medians in seconds; both loops run once before."""
    first, second = loop.ours(), loop.peer()
    load, times = OtherLoad(), {"ours": [], "peer": []}  # type: ignore[var-annotated]
    for _ in range(rounds):
        for name, draw in (("ours", loop.ours), ("peer", loop.peer)):
            began = time.perf_counter()
            draw().cpu()
            times[name].append(time.perf_counter() - began)
    ours, peer = (statistics.median(times[name]) for name in ("ours", "peer"))
    return {
        **{"name": loop.name, "ours": ours, "peer_name": loop.peer_name, "peer": peer, "times": peer / ours},
        **{"at_least": loop.at_least, "right": not loop.same or torch.equal(first.flatten(), second.flatten())},
        "load_of_others": load.share() or 0.0,
    }


def _sequence(name: str, size: int, filters: dict[str, Any], at_least: float, device: str) -> Loop:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = SequenceModel(raster((_CODES, 1)), size, width=_WIDTH, depth=_BLOCKS, heads=_HEADS).to(device).eval()
    sizes: dict[str, Any] = {"n_positions": _CODES + 1, "n_embd": _WIDTH, "n_layer": _BLOCKS, "n_head": _HEADS}
    sizes |= {"bos_token_id": None, "eos_token_id": None}
    peer: Any = GPT2LMHeadModel(GPT2Config(vocab_size=size, **sizes)).to(device).eval()
    seeds = ops.derive_seeds(0, torch.arange(_BATCH)).to(device)
    start = torch.zeros(_BATCH, 1, dtype=torch.int64, device=device)
    drawing: dict[str, Any] = {"do_sample": True, "max_new_tokens": _CODES, "min_new_tokens": _CODES}
    drawing |= {"pad_token_id": 0, "attention_mask": torch.ones_like(start)}
    off = {"top_k": 0, "top_p": 1.0}
    return Loop(
        name,
        lambda: sample(model, None, seeds, graph=device == "cuda", **filters),
        "transformers' GPT-2",
        lambda: peer.generate(start, **drawing, **{**off, **filters})[:, 1:],
        at_least,
        same=False,
    )


def _pixels(name: str, device: str) -> Loop:
    torch.manual_seed(0)
    model = PixelCNN((28, 28, 1), 256, width=48, depth=6).to(device).eval()
    seeds = ops.derive_seeds(0, torch.arange(_BATCH)).to(device)
    return Loop(
        name,
        lambda: sample(model, None, seeds, graph=device == "cuda"),
        "the whole network for each pixel",
        lambda: without_caches(model, seeds),
        20.0,
        same=True,
    )


def _residual(
    name: str, checkout: Path, shape: tuple[int, int, int], body: int, batch: int, at_least: float, device: str
) -> Loop:
    model, first_stage = (part.to(device) for part in published_rq_transformer.network(checkout, shape, 2048, body))
    start = torch.zeros(batch, *shape, dtype=torch.int64, device=device)
    labels = torch.arange(batch, device=device) % 10

    def draw() -> Tensor:
        return model.sample(start, first_stage, labels, top_k=1)

    def ours() -> Tensor:
        with apply_visgen_to_rqvae(model):
            return draw()

    return Loop(name, ours, "its own loop", draw, at_least, same=True)


def _scales(name: str, checkout: Path, at_least: float, device: str) -> Loop:
    sizes: dict[str, Any] = {"width": _WIDTH, "depth": _BLOCKS, "heads": _HEADS}
    published = published_var.network(checkout, _VAR_CODES, **sizes).to(device)
    labels, drawing = torch.arange(_VAR_BATCH, device=device), {"top_k": 900, "top_p": 0.96}
    seeds = ops.derive_seeds(0, labels)
    quantizer = MultiscaleQuantizer(_VAR_CODES, published.Cvae)
    model = ScaleModel(quantizer, classes=published.num_classes, **sizes).to(device).eval()

    def draw() -> Tensor:
        return published.autoregressive_infer_cfg(_VAR_BATCH, labels, cfg=1.5, **drawing)

    def swapped() -> Tensor:
        with apply_visgen_to_var(published):
            return draw()

    def ours() -> Tensor:
        return sample(model, labels, seeds, guidance=lambda progress: 1 + 1.5 * progress, **drawing)

    return Loop(name, swapped if name == "VAR" else ours, "the published VAR", draw, at_least, same=False)


@torch.no_grad()
def without_caches(model: CodeModel, seeds: Tensor) -> Tensor:
    """What `sample` draws, from a pass of the whole network for each code."""
    order = model.order
    sequence = seeds.new_zeros(len(seeds), order.length)
    for step in range(order.count):
        logits = order.to_sequence(model(order.to_array(sequence)))[:, step : step + 1]
        drawn = ops.sample_tokens(logits, seeds, stream=ops.Purpose.CODE.stream(step))
        assert isinstance(drawn, Tensor)  # no log-probability was asked for
        sequence[:, step : step + 1] = drawn
    return order.to_array(sequence)


if __name__ == "__main__":
    raise SystemExit(main())
