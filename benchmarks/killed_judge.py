"""Raters vote while the server of the page is killed: is a vote lost or doubled, and how soon are votes answered?

`python -m benchmarks.killed_judge` takes some minutes: a server needs seconds to start, and it is killed 20 times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

_SETS, _PICTURES = ("good", "middling", "poor"), 20


@dataclass(frozen=True)
class Survival:
    """given: votes that the raters were told are stored. stored: rows in the database. slow: the share of answers that
    took over 200 ms, of those sent at once, without a kill in between. intact: what SQLite's check says."""

    given: int
    stored: int
    lost: int
    doubled: int
    slow: float
    intact: str


def pictures(folder: Path, sets: Sequence[str] = _SETS, count: int = _PICTURES) -> list[Path]:
    """Folders of pictures: the brighter, the better the set's name says they are; the first set is the brightest."""
    draws = np.random.default_rng(0)
    for place, name in enumerate(sets):
        for number in range(count):
            path = folder / name / str(number % 2) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draws.integers(0, 60, (8, 8, 3)) + 180 // (place + 1)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return [folder / name for name in sets]


@contextlib.contextmanager
def server(sets: Sequence[Path], db: Path, port: int, *options: str) -> Iterator[subprocess.Popen]:
    """`visgen-fast judge serve` in a process of its own, once it answers."""
    command = [sys.executable, "-m", "visgen_fast", "judge", "serve", *map(str, sets), f"--db={db}", f"--port={port}"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line.startswith("judge: "):
            raise RuntimeError(f"the server did not start: {line}")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def free_port() -> int:
    """One that nobody listens to now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def ask(port: int, path: str, content: object = None) -> dict:
    """The server's answer, after as many tries as it takes."""
    body = None if content is None else json.dumps(content).encode()
    while True:
        try:
            with urlopen(Request(f"http://127.0.0.1:{port}{path}", body), timeout=10) as answer:
                return json.load(answer)
        except HTTPError:
            raise
        except (OSError, ValueError, EOFError):
            time.sleep(0.05)
        except Exception as error:  # of http.client, where an answer breaks off
            if not type(error).__module__.startswith("http"):
                raise
            time.sleep(0.05)


def survive(raters: int, votes: int, kills: int, folder: Path) -> Survival:
    """Lets raters vote, each in a thread, while the server is killed and started again `kills` times."""
    sets, db, port = pictures(folder), folder / "votes.db", free_port()
    given: list[str] = []
    seconds: list[float] = []
    down, over = threading.Event(), threading.Event()

    def rate(number: int) -> None:
        draws = random.Random(number)
        for _ in range(votes):
            shown = ask(port, f"/api/next?rater={quote(f'rater {number}')}")
            vote = {"id": uuid.UUID(int=draws.getrandbits(128)).hex, "rater": f"rater {number}", "pair": shown["pair"]}
            vote |= {"left": shown["left"], "choice": draws.choice(("left", "right", "tie"))}
            quiet, begin = not down.is_set(), time.perf_counter()
            ask(port, "/api/vote", vote)
            if quiet and not down.is_set():
                seconds.append(time.perf_counter() - begin)
            if draws.random() < 0.2:
                ask(port, "/api/vote", vote)  # as a page does that has not heard the answer
            given.append(vote["id"])
            # So that the votes last as long as the kills do.
            while len(given) > raters * votes * (killed[0] + 1) / (kills + 1) and not over.is_set():
                time.sleep(0.02)

    killed = [0]
    threads = [threading.Thread(target=rate, args=(number,)) for number in range(raters)]
    for number in range(kills + 1):
        with server(sets, db, port) as process:
            if number == 0:
                for thread in threads:
                    thread.start()
            down.clear()
            if number == kills:
                over.set()
                for thread in threads:
                    thread.join()
            else:
                goal = raters * votes * (number + 1) / (kills + 1) * 0.9
                while len(given) < goal - raters:
                    time.sleep(0.01)
                down.set()
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed[0] += 1
    return _counted(given, seconds, db)


def _counted(given: list[str], seconds: list[float], db: Path) -> Survival:
    with contextlib.closing(sqlite3.connect(db)) as database:
        stored = [identity for (identity,) in database.execute("SELECT id FROM votes")]
        intact = database.execute("PRAGMA integrity_check").fetchone()[0]
    slow = sum(second > 0.2 for second in seconds) / max(len(seconds), 1)
    lost, doubled = len(set(given) - set(stored)), len(stored) - len(set(stored))
    return Survival(len(given), len(stored), lost, doubled, slow, intact)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.killed_judge", description=__doc__)
    parser.add_argument("--raters", type=int, default=8)
    parser.add_argument("--votes", type=int, default=40, help="of each rater")
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = survive(options.raters, options.votes, options.kills, Path(folder))
    print(found)
    return 0 if found.lost == found.doubled == 0 and found.intact == "ok" and found.stored == found.given else 1


if __name__ == "__main__":
    raise SystemExit(main())
