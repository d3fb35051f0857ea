"""The study of noise levels: variants are paired, measured alike, and an effect is claimed only where it was seen."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import noise_levels as study
from benchmarks import noise_levels_run as worker
from benchmarks import studies, tables
from benchmarks.noise_levels_effects import MEASURES, Effect, effects, steps_to
from benchmarks.noise_levels_presets import PRESETS, Crops, Setting, _dit, changed
from benchmarks.noise_levels_report import as_document
from benchmarks.noise_levels_variants import FIRST_FOUR, LARGE_PATCHES, VARIANTS
from visgen_fast.data.images import ImageFormat, digits, held_out_part, resized, training_part
from visgen_fast.errors import UserError
from visgen_fast.models.uvit import Transformer

DIGITS = Setting(
    images=lambda folder: (training_part(resized(digits(), 16)), held_out_part(resized(digits(), 16))),
    network=_dit(16, 1),
    variants=("cosine", "shifted", *LARGE_PATCHES),
    seeds=2,
    steps=3,
    batch_size=4,
    pictures=8,
    samples=12,
)


@pytest.fixture
def small(monkeypatch):
    """A preset that trains for a moment, in this process; what was run, and variants that fail."""
    monkeypatch.setitem(PRESETS, "small", {"digits": DIGITS})
    made, broken = [], set()

    def run_logged(command, log, threads=1):
        task = json.loads(command[-2])
        made.append((task["variant"], task["seed"]))
        if task["variant"] in broken:
            return 0.0, "failed (out of luck)"
        return 0.0, None if worker.main(command[-2:]) == 0 else "failed"

    monkeypatch.setattr(studies, "run_logged", run_logged)
    return made, broken


def run(tmp_path: Path, *options: str) -> int:
    folders = [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"]
    return study.main(["--preset", "small", "--jobs=1", *folders, *options])


def entries(tmp_path: Path) -> list[dict]:
    return json.loads((tmp_path / "out" / "results.json").read_text())["entries"]


def test_every_run_is_an_entry_and_a_study_that_was_interrupted_goes_on(tmp_path, small, capsys):
    made, broken = small
    broken.add("shifted")
    assert run(tmp_path) == 1
    assert "digits, shifted, seed 1: failed (out of luck)" in capsys.readouterr().out
    assert made[0] == ("", 0) and len(made) == 1 + 2 * len(DIGITS.variants)
    assert [seed for _, seed in made[1:]] == [0] * 5 + [1] * 5  # a seed is finished before the next
    assert len(entries(tmp_path)) == 2 * 4
    made.clear()
    broken.clear()
    assert run(tmp_path) == 0 and made == [("shifted", 0), ("shifted", 1)]
    found = {(entry["variant"], entry["seed"]): entry for entry in entries(tmp_path)}
    assert len(found) == 10 and {entry["dataset"] for entry in found.values()} == {"digits"}
    evaluation = found["shifted", 1]["evaluation"]
    assert len(evaluation["log_snr"]) == len(evaluation["error"]) == len(evaluation["low_resolution_error"]) == 14
    assert evaluation["curve"]["steps"] == [1, 2, 3] and math.isfinite(evaluation["kernel_distance"])
    made.clear()
    assert run(tmp_path, "--steps=2", "--variants", "cosine", "--seeds=1") == 0
    assert made == [("", 0), ("cosine", 0)] and [entry["steps"] for entry in entries(tmp_path)] == [2]
    document = (tmp_path / "out" / "table.md").read_text()
    assert "## digits: 2 steps, 1 seed" in document and "| cosine | " in document
    for name in ("digits.png", "digits-samples.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert min(image.size) > 50


def test_an_interruption_keeps_what_was_finished(tmp_path, small, monkeypatch, capsys):
    made, _ = small
    behind = studies.run_logged

    def interrupted(command, log, threads=1):
        if len(made) == 3:
            raise KeyboardInterrupt
        return behind(command, log, threads)

    monkeypatch.setattr(studies, "run_logged", interrupted)
    monkeypatch.setattr(studies.signal, "signal", lambda *anything: None)
    assert run(tmp_path) == 1
    assert "the same command goes on from here" in capsys.readouterr().out and len(entries(tmp_path)) == 2
    monkeypatch.setattr(studies, "run_logged", behind)
    assert run(tmp_path) == 0 and len(made) == len(set(made)) == 11


def test_variants_of_a_seed_are_paired(monkeypatch, tmp_path):
    seen = []

    def optimize(self):
        batch = next(self.batches)
        seen.append((batch, {name: one.detach().clone() for name, one in self.system.prior.model.named_parameters()}))

    monkeypatch.setitem(PRESETS, "small", {"digits": DIGITS})
    monkeypatch.setattr(worker.Trainer, "optimize", optimize)
    monkeypatch.setattr(worker, "FeatureSpace", lambda *anything: Apart())
    monkeypatch.setattr(worker, "load_file", lambda *anything: None)
    monkeypatch.setattr(worker.Classifier, "of_state", lambda *anything: torch.nn.Identity())
    common = {"preset": "small", "dataset": "digits", "steps": 1, "pictures": 4, "samples": 2, "data": ""}
    for variant, seed in (("cosine", 1), ("shifted", 1), ("x, large patches", 1), ("epsilon, large patches", 1)):
        worker.train_variant(worker.Task(variant=variant, seed=seed, **common), tmp_path / "one.json")
    worker.train_variant(worker.Task(variant="cosine", seed=2, **common), tmp_path / "one.json")
    (first, weights), (same, same_weights), (large, some), (_, others), (other, _) = seen
    assert torch.equal(first.images, same.images) and torch.equal(first.seeds, large.seeds)
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert all(torch.equal(some[name], others[name]) for name in some)
    assert not torch.equal(first.seeds, other.seeds)


class Apart:
    def distance(self, images):
        return 0.0


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_all_levels_that_are_measured_and_sampled(name):
    variant = VARIANTS[name]
    objective = variant.objective()
    low, high = objective.ends()
    levels = [*worker.LEVELS, *worker._SAMPLING_LEVELS.tolist()]
    assert low < min(levels) and max(levels) < high and objective.conditioning == "log_snr"
    assert variant.baseline in VARIANTS and VARIANTS[variant.baseline].baseline == variant.baseline
    assert variant.large_patches == VARIANTS[variant.baseline].large_patches
    # Along one path the same levels are the same mixtures of image and noise.
    alpha, sigma = objective.schedule.levels(torch.tensor(levels, dtype=torch.float64))
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(alpha))


def test_predictions_are_compared_at_one_weight_of_the_levels():
    levels = torch.linspace(-10, 4, 30, dtype=torch.float64)

    def weight(name: str) -> torch.Tensor:
        implied = VARIANTS[name].objective().implied_weight(levels)
        return implied / implied.sum()

    for name in LARGE_PATCHES[1:]:
        torch.testing.assert_close(weight(name), weight("v, large patches"))
    torch.testing.assert_close(weight("x-prediction"), weight("cosine"))
    torch.testing.assert_close(weight("sigmoid"), torch.sigmoid(-1 - levels) / torch.sigmoid(-1 - levels).sum())
    for setting in PRESETS["cpu"].values():
        assert setting.seeds == 3 and setting.variants[:4] == FIRST_FOUR


def formats(preset: str) -> dict[str, ImageFormat]:
    sizes = {"fashion-mnist": (1, 64), "photographs": (3, 64), "photographs-128": (3, 128), "photographs-256": (3, 256)}
    return {
        name: ImageFormat(height=size, width=size, channels=channels, class_names=("a", "b"))
        for name, (channels, size) in sizes.items()
        if name in PRESETS[preset]
    }


def test_patches_have_fewer_numbers_than_tokens_unless_they_are_large():
    for dataset, images in formats("cpu").items():
        for large in (False, True):
            network = PRESETS["cpu"][dataset].network(images, large)
            assert (images.channels * network.patch_size**2 > network.width) == large


def test_a_gpu_trains_a_transformer_on_256_positions_of_pixels():
    for dataset, images in formats("gpu").items():
        with torch.device("meta"):
            network = PRESETS["gpu"][dataset].network(images, False)
        assert 20e6 < sum(parameter.numel() for parameter in network.parameters()) < 30e6
        assert [one.grid for one in network.modules() if isinstance(one, Transformer)] == [(16, 16)]


def test_an_effect_is_seen_where_all_pairs_agree_beyond_twice_the_standard_error():
    assert Effect((-0.3, -0.32, -0.28)).seen and Effect((0.5, 0.2, 0.4)).seen
    assert not Effect((-0.3, -0.32, 0.01)).seen and not Effect((0.01, 0.5, 0.02)).seen
    assert not Effect((-0.3,)).seen and Effect((math.inf, math.inf)).seen and not Effect((math.inf, -0.1)).seen
    assert Effect((-0.2, -0.4)).standard_error == pytest.approx(0.1)


def evaluation(scale: float, distance: float = 1.0) -> dict:
    levels = [float(level) for level in range(-9, 5)]
    losses = [scale * 8 / step for step in (1, 2, 4, 8)]
    return {
        **{"log_snr": levels, "error": [scale] * 14, "low_resolution_error": [scale / 2] * 14},
        **{"importance_weighted_loss": scale, "kernel_distance": distance, "kernel_distance_of_images": 0.01},
        "curve": {"steps": [100, 200, 400, 800], "importance_weighted_loss": losses},
    }


def test_steps_to_a_loss_lie_between_two_points_of_the_curve():
    found = evaluation(1.0)
    assert steps_to(found, 1.0) == 800 and steps_to(found, 9.0) == 100 and steps_to(found, 0.5) == math.inf
    assert steps_to(found, math.sqrt(8)) == pytest.approx(300)


def stored_entries(changes: tuple[float, ...]) -> list[dict]:
    base = {"dataset": "photographs", "steps": 800}
    made = []
    for seed, change in enumerate(changes):
        made.append({**base, "variant": "cosine", "seed": seed, "evaluation": evaluation(1 + 0.1 * seed)})
        better = evaluation((1 + 0.1 * seed) * change, distance=change)
        made.append({**base, "variant": "shifted", "seed": seed, "evaluation": better})
    return made


def test_the_table_claims_what_was_seen_alone():
    baselines = {name: variant.baseline for name, variant in VARIANTS.items()}
    found = effects(stored_entries((0.7, 0.72, 0.68)), baselines)["shifted"]
    assert [one.text(found[one.name]) for one in MEASURES] == ["**-30%** ± 1"] * 4 + ["**-26%** ± 1", "**-30%** ± 1"]
    document = as_document(stored_entries((0.7, 1.2, 0.9)), study._descriptions())
    row = next(line for line in document.splitlines() if line.startswith("| shifted "))
    assert row.count("not seen") == 6
    assert effects(stored_entries((0.7,)), baselines)["shifted"]["kernel distance"].differences == pytest.approx(
        (-0.3,)
    )
    document = as_document(stored_entries((1.3,)), study._descriptions())
    assert "one pair: +30%" in document and "one pair: never" in document
    never = effects(stored_entries((1.3, 1.2)), baselines)["shifted"]
    assert MEASURES[4].text(never[MEASURES[4].name]) == "never"


def test_pages_hold_what_the_study_found(tmp_path):
    page, results = tmp_path / "docs" / "page.md", tmp_path / "benchmarks" / "results" / "noise_levels"
    page.parent.mkdir()
    (tmp_path / "README.md").write_text("<!-- noise levels seen -->\n<!-- /noise levels seen -->\n")
    page.write_text("<!-- noise levels -->\n<!-- /noise levels -->\n")
    assert tables.main([f"--repository={tmp_path}", "--check"]) == 0
    head = {"variants": study._descriptions(), "versions": {"torch": "2"}, "commit": "c", "date": "2026-11-30T"}
    found = stored_entries((0.7, 0.72, 0.68))
    studies.write_results(results / "results.json", head, found)
    assert tables.main([f"--repository={tmp_path}"]) == 0 and tables.main([f"--repository={tmp_path}", "--check"]) == 0
    assert "On photographs at 64²: *shifted* **-30%** ± 1." in (tmp_path / "README.md").read_text()
    text = page.read_text()
    assert "| shifted | **-30%** ± 1 |" in text and "- *cosine*: the cosine schedule" in text
    for linked in ("photographs.png", "photographs-samples.png", "table.md"):
        assert f"](../benchmarks/results/noise_levels/{linked})" in text


def test_crops_of_a_folder_are_cut_from_all_its_large_photographs(tmp_path):
    small, large = Image.new("RGB", (100, 40)), Image.new("RGB", (90, 70), (200, 10, 10))
    for name, image in (("a", small), ("b", large), ("c", Image.new("RGB", (80, 64), (10, 200, 10)))):
        image.save(tmp_path / f"{name}.jpg", quality=95)
    crops = Crops(tmp_path, 16)
    pixels, labels, complaints = crops.read([0, 1, 19_998])
    assert pixels.shape == (3, 3, 16, 16) and pixels.dtype == torch.uint8 and not complaints and len(crops) == 20_000
    assert labels.tolist() == [0, 1, 0] and pixels[0, 0].float().mean() > 180 and pixels[1, 1].float().mean() > 180
    with pytest.raises(UserError, match="holds no photograph .* of 128 pixels a side: install the Debian package"):
        Crops(tmp_path, 32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--datasets", "photographs-128"], "--datasets of the preset cpu are fashion-mnist, photographs"),
        (["--seeds=0"], "--seeds must be at least 1, got 0"),
        (["--samples=1"], "--samples must be at least 2, got 1"),
    ],
)
def test_mistakes_are_answered(options, said, capsys):
    with pytest.raises(SystemExit):
        study.main(options)
    assert said in capsys.readouterr().err


def test_settings_change_by_what_is_given_alone():
    assert changed(DIGITS, steps=7, seeds=None) == dataclasses.replace(DIGITS, steps=7)
