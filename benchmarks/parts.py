"""A report in parts: each runs by itself within a time limit, and none can stop the others."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, TIMED_OUT, SKIPPED = "passed", "failed", "timed out", "skipped"


class Skip(Exception):
    """A part that this machine lacks something for; the message says what."""


class Failure(Exception):
    """A part that did not do what it should; the message says what went wrong."""


class TimedOut(Failure):
    """A command that ran past its limit."""


@dataclass
class Outcome:
    """What became of a part."""

    name: str
    status: str
    seconds: float
    remark: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """Runs parts one after the other until `deadline` (of time.monotonic)."""

    folder: Path
    deadline: float
    outcomes: list[Outcome] = field(default_factory=list)

    def part(self, name: str, limit: float, work: Callable[[Commands], Mapping[str, Any]]) -> dict[str, Any]:
        """Runs `work` within `limit` seconds and keeps what it returns; a key "remark" goes into the table of parts.

        An empty dictionary comes back from a part that failed, so that the next can look for what it needs and skip.
        """
        start = time.monotonic()
        limit = min(limit, self.deadline - start)
        try:
            if limit <= 0:
                raise Skip("no time was left")
            log = self.folder / "logs" / f"{name.replace(' ', '-')}.txt"
            details = dict(work(Commands(log, start + limit)))
            status, remark = PASSED, details.pop("remark", "")
        except Skip as reason:
            status, remark, details = SKIPPED, str(reason), {}
        except TimedOut as reason:
            status, remark, details = TIMED_OUT, str(reason), {}
        except Failure as reason:
            status, remark, details = FAILED, str(reason), {}
        except Exception as error:  # whatever it is, it is this part's own and is told in full
            status, remark, details = FAILED, f"{type(error).__name__}: {error}", {"traceback": traceback.format_exc()}
        self.outcomes.append(Outcome(name, status, time.monotonic() - start, remark, details))
        print(f"{name}: {status} ({time.monotonic() - start:.0f} s) {remark}", flush=True)
        return details if status == PASSED else {}


@dataclass(frozen=True)
class Commands:
    """Runs a part's commands: output into the part's log, killed with all their children at the part's deadline."""

    log: Path
    deadline: float

    def run(
        self,
        command: Sequence[str | Path],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> int:
        """The exit status; Failure for any but 0 unless `check` is False, TimedOut past the deadline."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(map(str, command))}\n")
            log.flush()
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(max(self.deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                raise TimedOut(f"{' '.join(map(str, command[1:3]))} ran past the part's limit") from None
            finally:
                _end_group(process)
        if check and status != 0:
            raise Failure(f"{Path(str(command[0])).name} ended with status {status}: {self.last_line()}")
        return status

    def last_line(self) -> str:
        """The last line of the log that says something."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "no output"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a command's children with it; without effect where they have all ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
