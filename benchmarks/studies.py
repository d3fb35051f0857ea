"""What the studies share: command lines as jobs, an interruption that loses nothing, results as JSON."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

# The command lines at work, which end with the study.
_running: list[subprocess.Popen] = []


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.NAME`, with the options of every study."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--jobs", type=int, default=2, help="trainings at a time, of one thread each; default: 2")
    made.add_argument("--runs", type=Path, default=ROOT / "build" / name, help="folder of the runs")
    made.add_argument("--out", type=Path, default=RESULTS / name, help="folder of the report")
    return made


@contextmanager
def jobs(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads. An interruption ends the command lines at work, and what is inside; none begin."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):  # one that comes twice must not end the report
            signal.signal(number, signal.SIG_IGN)
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(_running):
            process.terminate()
    finally:
        pool.shutdown(cancel_futures=True)


def finished(pool: ThreadPoolExecutor, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Each task with what `work` makes of it, as soon as it has."""
    futures = {pool.submit(work, task): task for task in tasks}
    for future in as_completed(futures):
        yield futures[future], future.result()


def run_logged(command: Sequence[str], log: Path, threads: int = 1) -> tuple[float, str | None]:
    """Runs a command line from the repository: its seconds, and its last line if it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("a") as file:
        process = subprocess.Popen([*command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        _running.append(process)
        code = process.wait()
        _running.remove(process)
    lines = log.read_text().strip().splitlines() or ["no message"]
    return time.monotonic() - began, f"failed ({lines[-1]}), see {log}" if code else None


def read(path: Path) -> Any:
    """What a JSON file holds, {} where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, content: Any) -> None:
    """A JSON file that is there whole or not at all."""
    _replace(path, json.dumps(content, indent=1) + "\n")


def write_results(path: Path, head: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
    """The JSON file of `head` and `entries`, a line each, with six digits of every number, whole or not at all."""
    lines = ",\n".join(json.dumps(_rounded(entry), ensure_ascii=False) for entry in entries)
    start = json.dumps({**head}, indent=1, ensure_ascii=False).removesuffix("\n}")
    _replace(path, f'{start},\n "entries": [\n{lines}\n ]\n}}\n')


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
