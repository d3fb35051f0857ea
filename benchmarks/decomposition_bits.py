"""The part `bits` of the study of decompositions: larger codes reconstruct better; are they modelled better too?"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visgen_fast.data.images import AT_A_TIME
from visgen_fast.evaluation import evaluate_tokenizer
from visgen_fast.evaluation.fid import distances
from visgen_fast.recipes.runs import trained_classifier
from visgen_fast.systems.codes import CodeSystem
from visgen_fast.tokenizers import Tokenizer

from .decomposition_measures import bits_of, differ, drawn, held_out, measured, seeds_of, spread
from .table import as_markdown

BITS = (4, 6, 8, 10, 12, 14)
_MEASURES = ("psnr", "rfid", "bits_per_image", "fid")


def stages(folder: Path, seeds: int, short: bool) -> list[dict[str, list[str]]]:
    """Command lines by name: classifier and tokenizers, then the models of their codes."""
    images = ["--dataset=digits" if short else "--dataset=fashion-mnist"]
    first = {"classifier": ["classifier", *images, f"--steps={4 if short else 1500}"]}
    second: dict[str, list[str]] = {}
    for bits in BITS:
        for seed in range(seeds):
            told = [*images, f"--steps={4 if short else 2000}", f"--seed={seed}"]
            small = ["--widths", "4", "--batch-size=4"] if short else []
            first[f"lfq-{bits}-{seed}"] = ["lfq", *told, *small, f"--bits={bits}"]
            network = ["--width=8", "--depth=1", "--heads=1", "--batch-size=4"] if short else []
            stage = f"--first-stage={folder / f'lfq-{bits}-{seed}'}"
            second[f"{bits}-{seed}"] = ["token-gpt", *told, *network, stage]
    return [first, second]


def report(folder: Path, out: Path, seeds: int, pictures: int, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and bits.png; what was measured, an entry a run."""
    entries = {
        name: measured(folder, name, lambda name=name: _measure(folder, name, pictures))
        for bits in BITS
        for name in seeds_of(str(bits), seeds)
    }
    of = {
        bits: {name: [entries[run][name] for run in seeds_of(str(bits), seeds)] for name in _MEASURES} for bits in BITS
    }
    rows = [(str(bits), *(spread(values) for values in of[bits].values())) for bits in BITS]
    best = min(BITS, key=lambda bits: fmean(of[bits]["fid"]))
    worse = [bits for bits in BITS if bits > best and differ(of[bits]["fid"], of[best]["fid"])]
    sharper = fmean(of[BITS[-1]]["psnr"]) - fmean(of[BITS[0]]["psnr"])
    verdict = (
        f"More bits reconstruct better ({sharper:+.1f} dB from {BITS[0]} to {BITS[-1]}) and are modelled worse from "
        f"{worse[0]} on: FID is least at {best}."
        if worse
        else f"FID is least at {best} bits, and no larger code is worse by more than the spread of seeds "
        f"({sharper:+.1f} dB of reconstruction from {BITS[0]} to {BITS[-1]})."
    )
    heads = ("bits of a code", "PSNR, dB", "rFID", "bits per image of the prior", "FID")
    (out / "table.md").write_text(f"# Bits\n\n{verdict}\n\n{as_markdown(heads, rows)}\n")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, 2))
    axes[0].plot(BITS, [fmean(of[bits]["psnr"]) for bits in BITS], ".-")
    axes[0].set(xlabel="bits of a code", ylabel="PSNR, dB")
    for name in ("rfid", "fid"):
        axes[1].plot(BITS, [fmean(of[bits][name]) for bits in BITS], ".-", label={"rfid": "rFID", "fid": "FID"}[name])
    axes[1].set(xlabel="bits of a code", yscale="log")
    axes[1].legend()
    figure.savefig(out / "bits.png", dpi=110)
    return list(entries.values())


@torch.no_grad()
def _measure(folder: Path, name: str, pictures: int) -> dict[str, Any]:
    system, images, labels = held_out(folder / name, pictures)
    assert isinstance(system, CodeSystem) and isinstance(system.tokenizer, Tokenizer)
    embed = trained_classifier(folder / "classifier", images.shape[1]).embedding
    rebuilt = evaluate_tokenizer(system.tokenizer, images.split(AT_A_TIME), embed=embed, prefixes=False)
    shown = [system.codec.decode(some).clamp(-1, 1) for some in drawn(system, labels).split(AT_A_TIME)]
    pairs = [(embed(one), embed(two)) for one, two in zip(images.split(AT_A_TIME), shown, strict=True)]
    return {
        "psnr": rebuilt.psnr,
        "rfid": rebuilt.rfid,
        "bits_per_image": float(bits_of(system, images, labels).flatten(1).sum(1).mean()),
        "fid": distances(pairs)[0],
    }
