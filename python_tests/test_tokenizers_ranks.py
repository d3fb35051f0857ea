"""Two ranks train a tokenizer as one does, and agree on its codebook to the last bit.

This file is also the program that the ranks run: `torchrun --nproc-per-node 2 test_tokenizers_ranks.py OUT`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_tokenizers_training import tiny_system, trainer_of

import visgen_fast
from visgen_fast.models.discriminator import PatchDiscriminator
from visgen_fast.systems.tokenizer import ReconstructionLoss

STEPS = 4


def train(out: Path, name: str, **options) -> None:
    """Trains for `STEPS` steps of two micro-batches each; each rank saves its losses, weights and buffers."""
    trainer = trainer_of(tiny_system(**options), out / name, accumulation=2)
    losses = torch.stack([trainer.accelerator.reduce(trainer.optimize()[0], "mean") for _ in range(STEPS)])
    rank = trainer.accelerator.process_index
    save_file({**trainer.system.state_dict(), "losses": losses}, out / f"{name}-{rank}.safetensors")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    out = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launcher, __file__, str(out)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    train(out, "one")
    return {path.stem: load_file(path) for path in out.glob("*.safetensors")}


def test_two_ranks_have_the_losses_and_the_codebook_of_one(results):
    for name in ("losses", "tokenizer.quantizer.codebook.embedding", "tokenizer.quantizer.codebook.average_size"):
        torch.testing.assert_close(results["plain-0"][name], results["one-0"][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "adversarial"])
def test_the_ranks_agree_to_the_last_bit(results, name):
    first, second = results[f"{name}-0"], results[f"{name}-1"]
    assert len(first) > 30 and first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


if __name__ == "__main__":
    from visgen_fast.training.place import leave_ranks

    train(Path(sys.argv[1]), "plain")
    torch.manual_seed(1)
    judge = PatchDiscriminator(channels=1, width=4, layers=1)
    train(Path(sys.argv[1]), "adversarial", loss=ReconstructionLoss(adversarial=0.5), discriminator=judge)
    leave_ranks()
    assert not [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()]
