"""Ranks that are told to stop, that die and that hang: what is left, what is said, and with which exit code.

This file is also the program that the ranks run: `python test_training_failures.py OUT`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from ranks import as_ranks

import visgen_fast
from benchmarks.killed_training import campaign
from visgen_fast import cli
from visgen_fast.training import checkpoint, watch
from visgen_fast.training.loop import Trainer

SETTINGS = ["--dataset=digits", "--width=8", "--depth=1", "--heads=1", "--batch-size=8", "--device=cpu"]
SETTINGS += ["--sample-every=0", "--log-every=1", "--sampling-steps=1", "--steps=40", "--checkpoint-every=2"]
AT = 5


def told_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(1000)


def fail() -> None:
    raise ZeroDivisionError("of this rank alone")


CASES = {"stop": told_to_stop, "die": die, "hang": hang, "fail": fail}
OPTIONS = {"stop": ["--parallel=fsdp"], "hang": ["--rank-timeout=3"]}


def run(out: Path, case: str) -> None:
    """A rank's training, in which the second rank meets what the case says."""
    rank = int(os.environ["RANK"])
    with (out / f"{case}-{rank}.txt").open("w") as file:
        os.dup2(file.fileno(), 2)
    next_batch = Trainer._next_batch

    def disturbed(trainer: Trainer):
        if trainer.step == AT and rank == 1 and not (out / case).exists():
            (out / case).touch()
            CASES[case]()
        return next_batch(trainer)

    Trainer._next_batch = disturbed
    watch._DEAD_AFTER = 2.0
    arguments = [
        "train",
        "rectified-flow",
        *SETTINGS,
        *OPTIONS.get(case, []),
        f"--out={out / f'run-{case}'}",
        "--resume",
    ]
    sys.exit(cli.main(arguments))


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> tuple[Path, dict[str, list[int]]]:
    """Where it all lies, and each case's exit codes."""
    out = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    done = subprocess.run([sys.executable, __file__, str(out)], env=environment, capture_output=True, timeout=600)
    return out, json.loads(done.stdout.splitlines()[-1])


def said(out: Path, case: str, rank: int) -> str:
    return (out / f"{case}-{rank}.txt").read_text()


def test_a_signal_to_one_rank_has_all_save_and_say_so_by_their_exit_code(ended):
    out, codes = ended
    assert codes["stop"] == [cli.STOPPED, cli.STOPPED]
    assert "stopped by SIGUSR1 at step" in said(out, "stop", 0) and "--resume" in said(out, "stop", 1)
    assert AT < checkpoint.read(out / "run-stop").state["step"] <= AT + 3


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("die", "rank 1 died, last seen in step "),
        ("hang", f"the ranks have waited for 3 s in step {AT} for rank 1 (test_training_failures.py:"),
        ("fail", "rank 1 failed, and all others ended with it: ZeroDivisionError('of this rank alone')"),
    ],
)
def test_a_lost_rank_is_named_and_the_last_checkpoint_stays(ended, case, sentence):
    out, codes = ended
    assert all(codes[case]) and (case != "hang" or codes[case] == [watch.LOST] * 2)
    assert sentence in said(out, case, 0)
    assert "Traceback" not in said(out, case, 0)
    assert checkpoint.read(out / f"run-{case}").state["step"] == AT - 1


def test_a_run_that_is_killed_and_started_again_ends_with_the_same_bits(ended):
    kills = ended[1]["kills"]
    assert kills["kills"] == 2 and kills["finished"] >= 1 and kills["wrong"] == kills["lost_steps"] == 0


def test_a_run_stops_in_time_to_have_saved(tmp_path, capsys):
    options = [*SETTINGS, "--steps=100000", "--checkpoint-every=0", "--max-hours=1e-9", f"--out={tmp_path}"]
    assert cli.main(["train", "rectified-flow", *options]) == cli.STOPPED
    assert "stopped after 1e-09 hours at step 1" in capsys.readouterr().err
    assert checkpoint.read(tmp_path).state["step"] == 1


if __name__ == "__main__":
    out = Path(sys.argv[1])
    codes = {case: as_ranks(2, partial(run, out, case)) for case in CASES}
    kills = campaign(out / "kills", kills=2, steps=12, span=2.0)
    print(json.dumps({**codes, "kills": kills}))
