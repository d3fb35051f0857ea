"""Seeds faults into the CUDA kernels, one at a time, and counts how many the emulated tests notice.

Each mutation is a small change of the text of one source, made in a copy of the tree. The copy's kernels are built for
the CPU and tested: first the fast build and then, if nothing was noticed, the one that checks every access to memory.
With --first-use the question is another: which of them does a device notice that is tried before its first use?
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faults import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[1]


def copy_tree(to: Path) -> None:
    """What git knows or would add, and the CPU library that the tests of the emulation stand on."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    built = [str(path.relative_to(ROOT)) for path in (ROOT / "visgen_fast" / "lib").glob("*.so")]
    for name in filter(None, [*names, *built]):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def run_tests(tree: Path, tests: list[str], variant: str) -> str:
    """What the first failing test says, or that the process crashed; empty if all tests pass."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "VISGEN_CUDA_ON_HOST": variant}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ""
    if result.returncode < 0:
        return f"the tests were ended by {signal.Signals(-result.returncode).name}"
    if result.returncode != 1 or "could not be built" in result.stdout:
        sys.exit(f"the tests could not be run:\n{result.stdout[-6000:]}{result.stderr[-2000:]}")
    reports = [line for line in result.stdout.splitlines() if line.startswith("E   ") or "kernel " in line]
    return (reports or result.stdout.splitlines())[0].removeprefix("E").strip()[:160]


FIRST_USE = ["python_tests/test_trust.py", "-k", "cuda-on-host and right_kernels"]


def notice(tree: Path, tests: list[str], variants: tuple[str, ...]) -> str:
    """Which build notices, and what it says; empty if none does."""
    for variant in variants:
        report = run_tests(tree, tests, variant)
        if report:
            return f"{variant}: {report}"
    return ""


def check_fit(tree: Path, mutation: Mutation) -> None:
    if (tree / mutation.file).read_text().count(mutation.old) != 1:
        sys.exit(f"the mutation '{mutation.name}' does not fit {mutation.file} any more: write it anew")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORDS", help="those whose name or file contains these words")
    parser.add_argument("--first-use", action="store_true", help="by what is tried before the first use alone")
    options = parser.parse_args()
    only, variants = options.only, ("fast",) if options.first_use else ("fast", "checked")
    chosen = [mutation for mutation in MUTATIONS if only in mutation.name or only in mutation.file]
    tests_of = {mutation.name: FIRST_USE if options.first_use else list(mutation.tests) for mutation in chosen}
    for mutation in chosen:
        check_fit(ROOT, mutation)
    with tempfile.TemporaryDirectory(prefix="visgen_fast-mutations-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        for tests in {tuple(tests) for tests in tests_of.values()}:
            if report := notice(tree, list(tests), variants):
                sys.exit(f"the tests fail without any mutation: {report}")
        caught = 0
        for mutation in chosen:
            path, begin = tree / mutation.file, time.monotonic()
            original = path.read_text()
            path.write_text(original.replace(mutation.old, mutation.new))
            report = notice(tree, tests_of[mutation.name], variants)
            path.write_text(original)
            caught += bool(report)
            verdict = f"caught   {mutation.name}\n         {report}" if report else f"MISSED   {mutation.name}"
            print(f"{verdict}   ({time.monotonic() - begin:.0f} s)", flush=True)
    print(f"caught {caught} of {len(chosen)}")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
