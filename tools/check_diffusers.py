"""Runs diffusers' own scheduler tests with our schedulers in the place of its own.

They are in no distribution: `--tests FOLDER` is the folder `tests` of a checkout of its repository, near the installed
version. Those of nine of our ten classes run (FlowMatchEulerDiscrete has none), on the CPU, without a network, for a
minute. Each must pass with ours; where one does not pass by itself either, that is said.

    python tools/check_diffusers.py --tests diffusers/tests

Left out is `test_schedulers.py`, which holds what those tests have in common, and beside it tests of the package's
loading: they fetch files from the hub, or are of other classes.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
FURTHER = {"torchsde": "torchsde==0.2.6", "trampoline": "trampoline==0.1.2"}  # what one test imports beside the package
FILES = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpm_multi",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
# A plugin of pytest: it replaces the names before the tests import them, and counts whose steps the tests took.
OURS = """\
import collections
from visgen_fast.interop import apply_visgen_to_diffusers as apply
from visgen_fast.interop.diffusers import stepping
apply()
own = collections.Counter()
def counted(self, reason, *arguments, _original=stepping.Stepping._own_step, **options):
    own[f"{type(self).__name__}: {reason}"] += 1
    return _original(self, reason, *arguments, **options)
stepping.Stepping._own_step = counted
taken = collections.Counter()
def step_(*arguments, _original=stepping.step_, **options):
    taken["ours"] += 1
    return _original(*arguments, **options)
from visgen_fast.interop.diffusers import multistep, sigmas, timesteps
for module in (multistep, sigmas, timesteps):
    module.step_ = step_
def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"steps by a table: {taken['ours']}")
    for reason, count in sorted(own.items()):
        terminalreporter.write_line(f"steps by diffusers' own code: {count} of {reason}")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tests", type=Path, metavar="FOLDER", required=True, help="`tests` of a checkout of diffusers"
    )
    tests = parser.parse_args().tests.resolve()
    missing = [name for name in FILES.values() if not (tests / "schedulers" / f"test_scheduler_{name}.py").is_file()]
    if missing:
        parser.error(f"{tests} has no schedulers/test_scheduler_{missing[0]}.py: give diffusers' folder of tests")
    with tempfile.TemporaryDirectory() as folder:
        further = [given for module, given in FURTHER.items() if importlib.util.find_spec(module) is None]
        if further:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
            subprocess.run([*pip, *further], check=True)
        (Path(folder) / "visgen_ours.py").write_text(OURS)
        ours, summary = outcomes(tests, Path(folder), "visgen_ours")
        failed = {name: outcome for name, outcome in ours.items() if outcome != "passed"}
        own = outcomes(tests, Path(folder))[0] if failed else {}
    for cls, file in FILES.items():
        mine = [outcome for name, outcome in ours.items() if f"test_scheduler_{file}." in name]
        print(f"{cls}: {mine.count('passed')} of {len(mine)} passed")
    print("FlowMatchEulerDiscreteScheduler: diffusers has no tests of it")
    for name, outcome in failed.items():
        print(f"{name}: {outcome}, by itself {own.get(name, 'absent')}")
    print("\n".join(summary))
    print(f"{len(ours) - len(failed)} of {len(ours)} tests passed")
    return int(any(outcome != own.get(name) for name, outcome in failed.items()))


def outcomes(tests: Path, folder: Path, plugin: str = "") -> tuple[dict[str, str], list[str]]:
    """What pytest says of each test, and what the plugin says at the end."""
    report = folder / "report.xml"
    files = [tests / "schedulers" / f"test_scheduler_{name}.py" for name in FILES.values()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", tests.parent, f"--junitxml={report}", *(["-p", plugin] if plugin else []), *files]
    given = filter(None, [os.environ.get("PYTHONPATH")])
    paths = os.pathsep.join(map(str, (folder, ROOT, tests.parent, *given)))
    environment = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if not report.is_file():
        raise SystemExit(f"the tests in {tests} do not run:\n{done.stdout}{done.stderr}")
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[f"{case.get('classname')}.{case.get('name')}"] = bad[0] if bad else "passed"
    return found, [line for line in done.stdout.splitlines() if line.startswith("steps by")]


if __name__ == "__main__":
    sys.exit(main())
