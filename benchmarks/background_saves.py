"""What a checkpoint that is written in the background adds to the steps beside it.

    python -m benchmarks.background_saves [--steps 50] [--rounds 6] [--parallel ddp]

Rounds of steps with one checkpoint and without any, in turns; the shortest of each kind are compared, and the same with
checkpoints that training waits for. `torchrun --nproc-per-node 2 -m benchmarks.background_saves --parallel fsdp`
measures shards.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path


def measure(out: Path, steps: int, rounds: int, parallel: str) -> dict[str, float]:
    """The shortest seconds of a round of each kind."""
    from visgen_fast.data.images import digits
    from visgen_fast.recipes.rectified_flow import RECIPE
    from visgen_fast.training.loop import Trainer
    from visgen_fast.training.run import Run

    sizes = {"width": 192, "depth": 6, "heads": 4, "batch_size": 32, "device": "cpu", "steps": 10**6}
    settings = RECIPE.settings_for("digits", parallel=parallel, **sizes)
    trainer = Trainer(RECIPE.system(settings, digits().format), digits(), Run(out, settings, identity={}))
    trainer.optimize()
    shortest = dict.fromkeys(("no checkpoint", "in the background", "waited for"), float("inf"))
    for _ in range(rounds):
        for kind in shortest:
            began = time.monotonic()
            if kind != "no checkpoint":
                trainer.save(background=kind == "in the background")
            for _ in range(steps):
                trainer.optimize()
            shortest[kind] = min(shortest[kind], time.monotonic() - began)
            trainer.saver.wait()
    return shortest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    options = parser.parse_args()
    # One folder for all ranks that torchrun started.
    folder = Path(tempfile.gettempdir()) / f"background-saves-{os.environ.get('TORCHELASTIC_RUN_ID', os.getpid())}"
    try:
        found = measure(folder, options.steps, options.rounds, options.parallel)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    alone = found["no checkpoint"]
    for kind, seconds in found.items():
        print(f"{kind + ':':<20}{seconds / options.steps * 1e3:8.2f} ms a step, {seconds / alone - 1:+.1%}")


if __name__ == "__main__":
    main()
