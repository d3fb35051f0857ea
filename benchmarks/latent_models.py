"""What latent models are worth: `python -m benchmarks.latent_models PART` trains what the part needs, and measures it.

Parts: `vae` (a linear autoencoder against probabilistic PCA, a nonlinear one, β), `gan` (the two gradients, classes
in 2,000 samples, modes of stacked digits), `stylegan` (lengths of paths, truncation, images between two), `latents`
(FID by the first stage at equal steps; images per second with and without a cache), `text` (emoji of captions that
were never seen; it needs transformers and a text encoder), `video` (digits that move as captions say, clips that go on,
decoding in chunks), `resolution` (what larger images cost, RIN's self-conditioning, a cascade with and without noise)
and `outliers` (what a likelihood tells of other images). An hour each on two cores at most.
Runs are kept in a folder of their own: an interrupted part goes on where it was when the same command is given again.
One process and thread a training.

Written to benchmarks/results/latent_models/PART: table.md, results.json, and images.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import studies
from .machine import describe, provenance

PARTS = ("vae", "gan", "stylegan", "latents", "text", "video", "resolution", "outliers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, then writes the part's report; 1 if a training failed."""
    parser = studies.parser("latent_models", __doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--short", action="store_true", help="a few steps of everything, to see that it runs")
    options = parser.parse_args(arguments)
    part = importlib.import_module(f"{__package__}.latent_models_{options.part}")
    folder = options.runs / options.part
    trainings = part.trainings(options.short)
    # Where there are several sets, each is trained on what the one before has trained, in the folder {runs}.
    sets = trainings if isinstance(trainings, list) else [trainings]
    wanted: dict[str, list[str]] = {}
    began, failed = time.monotonic(), 0
    with studies.jobs(options.jobs) as pool:
        for some in sets:
            told = {name: [word.replace("{runs}", str(folder)) for word in words] for name, words in some.items()}
            wanted |= {name: [*words, f"--out={folder / name}"] for name, words in told.items()}
            missing = [name for name in some if studies.read(folder / f"{name}.json") != wanted[name]]
            tasks = [(folder, name, wanted[name]) for name in missing]
            for (_, name, _), complaint in studies.finished(pool, _train, tasks):
                print(f"{time.monotonic() - began:6.0f} s  {name}: {complaint or 'trained'}", flush=True)
                failed += complaint is not None
            if failed:
                return 1
    out = options.out / options.part
    out.mkdir(parents=True, exist_ok=True)
    entries = part.report({name: folder / name for name in wanted}, out, options.short)
    studies.write_results(out / "results.json", provenance(describe("cpu")), entries)
    print((out / "table.md").read_text())
    return 0


def _train(task: tuple[Path, str, list[str]]) -> str | None:
    """Trains by a command line, from where a run of the same one stopped; what went wrong, if anything did."""
    folder, name, words = task
    begun = folder / f".{name}.json"
    if studies.read(begun) != words:
        shutil.rmtree(folder / name, ignore_errors=True)
        studies.write(begun, words)
    command = [sys.executable, "-m", "visgen_fast", "train", *words, "--device=cpu", "--resume"]
    _, complaint = studies.run_logged(command, folder / f"{name}.log")
    if complaint is None:
        studies.write(folder / f"{name}.json", words)
    return complaint


if __name__ == "__main__":
    sys.exit(main())
