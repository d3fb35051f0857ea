"""Whether our operations are as fast as those of another checkout: `python -m benchmarks.against CHECKOUT [family …]`.

CHECKOUT is a folder of this project at another commit, built in place. Both libraries are measured by this checkout's
cases, in fresh processes that take turns, so that a busy neighbour and the places of memory touch both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

# The package comes from one checkout, and the benchmarks that time it from this one. Families are imported one by one,
# since the other checkout may lack what those not asked for measure.
_PROCESS = """
import sys, types
sys.path.insert(0, sys.argv[1])
import visgen_fast
sys.path.insert(0, sys.argv[2])
import benchmarks
families = sys.modules["benchmarks.families"] = types.ModuleType("benchmarks.families")
families.__path__ = [f"{sys.argv[2]}/benchmarks/families"]
from benchmarks.against import print_times
print_times(sys.argv[3:-1], float(sys.argv[-1]))
"""


def print_times(families: Sequence[str], budget: float) -> None:
    """Prints the median seconds of our operation in each case of the families, as JSON."""
    from .machine import describe
    from .timing import cold_sets, time_cold

    machine, times = describe("cpu"), {}
    for name in families:
        family = import_module(f"benchmarks.families.{name}")
        for case in family.cases("cpu"):
            workload = family.workload(case, "cpu")
            sets = [workload.make_inputs(index) for index in range(cold_sets(workload, machine))]
            ours = next(contender for contender in workload.contenders if contender.name == "ours")
            times[workload.name] = time_cold([ours], sets, machine, budget)[0].median
    print(json.dumps(times))


def _times(checkout: Path, families: Sequence[str], budget: float) -> dict[str, float]:
    command = [sys.executable, "-c", _PROCESS, str(checkout), str(REPOSITORY), *families, str(budget)]
    found = subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(found.stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line a case; 1 if a case is slower by more than the processes of one checkout differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("families", nargs="+", metavar="family")
    parser.add_argument("--processes", type=int, default=5, help="of each checkout; default: 5")
    parser.add_argument("--seconds", type=float, default=0.3, help="of calls, in a process, for a case; default: 0.3")
    options = parser.parse_args(arguments)
    theirs, ours = [], []
    for _ in range(options.processes):
        theirs.append(_times(options.checkout.resolve(strict=True), options.families, options.seconds))
        ours.append(_times(REPOSITORY, options.families, options.seconds))
    print("milliseconds, median and spread of the processes:   theirs           ours            ratio")
    slower = []
    for name in ours[0]:
        before, now = ([times[name] * 1e3 for times in runs] for runs in (theirs, ours))
        ratio = statistics.median(now) / statistics.median(before)
        # Slower is what lies above the other's noise, and above the share that differs between any two builds.
        if ratio > 1.05 and min(now) > max(before):
            slower.append(name)
        print(f"{name:60s} {_range(before)}  {_range(now)}  {ratio:.3f}{' slower' if name in slower else ''}")
    return 1 if slower else 0


def _range(times: Sequence[float]) -> str:
    return f"{statistics.median(times):8.3f} [{min(times):.3f}, {max(times):.3f}]"


if __name__ == "__main__":
    sys.exit(main())
