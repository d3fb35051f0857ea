"""Paths, flows and energies on two ranks learn what they learn on one.

This file is also the program that the ranks run: `python test_recipes_paths_ranks.py OUT`.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from ranks import as_ranks
from safetensors.torch import load_file, save_file

import visgen_fast
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build
from visgen_fast.training.loop import Trainer
from visgen_fast.training.place import leave_ranks
from visgen_fast.training.run import Run

DIT = {"width": 8, "depth": 1, "heads": 1}
TURNS = {**DIT, "turn_steps": 2, "refresh": 1, "cache": 8, "sampling_steps": 2}
RECIPES = {
    "dsb": TURNS,
    "dsb-matching": TURNS,
    "tar-flow": {**DIT, "blocks": 2},
    "contrastive-energy": {**DIT, "per_class": 2, "chain_steps": 2, "buffer_steps": 2, "refresh": 2},
}
STEPS = 5


def train(out: Path) -> None:
    """Trains each of the recipes, and saves the weights of every rank."""
    for name, sizes in RECIPES.items():
        recipe = load_recipe(name)
        length = {"steps": STEPS, "batch_size": 8, "device": "cpu", "warmup_steps": 0, "gradient_clip": 1e9}
        settings = recipe.settings_for("digits", **{**length, **sizes})
        torch.manual_seed(0)
        system = build(recipe, settings, recipe.pictures(settings).format)
        for parameter in system.parameters():  # what begins at 0 would teach little
            parameter.data += 0.02 * torch.randn_like(parameter)
        trainer = Trainer(system, recipe.pictures(settings), Run(out / name, settings, identity={}))
        for _ in range(STEPS):
            trainer.optimize()
        save_file(system.state_dict(), out / f"{name}-{trainer.accelerator.process_index}.safetensors")
    leave_ranks()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, Path]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, __file__, str(out)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    return {ranks: out / str(ranks) for ranks in (1, 2)}


@pytest.mark.parametrize("name", RECIPES)
def test_two_ranks_equal_one(name, results):
    alone, first, second = (
        load_file(results[ranks] / f"{name}-{rank}.safetensors") for ranks, rank in ((1, 0), (2, 0), (2, 1))
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    moved = torch.cat([(first[key] - alone[key]).flatten().abs() for key in alone])
    assert moved.max() < 2e-3 and moved.mean() < 1e-5  # Adam makes much of a gradient's last bits where it is near 0


if __name__ == "__main__":
    codes = []
    for ranks in (1, 2):
        (folder := Path(sys.argv[1]) / str(ranks)).mkdir()
        codes += as_ranks(ranks, partial(train, folder))
    sys.exit(any(codes))
