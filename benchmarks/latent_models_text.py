"""The part `text` of the study of latent models: do captions that were never seen draw what their words say?"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visgen_fast.data.emoji import emoji
from visgen_fast.data.images import to_range
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.generative import draw_samples
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.training.figures import image_grid

from . import latent_models_pairs as pairs
from .table import as_markdown

ATTENTIONS, GUIDANCE, SIZE = ("cross", "joint"), (1.0, 2.0, 4.0), 32
_RECIPE = Path(pairs.__file__)
_AMONG, _SHOWN = 100, 12


def trainings(short: bool) -> dict[str, list[str]]:
    """Command lines by name."""
    sizes = ["--width=32", "--depth=1", "--steps=4"] if short else ["--width=128", "--depth=6", "--steps=6000"]
    common = [
        *(str(_RECIPE), "--dataset=emoji", f"--size={SIZE}", "--patch-size=4", "--heads=4", "--batch-size=64"),
        *("--learning-rate=0.001", "--lr-schedule=cosine", "--ema-decay=0.999"),
        *("--checkpoint-every=1000", "--keep-checkpoints=1", "--sampling-steps=25"),
    ]
    return {name: [*common, *sizes, f"--attention={name}"] for name in ATTENTIONS}


def report(runs: Mapping[str, Path], out: Path, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and a grid for each run; what was measured."""
    images = emoji(SIZE)
    known, chosen = pairs.people(images.format.class_names), pairs.held_out(images.format.class_names)
    if short:
        chosen = chosen[:4]
    pixels = to_range(images.pixels)
    entries: list[dict[str, Any]] = []
    for name, run in runs.items():
        system = load_system(run, recipe=_RECIPE)
        assert isinstance(system, PriorSystem)
        rows = {"right": pixels[[known[person][tone] for person, tone in chosen]]}
        for scale in GUIDANCE:
            labels = [known[person][tone] for person, tone in chosen]
            drawn = draw_samples(system, labels, 1, seed=0, device="cpu", guidance=scale)[:, 0].clamp(-1, 1)
            rows[f"guidance {scale:g}"] = drawn
            entries.append({"run": name, "guidance": scale, **_shares(drawn, pixels, known, chosen)})
        image_grid(torch.stack([some[:_SHOWN] for some in rows.values()]), list(rows)).save(out / f"{name}.png")
    table = [
        (entry["run"], f"{entry['guidance']:g}", f"{100 * entry['variant']:.1f}%", f"{100 * entry['person']:.1f}%")
        for entry in entries
    ]
    (out / "table.md").write_text(
        f"# Text to image\n\nEmoji of people at {SIZE}×{SIZE} pixels. {len(chosen)} pairs of a person and a tone of "
        "skin were held out, both seen in other pairs. A drawn picture is right where, of all candidates, the pair's "
        f"own is nearest in pixels: among the variants of this person, and among {_AMONG} persons of this tone.\n\n"
        + as_markdown(("attention", "guidance", "right variant", "right person"), table)
        + "\n"
    )
    return entries


def _shares(
    drawn: Tensor, pixels: Tensor, known: dict[str, dict[str, int]], chosen: list[tuple[str, str]]
) -> dict[str, float]:
    """How often a drawn picture is nearest to its own: among the person's variants, and among persons of the tone."""
    right = {"variant": 0, "person": 0}
    for place, (image, (person, tone)) in enumerate(zip(drawn, chosen, strict=True)):
        own = known[person][tone]
        others = random.Random(place).sample(sorted(known.keys() - {person}), _AMONG - 1)
        candidates = {
            "variant": list(known[person].values()),
            "person": [own, *(known[other][tone] for other in others)],
        }
        for kind, numbers in candidates.items():
            distances = (pixels[numbers] - image).square().sum((1, 2, 3))
            right[kind] += numbers[int(distances.argmin())] == own
    return {kind: count / len(chosen) for kind, count in right.items()}
