"""Players in turns on two ranks do what they do on one.

This file is also the program that the ranks run: `torchrun --nproc-per-node 2 test_training_turns_ranks.py OUT`.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from games import Game, few_digits
from safetensors.torch import load_file, save_file

import visgen_fast
from visgen_fast.errors import UserError
from visgen_fast.training import checkpoint
from visgen_fast.training.loop import Trainer
from visgen_fast.training.place import leave_ranks, on_main_rank
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings

STEPS = 7
PLAYERS = ("generator", "adversary", "critic")


def train(out: Path, accumulation: int) -> None:
    """Trains a game in two goes; each rank saves its weights, the losses of all ranks, and the first gradients."""
    game = Game(every=2, start=3)
    settings = {"batch_size": 16, "device": "cpu", "learning_rate": 0.01, "accumulation": accumulation}
    settings |= {"warmup_steps": 0, "sample_every": 0, "gradient_clip": 1e9}
    gradients: dict[str, torch.Tensor] = {}
    losses = {name: [] for name in PLAYERS}

    def keep_first(*_: object) -> None:
        for name, parameter in game.named_parameters():
            if parameter.grad is not None:
                gradients.setdefault(f"gradient {name}", parameter.grad.clone())

    for steps in (4, STEPS):
        run = Run(out / f"run-{accumulation}", TrainingSettings(steps=steps, **settings), identity={}, resume=True)
        trainer = Trainer(game, few_digits(), run)
        for turn in trainer.turns:
            turn.optimizer.optimizer.register_step_pre_hook(keep_first)
        while trainer.step < steps:
            for name, loss in trainer.optimize().losses.items():
                losses[name].append(trainer.accelerator.reduce(loss, "mean"))
        trainer.save()
        run.close()
    with pytest.raises(UserError, match=r"\Ano\Z"):
        on_main_rank(trainer.accelerator, partial(fail, UserError("no")))
    with pytest.raises(ValueError if trainer.accelerator.is_main_process else RuntimeError, match="wrong"):
        on_main_rank(trainer.accelerator, partial(fail, ValueError("wrong")))  # the other rank must not wait for ever
    found = {**gradients, **{f"losses {name}": torch.stack(some) for name, some in losses.items()}}
    save_file({**game.state_dict(), **found}, out / f"{accumulation}-{trainer.accelerator.process_index}.safetensors")


def fail(error: Exception) -> None:
    raise error


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    found = {}
    for ranks in (1, 2):
        out = tmp_path_factory.mktemp("ranks")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        command = [sys.executable, *launcher, __file__, str(out)]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert finished.returncode == 0, finished.stderr
        found |= {f"{ranks}-{path.stem}": load_file(path) for path in out.glob("*.safetensors")}
        assert checkpoint.read(out / "run-1").state["ranks"] == ranks
    return found


@pytest.mark.parametrize("name", ["1-2-0", "2-1-0", "2-2-0"])
def test_gradients_and_losses_of_every_player_equal_those_of_one_rank(results, name):
    expected = results["1-1-0"]
    gradients = [key for key in expected if key.startswith("gradient")]
    assert {key.split()[1].partition(".")[0] for key in gradients} == set(PLAYERS)
    for key in gradients:
        # The generator's are its first ones, those of the others come after steps that rounded otherwise.
        bound = 1e-6 if "generator" in key else 1e-4
        assert (results[name][key] - expected[key]).double().norm() <= bound * expected[key].double().norm(), key
    for player, turns in zip(PLAYERS, (STEPS, 4, 4), strict=True):
        losses = expected[f"losses {player}"]
        assert losses.shape == (turns,)
        torch.testing.assert_close(results[name][f"losses {player}"], losses, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_ranks_agree_to_the_last_bit(results, accumulation):
    first, second = results[f"2-{accumulation}-0"], results[f"2-{accumulation}-1"]
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


if __name__ == "__main__":
    for micro_batches in (1, 2):
        train(Path(sys.argv[1]), micro_batches)
    leave_ranks()
    assert not [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()]
