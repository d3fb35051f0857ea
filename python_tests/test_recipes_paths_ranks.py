"""Bridges and energies that networks of their own teach, on two ranks, whole or sharded, learn what they learn on one.

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
from visgen_fast.training.place import device_of_weights, leave_ranks
from visgen_fast.training.run import Run

DIT = {"width": 8, "depth": 1, "heads": 1}
TURNS = {**DIT, "turn_steps": 2, "refresh": 1, "cache": 8, "sampling_steps": 2}
RECIPES = {
    "dsb": TURNS,
    "dsb-matching": TURNS,
    "contrastive-energy": {**DIT, "per_class": 2, "chain_steps": 2, "buffer_steps": 2, "refresh": 2},
}
RANKS = {"one": (1, "ddp"), "two": (2, "ddp"), "sharded": (2, "fsdp")}
STEPS = 4


def train(out: Path, parallel: str) -> None:
    """Trains each of the recipes, and saves the losses of all ranks, and the weights of every rank that has them."""
    for name, sizes in RECIPES.items():
        recipe = load_recipe(name)
        length = {"steps": STEPS, "batch_size": 8, "device": "cpu", "warmup_steps": 0, "gradient_clip": 1e9}
        length |= {"learning_rate": 5e-3}
        settings = recipe.settings_for("digits", **{**length, **sizes}, parallel=parallel)
        torch.manual_seed(0)
        with device_of_weights(settings):
            system = build(recipe, settings, recipe.pictures(settings).format)
        for parameter in system.parameters():  # what begins at 0 would teach little
            if not parameter.is_meta:
                parameter.data += 0.02 * torch.randn_like(parameter)
        trainer = Trainer(system, recipe.pictures(settings), Run(out / name, settings, identity={}))
        losses = [torch.stack(list(trainer.optimize().losses.values())) for _ in range(STEPS)]
        found = {"losses": trainer.accelerator.reduce(torch.stack(losses), "mean")}
        if parallel == "ddp":
            found |= system.state_dict()
        save_file(found, out / f"{name}-{trainer.accelerator.process_index}.safetensors")
    leave_ranks()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Path]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, __file__, str(out)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    return {name: out / name for name in RANKS}


@pytest.mark.parametrize("name", RECIPES)
def test_two_ranks_equal_one(name, results):
    alone, first, second, shared = (
        load_file(results[ranks] / f"{name}-{rank}.safetensors")
        for ranks, rank in (("one", 0), ("two", 0), ("two", 1), ("sharded", 0))
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    moved = torch.cat([(first[key] - alone[key]).flatten().abs() for key in alone if key != "losses"])
    assert moved.max() < 1e-2 and moved.mean() < 5e-5  # Adam makes much of a gradient's last bits where it is near 0
    for other in (first, shared):
        torch.testing.assert_close(other["losses"], alone["losses"], rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    codes = []
    for name, (ranks, parallel) in RANKS.items():
        (folder := Path(sys.argv[1]) / name).mkdir()
        codes += as_ranks(ranks, partial(train, folder, parallel))
    sys.exit(any(codes))
