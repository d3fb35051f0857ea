"""A run that was killed and resumed equals one that never stopped, bit for bit."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def started(out: Path, *more: str) -> Iterator[subprocess.Popen]:
    """A run in a process of its own, which is ended whatever happens."""
    command = [sys.executable, "-m", "visgen_fast", "train", "digits", f"--out={out}", *SETTINGS, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    # Output goes to a file: a pipe that nobody reads would stop the run when it is full.
    with (out / "output").open("w+") as output:
        run = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            yield run
        finally:
            run.kill()
            run.wait()


def finish(out: Path, *more: str) -> None:
    with started(out, *more) as run:
        assert run.wait(LONG) == 0, (out / "output").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of an uninterrupted run and of one that was killed after its second checkpoint, then resumed."""
    straight, resumed = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("resumed")
    finish(straight)
    with started(resumed) as killed:
        deadline = time.monotonic() + LONG
        while not (resumed / "checkpoints" / "step-00000020").exists():
            assert killed.poll() is None and time.monotonic() < deadline, (resumed / "output").read_text()
            time.sleep(0.002)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait(LONG) == -signal.SIGKILL
    assert not (resumed / "samples.png").exists()
    finish(resumed, "--resume")
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
