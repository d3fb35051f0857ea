"""A run that was killed and resumed equals one that never stopped, bit for bit."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import visgen_fast

STEPS = 80
SETTINGS = [
    "--width=16",
    "--depth=2",
    "--heads=2",
    "--dropout=0.3",
    "--batch-size=16",
    "--horizontal-flip",
    f"--steps={STEPS}",
]
SETTINGS += [
    "--horizontal-flip",
    "--device=cpu",
    "--checkpoint-every=10",
    "--log-every=7",
    "--sample-every=0",
    "--sampling-steps=2",
]


LONG = 600  # seconds: no test's outcome depends on how fast the machine is
KILLED_AT = 27
DYING = f"""
import os, signal, sys
from visgen_fast import cli
from visgen_fast.training.loop import Trainer

def optimize(trainer, whole=Trainer.optimize):
    if trainer.step == {KILLED_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(trainer)

Trainer.optimize = optimize
sys.exit(cli.main(sys.argv[1:]))
"""


def train(out: Path, *more: str, program: Sequence[str] = ("-m", "visgen_fast")) -> subprocess.CompletedProcess:
    """A run in a process of its own; one that takes too long is ended."""
    command = [sys.executable, *program, "train", "rectified-flow", f"--out={out}", *SETTINGS, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONG)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of an uninterrupted run and of one that was killed between two checkpoints, then resumed."""
    straight, resumed = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("resumed")
    finished = train(straight)
    assert finished.returncode == 0, finished.stderr
    killed = train(resumed, program=("-c", DYING))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(path.name for path in (resumed / "checkpoints").iterdir()) == ["step-00000010", "step-00000020"]
    assert not (resumed / "samples.png").exists()
    finished = train(resumed, "--resume")
    assert finished.returncode == 0, finished.stderr
    return straight, resumed


def test_weights_average_and_optimizer_are_equal_to_the_last_bit(runs):
    straight, resumed = (run / "checkpoints" / f"step-{STEPS:08d}" for run in runs)
    for part in ("weights", "average", "optimizer"):
        name = f"{part}.safetensors"
        assert (straight / name).read_bytes() == (resumed / name).read_bytes()
    assert (straight / "state.json").read_text() == (resumed / "state.json").read_text()


def test_losses_and_images_are_the_same(runs):
    losses = []
    for run in runs:
        with (run / "losses.csv").open() as file:
            losses.append([(row["step"], row["loss"]) for row in csv.DictReader(file)])
    assert losses[0] == losses[1] and int(losses[0][-1][0]) == STEPS
    assert (runs[0] / "samples.png").read_bytes() == (runs[1] / "samples.png").read_bytes()
