"""Two ranks, or accumulated micro-batches, do what one rank does at the same global batch.

This file is also the program that the ranks run: `torchrun --nproc-per-node N test_training_ranks.py OUT`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import visgen_fast

STEPS = 20
RUNS = {"one": (1, 1), "two ranks": (2, 1), "accumulated": (1, 2), "both": (2, 2)}  # ranks, micro-batches of a step


def train(out: Path, accumulation: int) -> None:
    """Trains a small network for `STEPS` steps; rank 0 saves every loss and the gradients of the first step."""
    from visgen_fast.recipes.rectified_flow import RECIPE
    from visgen_fast.training.loop import Trainer
    from visgen_fast.training.run import Run

    settings = RECIPE.settings_for(
        "digits",
        width=32,
        depth=2,
        heads=2,
        batch_size=32,
        steps=STEPS,
        device="cpu",
        accumulation=accumulation,
        gradient_clip=1e9,
    )
    images = RECIPE.pictures(settings)
    torch.manual_seed(0)
    system = RECIPE.system(settings, images.format)
    for parameter in system.parameters():
        # Behind zero-initialised layers all gradients would be zero, and equal for that reason.
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    trainer = Trainer(system, images, Run(out / "run", settings, identity={"recipe": "rectified-flow"}))
    gradients: dict[str, torch.Tensor] = {}

    def keep_first(*_: object) -> None:
        for name, parameter in system.named_parameters():
            gradients.setdefault(name, parameter.grad.clone())

    trainer.turns[0].optimizer.optimizer.register_step_pre_hook(keep_first)
    losses = torch.stack([trainer.accelerator.reduce(trainer.optimize()[0], "mean") for _ in range(STEPS)])
    if trainer.accelerator.is_main_process:
        save_file({**gradients, "losses": losses}, out / f"{accumulation}.safetensors")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    folders = {}
    for ranks in (1, 2):
        out = folders[ranks] = tmp_path_factory.mktemp("ranks")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        command = [sys.executable, *launcher, __file__, str(out)]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert finished.returncode == 0, finished.stderr
    return {name: load_file(folders[ranks] / f"{steps}.safetensors") for name, (ranks, steps) in RUNS.items()}


@pytest.mark.parametrize("name", [name for name in RUNS if name != "one"])
def test_the_first_gradients_equal_those_of_one_rank(results, name):
    expected = {key: tensor.double() for key, tensor in results["one"].items() if key != "losses"}
    assert len(expected) > 30 and all(tensor.any() for tensor in expected.values())
    for key, gradient in expected.items():
        assert (results[name][key].double() - gradient).norm() <= 1e-6 * gradient.norm(), key


@pytest.mark.parametrize("name", [name for name in RUNS if name != "one"])
def test_twenty_losses_equal_those_of_one_rank(results, name):
    expected = results["one"]["losses"]
    assert expected.shape == (STEPS,) and expected[-1] < expected[0]
    torch.testing.assert_close(results[name]["losses"], expected, rtol=1e-4, atol=0)


if __name__ == "__main__":
    from visgen_fast.training.place import leave_ranks

    for micro_batches in (1, 2):
        train(Path(sys.argv[1]), micro_batches)
    leave_ranks()
    assert not [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()]
