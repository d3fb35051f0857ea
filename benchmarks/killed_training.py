"""Kills ranks of a training at random, as often as asked, and starts it again: does it end with the same bits?

    python -m benchmarks.killed_training [--kills 100] [--ranks 2] [--parallel fsdp] [--seed 0]

Ranks are forks of this process, which restarts all of them after each kill, as `torchrun --max-restarts` does. A kill
is of one rank or of all, with signal 9, at a random moment of a round: in steps, in saves, in the start. A run that was
killed to its end is compared with one that was not, and begun again until there were as many kills as asked.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = ["--dataset=digits", "--width=8", "--depth=1", "--heads=1", "--batch-size=8", "--device=cpu"]
SETTINGS += ["--sample-every=0", "--sampling-steps=1", "--log-every=100", "--checkpoint-every=3", "--dropout=0.1"]
# Seconds that the others have to end by themselves once a rank is gone, as under torchrun.
_GRACE = 30.0


def campaign(
    out: Path, *, kills: int, ranks: int = 2, parallel: str = "fsdp", steps: int = 60, seed: int = 0, span: float = 3.0
) -> dict[str, int]:
    """Kills a training in `out` that often. Returns how many kills, rounds, finished and wrong runs there were.

    span: seconds after its start in which a round is killed. lost_steps, in the result: the most by which a kill set
    the newest complete checkpoint back, which must be 0.
    """
    chance = random.Random(seed)
    arguments = ["train", "rectified-flow", *SETTINGS, f"--steps={steps}", f"--parallel={parallel}"]
    arguments += ["--background-saves", "--resume"]
    expected = out / "straight"
    _round([*arguments, f"--out={expected}"], ranks, None)
    found = {"kills": 0, "rounds": 0, "finished": 0, "wrong": 0, "lost_steps": 0}
    while found["kills"] < kills:
        run = out / "killed"
        shutil.rmtree(run, ignore_errors=True)
        finished = False
        while not finished:
            left = found["kills"] < kills
            victims = chance.choice([[chance.randrange(ranks)], list(range(ranks))]) if left else None
            before = _newest(run)
            finished, killed = _round(
                [*arguments, f"--out={run}"], ranks, victims and (chance.uniform(0, span), victims)
            )
            found["kills"] += killed
            found["rounds"] += 1
            found["lost_steps"] = max(found["lost_steps"], before - _newest(run))
        found["finished"] += 1
        found["wrong"] += _weights(run, steps) != _weights(expected, steps)
    return found


def _round(arguments: list[str], ranks: int, kill: tuple[float, list[int]] | None) -> tuple[bool, bool]:
    """Starts all ranks, and kills some of them after a while. Returns whether they finished, and whether it killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = {_rank(arguments, rank, ranks, port): rank for rank in range(ranks)}
    codes: dict[int, int] = {}
    began, killed, asked = time.monotonic(), False, 0.0
    while len(codes) < ranks:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            codes[children[child]] = os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if kill is not None and not killed and not codes and now - began > kill[0]:
            killed = True
            for pid in (pid for pid, rank in children.items() if rank in kill[1]):
                os.kill(pid, signal.SIGKILL)
        if any(codes.values()) and not asked:
            asked = now
            _signal(children, codes, signal.SIGTERM)
        if asked and now - asked > _GRACE:
            _signal(children, codes, signal.SIGKILL)
        time.sleep(0.01)
    return not any(codes.values()), killed


def _signal(children: dict[int, int], codes: dict[int, int], number: int) -> None:
    for pid, rank in children.items():
        if rank not in codes:
            os.kill(pid, number)


def _rank(arguments: list[str], rank: int, ranks: int, port: int) -> int:
    """A child that is one of the ranks."""
    child = os.fork()
    if child:
        return child
    from visgen_fast import cli
    from visgen_fast.training import watch

    watch._DEAD_AFTER = 2.0
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    code = 1
    try:
        code = cli.main(arguments)
    finally:
        os._exit(code)


def _newest(run: Path) -> int:
    """The step of the newest complete checkpoint, which must be intact; 0 without one."""
    from visgen_fast.training import checkpoint

    paths = checkpoint.checkpoints(run / "checkpoints")
    if not paths:
        return 0
    saved = checkpoint.read(paths[-1])
    saved.tensors("weights")
    return saved.state["step"]


def _weights(run: Path, step: int) -> dict[str, bytes]:
    from visgen_fast.training import checkpoint

    saved = checkpoint.read(run / "checkpoints" / f"step-{step:08d}")
    return {
        f"{part}.{name}": tensor.numpy().tobytes()
        for part in ("weights", "average", "optimizer")
        for name, tensor in saved.tensors(part).items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="fsdp")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import visgen_fast.recipes.rectified_flow
    import visgen_fast.training.loop  # before the forks  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), **vars(options))
    print(", ".join(f"{value} {name.replace('_', ' ')}" for name, value in found.items()))
    return int(found["wrong"] > 0 or found["lost_steps"] > 0)


if __name__ == "__main__":
    sys.exit(main())
