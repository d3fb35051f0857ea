"""The part `outliers` of the study of latent models: does a likelihood tell what does not belong?

A VAE with a logistic likelihood, of clothing and of digits: each is asked about the images of the other, about noise,
and about its own held-out images mirrored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from visgen_fast.commands.outliers import outliers
from visgen_fast.recipes.runs import trained
from visgen_fast.training import checkpoint

from .table import as_markdown

SEEDS = (0, 1, 2)
OTHERS = {"fashion-mnist": "mnist", "mnist": "fashion-mnist"}
MEASURES = ("likelihood", "complexity", "typicality", "reconstruction", "confidence")


def trainings(short: bool) -> dict[str, list[str]]:
    """Command lines by name: of each data set a classifier, and a VAE by each seed."""
    common = ["--checkpoint-every=1000", "--keep-checkpoints=1"]
    found = {}
    for name in OTHERS:
        told = [*common, f"--dataset={name}"]
        found[f"classifier-{name}"] = ["classifier", *told, f"--steps={2 if short else 1500}"]
        for seed in _seeds(short):
            words = ["vae", *told, "--likelihood=logistic", "--latents=16", f"--steps={2 if short else 5000}"]
            found[f"vae-{name}-{seed}"] = [*words, f"--seed={seed}"]
    return found


def _seeds(short: bool) -> tuple[int, ...]:
    return SEEDS[:1] if short else SEEDS


def report(runs: Mapping[str, Path], out: Path, short: bool) -> list[dict[str, Any]]:
    """Writes table.md, and the histograms of the first seed for each pair of sets; what was measured."""
    entries: list[dict[str, Any]] = []
    for name, other in OTHERS.items():
        for seed in _seeds(short):
            saved = checkpoint.read(runs[f"vae-{name}-{seed}"])
            recipe, settings, system = trained(saved)
            for outside in (other, "noise", "mirrored"):
                told = f"{name}-{outside}"
                folder = out / told if seed == SEEDS[0] else runs[f"vae-{name}-{seed}"] / told
                judged: dict[str, Any] = {"classifier": str(runs[f"classifier-{name}"])}
                judged["pictures"] = 40 if short else 1000
                outliers(outside, system, recipe, settings, folder, {}, torch.device("cpu"), **judged)
                found = json.loads((folder / "outliers.json").read_text())["auroc"]
                entries.append({"of": name, "outside": outside, "seed": seed, **found})
    rows = [
        (name, outside, *(_spread(entries, name, outside, measure) for measure in MEASURES))
        for name, other in OTHERS.items()
        for outside in (other, "noise", "mirrored")
    ]
    (out / "table.md").write_text(
        f"# Images that don't belong\n\nAUROC of a VAE with a logistic likelihood, by {len(_seeds(short))} seeds: the "
        "mean, least … most. An outlier set's images are told from as many held-out ones of the first set.\n\n"
        + as_markdown(("trained on", "outliers", *MEASURES), rows)
        + "\n"
    )
    return entries


def _spread(entries: list[dict[str, Any]], name: str, outside: str, measure: str) -> str:
    values = [entry[measure] for entry in entries if (entry["of"], entry["outside"]) == (name, outside)]
    return f"{fmean(values):.2f} ({min(values):.2f} … {max(values):.2f})"
