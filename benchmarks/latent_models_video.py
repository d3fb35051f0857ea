"""The part `video` of the study of latent models: do digits move as captions say, and stay what they are?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from visgen_fast.commands.clips import save
from visgen_fast.data.datasets import DATASETS
from visgen_fast.data.images import evenly, to_range
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.classifier import ClassifierSystem
from visgen_fast.systems.clips import ClipSystem
from visgen_fast.systems.video_tokenizer import VideoTokenizerSystem
from visgen_fast.training.figures import image_grid

from . import latent_models_frames as frames
from . import latent_models_motion as motion
from .table import as_markdown

SEEDS, FRAMES, STREAMED, LONG = (0, 1, 2), 8, 13, 32
CHUNKS = ((1, 4, 4, 4), (1, 8, 4), (1, 12))
# Frames that are given, and the one after them that is measured, counted from 0.
GIVEN, MEASURED = 2, 6
_PLANS = ("one_by_one", "together")
_GUIDANCE, _STEPS, _LONG_STEPS = 2.0, 20, 10
_SHOWN = 8
_CLASSIFIER = Path(frames.__file__)


def trainings(short: bool) -> dict[str, list[str]]:
    """Command lines by name."""
    common = ["--checkpoint-every=500", "--keep-checkpoints=1"]
    tokenizer = ["--widths", "4", "8", "8", "--steps=3", "--batch-size=4"] if short else ["--steps=600"]
    sizes = ["--width=32", "--depth=1", "--steps=4"] if short else ["--width=128", "--depth=4", "--steps=2200"]
    flow = [
        *("text-to-video", *common, f"--frames={FRAMES}", "--attention=classes", "--patch-size=5", "--batch-size=32"),
        *("--learning-rate=0.002", "--lr-schedule=cosine", "--ema-decay=0.99", *sizes),
    ]
    return {
        "classifier": [str(_CLASSIFIER), *common, f"--steps={4 if short else 1000}"],
        "tokenizer": ["video-tokenizer", *common, f"--frames={STREAMED}", *tokenizer],
        **{f"flow-{seed}": [*flow, f"--seed={seed}"] for seed in (SEEDS[:1] if short else SEEDS)},
    }


def report(runs: Mapping[str, Path], out: Path, short: bool) -> list[dict[str, Any]]:
    """Writes table.md, strips and GIFs; what was measured."""
    judge = load_system(runs["classifier"], recipe=_CLASSIFIER)
    assert isinstance(judge, ClassifierSystem)

    @torch.no_grad()
    def classify(images: Tensor) -> Tensor:
        return judge.classifier(images).argmax(1)

    held_out = DATASETS["moving-digits"].held_out
    assert held_out is not None
    images = held_out(None, frames.SIZE, FRAMES)
    count, long = (8, 4) if short else (160, 20)
    pixels, labels, _ = images.read(evenly(len(images), count))
    real, names = to_range(pixels), images.format.class_names
    entries = [{"run": "held out", **motion.motion(real, labels), **motion.digits(real, labels, classify)}]
    for seed in [int(name.removeprefix("flow-")) for name in runs if name.startswith("flow-")]:
        system = load_system(runs[f"flow-{seed}"])
        assert isinstance(system, ClipSystem)
        drawn = _Drawn(system, 2 if short else _STEPS)
        clips = drawn(labels)
        entry: dict[str, Any] = {"run": f"flow-{seed}", **motion.motion(clips, labels)}
        entry |= motion.digits(clips, labels, classify)
        continued = drawn(labels, context=real[:, :, :GIVEN])
        away = motion.apart(continued, real, MEASURED)
        entry |= {"after_two": float(away.mean()), "after_two_within": float((away <= 1.5).double().mean())}
        some = evenly(len(labels), long)
        rolled = {}
        for plan in _PLANS:
            rolled[plan] = drawn(labels[some], frames=LONG, frame_plan=plan, steps=2 if short else _LONG_STEPS)
            entry[f"{plan}_last"] = motion.digits(rolled[plan], labels[some], classify)["last"]
        entries.append(entry)
        if seed == SEEDS[0]:
            shown = evenly(len(labels), _SHOWN)
            captions = [names[labels[place]] for place in shown]
            save(clips[shown][:, None], captions, (), (), out / "clips.png", {})
            pairs = torch.stack((real[shown], continued[shown]), 1).flatten(0, 1).transpose(1, 2)
            image_grid(pairs, ["held out", "two given"] * len(shown)).save(out / "continued.png")
            for plan in _PLANS:
                words = [names[labels[place]] for place in some[:_SHOWN]]
                save(rolled[plan][:_SHOWN, None], words, (), (), out / f"long-{plan}.png", {})
    entries.append({"run": "tokenizer", **_streamed(runs["tokenizer"])})
    (out / "table.md").write_text(_table(entries, count, long))
    return entries


class _Drawn:
    """Clips of labels, each by a seed that is its place, 40 at a time."""

    def __init__(self, system: ClipSystem, steps: int) -> None:
        self.system, self.steps = system, steps

    def __call__(self, labels: Tensor, *, context: Tensor | None = None, **options: Any) -> Tensor:
        found = []
        for places in torch.arange(len(labels)).split(40):
            given = {} if context is None else {"context": context[places]}
            asked = {"steps": self.steps, "guidance": _GUIDANCE, **options, **given}
            found.append(self.system.sample(labels[places], places, **asked))
        return torch.cat(found).clamp(-1, 1)


@torch.no_grad()
def _streamed(run: Path) -> dict[str, Any]:
    """The largest differences of clips decoded in chunks from those decoded whole, and how good the tokenizer is."""
    system = load_system(run)
    assert isinstance(system, VideoTokenizerSystem)
    held_out = DATASETS["moving-digits"].held_out
    assert held_out is not None
    clips = to_range(held_out(None, frames.SIZE, STREAMED).read(range(16))[0])
    tokenizer = system.tokenizer
    latents = tokenizer.encode_latents(clips, None)
    whole = tokenizer.decode_latents(latents)
    found = {}
    for chunks in CHUNKS:
        parts = latents.split([1, *(chunk // 4 for chunk in chunks[1:])], 2)
        streamed = torch.cat(list(tokenizer.decoder.stream(parts)), 2)
        found[",".join(map(str, chunks))] = float((streamed - whole).abs().max())
    error = (whole.clamp(-1, 1) - clips).square().mean()
    return {"streamed": found, "psnr": float(10 * torch.log10(4 / error))}


def _table(entries: list[dict[str, Any]], count: int, long: int) -> str:
    real, *flows, tokenizer = entries
    measures = {
        "moves as captioned, of clips that set out away from walls": ("as_captioned", "90%", "share"),
        "deviation of its steps away from walls, over their mean": ("variation", "20%", "share"),
        "first and last frame of one class": ("one_class", "85%", "share"),
        f"distance in frame {MEASURED} after {GIVEN} given frames, pixels": ("after_two", "1.5", "pixels"),
        f"frame {LONG} of the caption's class, one by one": ("one_by_one_last", "70%", "share"),
        f"frame {LONG} of the caption's class, one common level": ("together_last", "", "share"),
    }
    rows = []
    for title, (name, asked, unit) in measures.items():
        values = [entry[name] for entry in flows]
        told = [f"{100 * value:.1f}%" if unit == "share" else f"{value:.2f}" for value in (fmean(values), *values)]
        own = "" if name not in real else f"{100 * real[name]:.1f}%"
        rows.append((title, asked, own, told[0], " ".join(told[1:])))
    streamed = ", ".join(f"{difference:.1e} for {name}" for name, difference in tokenizer["streamed"].items())
    return (
        f"# Video\n\nMoving digits, {FRAMES} frames of {frames.SIZE}×{frames.SIZE} pixels, drawn in {_STEPS} steps "
        f"with guidance {_GUIDANCE:g}: {count} clips, of {long} the long ones; {len(flows)} seeds of the training. "
        f"Classes are a classifier's, which is right in {100 * real['first']:.1f}% of held-out first frames.\n\n"
        + as_markdown(("measure", "asked", "held-out clips", "mean", "by seed"), rows)
        + f"\n\nA tokenizer's clip of {STREAMED} frames, decoded in chunks, differs from that decoded whole by at most "
        f"{streamed}; PSNR {tokenizer['psnr']:.1f} dB.\n"
    )
