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
import sys
from collections.abc import Sequence

from . import studies
from .machine import describe, provenance
from .trainings import train_all

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
    stages = [
        {name: [word.replace("{runs}", str(folder)) for word in words] for name, words in some.items()} for some in sets
    ]
    if train_all(stages, folder, options.jobs):
        return 1
    out = options.out / options.part
    out.mkdir(parents=True, exist_ok=True)
    entries = part.report({name: folder / name for some in sets for name in some}, out, options.short)
    studies.write_results(out / "results.json", provenance(describe("cpu")), entries)
    print((out / "table.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
