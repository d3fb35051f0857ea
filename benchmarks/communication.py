"""What training on several devices moves and holds, counted on paper, and the count checked on this machine.

    python -m benchmarks.communication [--bandwidth 50e9] [--peak 400e12]   # tables for 8 to 4,096 devices
    python -m benchmarks.communication --check                              # against 2 and 4 gloo processes

Counted for a device and an optimizer step, in the mathematics of `training/copies.py` and `training/shards.py`. Of n
devices, a ring moves (n−1)/n of what is gathered or scattered, and twice that of what is summed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

DEVICES = (8, 64, 512, 4096)


@dataclass(frozen=True)
class Shape:
    """A network: weights of a block, how many there are, weights beside them, and arithmetic of an image."""

    name: str
    block: int
    blocks: int
    rest: int
    tokens: int

    @property
    def weights(self) -> int:
        return self.block * self.blocks + self.rest

    @property
    def operations(self) -> float:
        """Of a forward and a backward of an image, in matrix products."""
        return 6.0 * self.weights * self.tokens


@dataclass(frozen=True)
class Counted:
    """Bytes that each kind of collective moves to or from a device in a step, and bytes that a device holds."""

    gathered: float
    scattered: float
    summed: float
    states: float
    working: float

    @property
    def moved(self) -> float:
        return self.gathered + self.scattered + self.summed


def count(shape: Shape, devices: int, parallel: str, *, half: bool = False, accumulation: int = 1) -> Counted:
    """In float32; `half`: blocks are gathered in bfloat16. Holds weights, gradients, two moments and the average.

    What works beside these: under fsdp two gathered blocks (one is fetched ahead), one block's gradient, and the rest.
    """
    share, size = (devices - 1) / devices, 2 if half else 4
    blocks = shape.block * shape.blocks
    if parallel == "ddp":
        return Counted(0, 0, 2 * share * 4 * shape.weights, 20 * shape.weights, 4 * shape.weights)
    # A block is gathered for the forward and for the backward, what is beside them once.
    gathered = share * accumulation * (2 * size * blocks + size * shape.rest)
    scattered = share * accumulation * 4 * shape.weights
    working = 2 * size * shape.block + 4 * shape.block + (4 + size) * shape.rest
    return Counted(gathered, scattered, 0, 20 * shape.weights / devices, working)


def shape_of(name: str, network: torch.nn.Module, tokens: int) -> Shape:
    """Of a network with `blocks`."""
    block = sum(weight.numel() for weight in network.blocks[0].parameters())
    whole = sum(weight.numel() for weight in network.parameters())
    return Shape(name, block, len(network.blocks), whole - block * len(network.blocks), tokens)


def known() -> list[Shape]:
    from visgen_fast.models.dit import DiT

    with torch.device("meta"):
        dit = DiT(image_size=32, channels=4, patch_size=2, width=1152, depth=28, heads=16, classes=1000)
    # Two streams, each with attention, an MLP of four times the width and six modulations: 36·width² a block
    # (Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis", 2024).
    width, depth = 2688, 38
    mm_dit = Shape("MM-DiT, 10 billion", 36 * width**2, depth, 20 * width**2, 4096 + 256)
    return [shape_of("DiT-XL/2 at 256²", dit, 256), mm_dit]


def tables(bandwidth: float, peak: float, images: int) -> str:
    """For `images` a device: what is moved, what is held, and how long each takes at bytes and operations a second."""
    lines = []
    for shape in known():
        lines += [f"{shape.name}: {shape.weights:,} weights, {images} images a device, bf16", ""]
        lines += ["devices  parallel  moved GB  held GB  working GB  moving ms  computing ms"]
        computing = shape.operations * images / peak * 1e3
        for devices in DEVICES:
            for parallel in ("ddp", "fsdp"):
                found = count(shape, devices, parallel, half=True)
                numbers = (found.moved / 1e9, found.states / 1e9, found.working / 1e9, found.moved / bandwidth * 1e3)
                moved, held, working, moving = numbers
                row = f"{moved:>8.2f}  {held:>7.2f}  {working:>10.2f}  {moving:>9.1f}  {computing:>12.1f}"
                lines.append(f"{devices:>7}  {parallel:>8}  {row}")
        lines.append("")
    return "\n".join(lines)


def check() -> bool:
    """Prints counted and measured bytes on 2 and 4 processes; whether they agree to 2%, and those held to 10%."""
    right = True
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (2, 4):
            for parallel in ("ddp", "fsdp"):
                out = Path(folder) / f"{ranks}-{parallel}.pt"
                codes = _as_ranks(ranks, lambda out=out, parallel=parallel: measure(out, parallel))
                if any(codes):
                    raise SystemExit(f"{ranks} ranks of {parallel} ended with {codes}")
                measured = torch.load(out)
                counted = count(Shape(**measured.pop("shape")), ranks, parallel)
                for name, value in measured.items():
                    expected = getattr(counted, name)
                    off = abs(value - expected) / max(expected, 1)
                    right &= off <= (0.1 if name == "states" else 0.02)
                    row = f"counted {expected:>12,.0f}  measured {value:>12,.0f}  {off:.1%}"
                    print(f"{ranks} {parallel:<5}{name:<10}{row}", flush=True)
    return right


def measure(out: Path, parallel: str) -> None:
    """On a rank: one step of a small DiT under the profiler, whose collectives it adds up."""
    from torch import distributed as dist
    from torch.distributed.tensor import DTensor

    from visgen_fast.data.images import digits
    from visgen_fast.recipes.rectified_flow import RECIPE
    from visgen_fast.training.loop import Trainer
    from visgen_fast.training.run import Run

    sizes = {"width": 64, "depth": 4, "heads": 2, "batch_size": 8, "steps": 3, "device": "cpu"}
    settings = RECIPE.settings_for("digits", parallel=parallel, **sizes)
    system = RECIPE.system(settings, digits().format)
    network = next(module for module in system.modules() if hasattr(module, "blocks"))
    shape = shape_of("small", network, 16)
    trainer = Trainer(system, digits(), Run(out.with_suffix(""), settings, identity={}))
    held = 0

    def hold(*_: object) -> None:
        nonlocal held
        states = [moment for state in trainer.turns[0].adamw.state.values() for moment in state.values()]
        gradients = [weight.grad for weight in system.parameters()]
        tensors = [*system.parameters(), *gradients, *states, *trainer.average.of.values()]
        shares = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
        held = sum(share.numel() * share.element_size() for share in shares)

    trainer.optimize()
    trainer.turns[0].adamw.register_step_pre_hook(hold)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        trainer.optimize()
    n, moved = dist.get_world_size(), {"gathered": 0.0, "scattered": 0.0, "summed": 0.0}
    share = (n - 1) / n
    for event in profile.events():
        numel = max((shape[0] for shape in event.input_shapes if len(shape) == 1), default=0)
        if event.name == "c10d::_allgather_base_":
            moved["gathered"] += share * 4 * numel
        elif event.name == "c10d::_reduce_scatter_base_":
            moved["scattered"] += share * 4 * numel
        elif event.name == "gloo:all_reduce" and parallel == "ddp":  # which gloo scatters by, too
            moved["summed"] += 2 * share * 4 * numel
    if dist.get_rank() == 0:
        torch.save({"shape": vars(shape), **moved, "states": float(held)}, out)
    dist.barrier()


def _as_ranks(ranks: int, function) -> list[int]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "python_tests"))
    from ranks import as_ranks

    return as_ranks(ranks, function)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", type=float, default=50e9, help="bytes a second between devices")
    parser.add_argument("--peak", type=float, default=400e12, help="operations a second of a device, as measured")
    parser.add_argument("--images", type=int, default=32, help="images a device and step")
    parser.add_argument("--check", action="store_true", help="compare the count with gloo processes")
    options = parser.parse_args()
    if options.check:
        return 0 if check() else 1
    print(tables(options.bandwidth, options.peak, options.images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
