"""Schedules, weights and times that learn, in a run: trained, averaged, in checkpoints, the same on ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from visgen_fast import cli
from visgen_fast.diffusion import AdaptiveTimes, UniformTimes
from visgen_fast.recipes.runs import load_system
from visgen_fast.training import checkpoint

TINY = [
    "--dataset=digits",
    "--batch-size=8",
    "--device=cpu",
    "--width=8",
    "--depth=1",
    "--heads=1",
    "--sampling-steps=1",
]
RECIPE = '''"""Everything that can learn does."""

import torch

from visgen_fast.diffusion import AdaptiveTimes, ELBO, LearnedVP, LowDiscrepancyTimes, Uncertainty, UniformTimes
from visgen_fast.recipes import rectified_flow
from visgen_fast.recipes._diffusion import dit_system
from visgen_fast.recipes.recipe import Recipe


def system(settings, images):
    times = LowDiscrepancyTimes(AdaptiveTimes(UniformTimes(), bins=5))
    schedule = LearnedVP(-8, 8, features=4)
    return dit_system(
        settings, images, schedule, "v", times, weight=Uncertainty(ELBO(), features=3), conditioning="log_snr"
    )


RECIPE = Recipe(rectified_flow.Settings, rectified_flow.RECIPE.pictures, system)
'''
PARTS = {"schedule.line", "schedule.bends", "schedule.offsets", "schedule.shares", "weight.linear"}
BUFFERS = {"times.times.losses", "times.times.counts", "weight.frequencies", "weight.phases"}


def weights(run: Path, part: str) -> dict[str, torch.Tensor]:
    return checkpoint.read(run).tensors(part)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "learns.py"
    path.write_text(RECIPE)
    return path


def test_what_learns_is_trained_averaged_and_goes_on_where_it_stopped(recipe: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert cli.main(["train", str(recipe), f"--out={whole}", *TINY, "--steps=4"]) == 0
    assert cli.main(["train", str(recipe), f"--out={halves}", *TINY, "--steps=2"]) == 0
    begun = weights(halves, "weights")
    assert cli.main(["train", str(recipe), f"--out={halves}", *TINY, "--steps=4", "--resume"]) == 0
    ended = weights(halves, "weights")
    names = {name.removeprefix("prior.objective.") for name in ended if name.startswith("prior.objective.")}
    assert names == PARTS | BUFFERS
    for name in PARTS | {"times.times.losses", "times.times.counts"}:
        assert not torch.equal(begun[f"prior.objective.{name}"], ended[f"prior.objective.{name}"]), name
    for part in ("weights", "average"):
        one, other = weights(whole, part), weights(halves, part)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    averaged, trained = weights(whole, "average"), weights(whole, "weights")
    assert not torch.equal(averaged["prior.objective.schedule.line"], trained["prior.objective.schedule.line"])
    system = load_system(whole, recipe=recipe)
    assert torch.equal(system.prior.objective.schedule.line, averaged["prior.objective.schedule.line"])


def test_accumulated_micro_batches_note_the_same_losses(recipe: Path, tmp_path: Path) -> None:
    at_once, parts = tmp_path / "once", tmp_path / "parts"
    for out, accumulation in ((at_once, 1), (parts, 4)):
        options = [f"--accumulation={accumulation}", "--steps=3"]
        assert cli.main(["train", str(recipe), f"--out={out}", *TINY, *options]) == 0
    one, other = weights(at_once, "weights"), weights(parts, "weights")
    for name in ("losses", "counts"):
        key = f"prior.objective.times.times.{name}"
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-6)


def test_averages_are_summed_over_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks as two objects, whose sums meet in the place of the collective."""
    t, losses = torch.tensor([0.1, 0.3, 0.5, 0.9, 0.95, 0.2]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    alone, first, second = (AdaptiveTimes(UniformTimes(), bins=4) for _ in range(3))
    alone.observe(t, losses)
    first.observe(t[:2], losses[:2])
    second.observe(t[2:], losses[2:])
    sums = [times._seen for times in (first, second)]
    alone.after_step()
    monkeypatch.setattr("visgen_fast.diffusion.adaptive_times.sum_over_ranks", lambda tensors: [sums[0] + sums[1]])
    for times in (first, second):
        times.after_step()
        assert torch.equal(times.shares(), alone.shares())
