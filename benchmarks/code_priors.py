"""Models of an image's codes side by side, after equal training time: `python -m benchmarks.code_priors`.

Token GPT, RQ-Transformer, VAR, MaskGIT, Muse (half of the time for its coarse model) and MAR on Fashion-MNIST, each
with the tokenizer that it is made for. A few steps say how fast each trains, and so how many it has in `--minutes`. One
process and thread a training; an interrupted study goes on where it was when the same command is given again.

Written to benchmarks/results/code_priors: table.md and results.json. Bits compare models of one tokenizer alone.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from visgen_fast import ops
from visgen_fast.autoregression import nll
from visgen_fast.data.images import AT_A_TIME
from visgen_fast.evaluation.fid import distances
from visgen_fast.recipes.runs import trained_classifier
from visgen_fast.systems.cascade import CascadeSystem
from visgen_fast.systems.codes import CodeSystem
from visgen_fast.systems.generative import GenerativeSystem
from visgen_fast.systems.prior import PriorSystem

from . import studies
from .decomposition_measures import held_out, measured
from .machine import describe, provenance
from .table import as_markdown
from .trainings import train_all

PRIORS = ("token-gpt", "rq-transformer", "var", "maskgit", "muse", "mar")
_FEW, _SOME, _DRAWN = 5, 25, 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, measures, and writes the report; 1 if a training failed."""
    parser = studies.parser("code_priors", __doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of training for each model; default: 10")
    parser.add_argument("--pictures", type=int, default=1000, help="held out, that are measured; default: 1000")
    parser.add_argument("--short", action="store_true", help="a few steps of everything, to see that it runs")
    options = parser.parse_args(arguments)
    folder, short = options.runs, options.short
    failed = train_all([tokenizers(short)], folder, options.jobs)
    if not failed and not short:
        rates = {name: measured(folder, f"rate-{name}", lambda name=name: _rate(name, folder)) for name in _trained()}
        steps = {name: max(1, int(60 * options.minutes / rate["seconds"])) for name, rate in rates.items()}
        for name in ("maskgit-half", "muse"):
            steps[name] = max(1, steps[name] // 2)
    else:
        steps = dict.fromkeys(_trained(), _FEW)
    if not failed:
        coarse = {"maskgit-half": _words("maskgit-half", folder, short, steps["maskgit-half"])}
        fine = {name: _words(name, folder, short, steps[name]) for name in PRIORS}
        failed = train_all([coarse, fine], folder, options.jobs)
    if failed:
        return 1
    entries = [
        measured(folder, name, lambda name=name: measure(folder, name, options.pictures)) | {"steps": steps[name]}
        for name in PRIORS
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    head = {"study": "code_priors", "minutes": options.minutes, **provenance(describe("cpu"))}
    studies.write_results(options.out / "results.json", head, entries)
    (options.out / "table.md").write_text(_table(entries) + "\n")
    print((options.out / "table.md").read_text())
    return 0


def tokenizers(short: bool) -> dict[str, list[str]]:
    """Command lines of the classifier and of the first stages, by name."""
    tiny = ["--widths", "4", "--batch-size=4"] if short else []
    steps = [f"--steps={_FEW if short else 2000}"]
    found = {name: [name, *_images(short), *steps, *tiny] for name in ("vq-vae", "rq-vae", "var-tokenizer")}
    found["vq-vae-half"] = ["vq-vae", *_images(short, half=True), *steps, *tiny]
    return {"classifier": ["classifier", *_images(short), f"--steps={_FEW if short else 1500}"], **found}


def _images(short: bool, half: bool = False) -> list[str]:
    name, size = ("digits", 8) if short else ("fashion-mnist", 28)
    return [f"--dataset={name}", f"--size={size // 2 if half else size}"]


def _trained() -> tuple[str, ...]:
    return (*PRIORS, "maskgit-half")


def _words(name: str, folder: Path, short: bool, steps: int) -> list[str]:
    """The command line of a model of codes."""
    half, recipe = name == "maskgit-half", name.removesuffix("-half")
    first = {"rq-transformer": "rq-vae", "var": "var-tokenizer"}.get(recipe, "vq-vae-half" if half else "vq-vae")
    words = [recipe, *_images(short, half), f"--steps={steps}", f"--checkpoint-every={max(steps, 1)}"]
    words += ["--width=8", "--depth=1", "--heads=1", "--batch-size=4"] if short else []
    if recipe == "mar":
        return [*words, "--patch-size=2"] if short else words
    words.append(f"--first-stage={folder / first}")
    return [*words, f"--coarse={folder / 'maskgit-half'}"] if recipe == "muse" else words


def _rate(name: str, folder: Path) -> dict[str, Any]:
    """Seconds of a training step, from two short trainings."""
    if name == "muse" and train_all([{"maskgit-half": _words("maskgit-half", folder, False, _FEW)}], folder, 1):
        raise RuntimeError(f"the coarse model of muse could not be trained: see {folder}")
    seconds = []
    for steps in (_FEW, _SOME):
        words = [
            *_words(name, folder, False, steps),
            "--sample-every=0",
            f"--out={folder / 'rates' / f'{name}-{steps}'}",
        ]
        command = [sys.executable, "-m", "visgen_fast", "train", *words, "--device=cpu"]
        took, complaint = studies.run_logged(command, folder / "rates" / f"{name}.log")
        if complaint is not None:
            raise RuntimeError(f"{name} {complaint}")
        seconds.append(took)
    return {"seconds": max((seconds[1] - seconds[0]) / (_SOME - _FEW), 1e-3)}


@torch.no_grad()
def measure(folder: Path, name: str, pictures: int) -> dict[str, Any]:
    """A model's bits per image, distances, network calls for an image, and seconds for a hundred of them."""
    system, images, labels = held_out(folder / name, pictures)
    assert isinstance(system, GenerativeSystem)
    embed = trained_classifier(folder / "classifier", images.shape[1]).embedding
    seeds = ops.derive_seeds(0, torch.arange(len(images)))
    parts = list(zip(images.split(AT_A_TIME), labels.split(AT_A_TIME), seeds.split(AT_A_TIME), strict=True))
    made = [system.sample(told, own).clamp(-1, 1) for _, told, own in parts]
    drawn = [(embed(shown), embed(images)) for (shown, _, _), images in zip(parts, made, strict=True)]
    rebuilt = [(embed(shown), embed(_rebuilt(system, shown, own).clamp(-1, 1))) for shown, _, own in parts]
    asked, began = torch.arange(_DRAWN) % len(labels.unique()), time.perf_counter()
    system.sample(asked, ops.derive_seeds(1, torch.arange(_DRAWN)))
    seconds = time.perf_counter() - began
    whole, coarse = gradient_energy(images), None
    if isinstance(system, CascadeSystem):
        small = torch.cat([system.coarse.sample(told, own) for _, told, own in parts])
        coarse = gradient_energy(F.interpolate(small, scale_factor=2, mode="bicubic").clamp(-1, 1)) / whole
    return {
        "gradient_energy": gradient_energy(torch.cat(made)) / whole,
        "coarse_gradient_energy": coarse,
        "bits_per_image": _bits(system, parts[0][0], parts[0][1]),
        "fid": distances(drawn)[0],
        "rfid": distances(rebuilt)[0],
        "network_calls": system.options()["steps"],
        "seconds": seconds,
    }


def gradient_energy(images: Tensor) -> float:
    """The mean square of the differences between neighbouring pixels: how sharp images are."""
    return float(images.diff(dim=-1).square().mean() + images.diff(dim=-2).square().mean())


def _rebuilt(system: GenerativeSystem, images: Tensor, seeds: Tensor) -> Tensor:
    """The images by the first stage alone."""
    if isinstance(system, CodeSystem):
        return system.codec.decode(system.codec.encode(images))
    assert isinstance(system, PriorSystem)
    return system.first_stage.decode(system.first_stage.encode(images, seeds))


def _bits(system: GenerativeSystem, images: Tensor, labels: Tensor) -> float | None:
    """Of some of the images, since a masked model takes a pass for each code; None without a likelihood."""
    if not isinstance(system, CodeSystem):
        return None
    model, codes = system.measured, system.codec.encode(images)
    losses = nll(model, codes, labels, stepwise=not model.one_pass)
    return float(losses.double().flatten(1).sum(1).mean()) / math.log(2)


def _table(entries: Sequence[Mapping[str, Any]]) -> str:
    heads = ("model", "training steps", "bits per image", "FID", "rFID", "gradient energy", "calls", "s for 100 images")
    rows = [
        (one["run"], f"{one['steps']}", "–" if one["bits_per_image"] is None else f"{one['bits_per_image']:.1f}",
         f"{one['fid']:.3g}", f"{one['rfid']:.3g}", f"{one['gradient_energy']:.3g}", f"{one['network_calls']}",
         f"{one['seconds']:.3g}") for one in entries
    ]  # fmt: skip
    sharp = [
        f"{one['run']}'s images have {one['gradient_energy']:.2f} of the gradient energy of held-out ones; those of "
        f"its coarse model, enlarged, have {one['coarse_gradient_energy']:.2f}."
        for one in entries
        if one["coarse_gradient_energy"] is not None
    ]
    return "\n\n".join(["# Models of codes, at equal training time", as_markdown(heads, rows), *sharp])


if __name__ == "__main__":
    sys.exit(main())
