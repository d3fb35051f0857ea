"""The trainings of a study: command lines by name, each done once."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from . import studies


def train_all(stages: Iterable[Mapping[str, Sequence[str]]], folder: Path, jobs: int) -> int:
    """Trains command lines by name, a stage after the other, unless they are trained; how many failed.

    A stage may need what those before have trained.
    """
    began = time.monotonic()
    for stage in stages:
        wanted = {name: [*words, "--sample-every=0", f"--out={folder / name}"] for name, words in stage.items()}
        missing = [name for name in wanted if studies.read(folder / f"{name}.json") != wanted[name]]
        failed = 0
        with studies.jobs(jobs) as pool:
            work = lambda name, wanted=wanted: _train(folder, name, wanted[name])  # noqa: E731
            for name, complaint in studies.finished(pool, work, missing):
                print(f"{time.monotonic() - began:6.0f} s  {name}: {complaint or 'trained'}", flush=True)
                failed += complaint is not None
        if failed:
            return failed
    return 0


def _train(folder: Path, name: str, words: Sequence[str]) -> str | None:
    """Trains by a command line, from where a run of the same one stopped; what went wrong, if anything did."""
    begun = folder / f".{name}.json"
    if studies.read(begun) != words:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / f"{name}.measured.json").unlink(missing_ok=True)
        studies.write(begun, words)
    command = [sys.executable, "-m", "visgen_fast", "train", *words, "--device=cpu", "--resume"]
    _, complaint = studies.run_logged(command, folder / f"{name}.log")
    if complaint is None:
        studies.write(folder / f"{name}.json", words)
    return complaint
