"""Runs the CPU kernels for aarch64 under an emulator: the cases of the tests against the reference, then searches for
nearest codes, of which none may be wrong.

`python tools/test_aarch64.py --rows 100000` checks so many searches; what follows `--` goes to pytest. The program is
cross-compiled in build/aarch64 and needs no torch for aarch64 (csrc/standalone).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TESTS = REPOSITORY / "python_tests"
FOLDER = REPOSITORY / "build" / "aarch64"
# Program -> Debian's package.
NEEDED = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
# Tests that take a backend and call the operations on it, rather than torch's compiler.
FILES = [
    "test_contract.py",
    "test_noise.py",
    "test_quantize_exact.py",
    "test_optimize.py",
    "test_kernels_at_the_edges.py",
]
CHOSEN = "aarch64 and (equal_the_reference or equals_the_reference or gradients_equal or not test_contract)"
SEARCHES = """
import sys
from backends import running_on
from benchmarks import exactness
with running_on("aarch64-baseline"):
    sys.exit(exactness.main(["--rows", sys.argv[1]]))
"""


def program(name: str) -> str:
    """The path of a build tool, of this Python's environment before others."""
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if path is None:
        sys.exit(f"test_aarch64 builds with {name}, which was not found: pip install {name}")
    return path


def build() -> Path:
    """The path of the program, built where its sources have changed."""
    missing = {name: package for name, package in NEEDED.items() if shutil.which(name) is None}
    if missing:
        sys.exit(f"test_aarch64 needs {' and '.join(missing)}: apt-get install {' '.join(missing.values())}")
    configure = [program("cmake"), "-S", REPOSITORY, "-B", FOLDER, "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={program('ninja')}", "-DCMAKE_SYSTEM_NAME=Linux"]
    configure += ["-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++"]
    configure += [f"-DVISGEN_PYTHON={sys.executable}", "-DVISGEN_PYTHONS="]
    jobs = ["--parallel", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    for command in (configure, [program("cmake"), "--build", FOLDER, "--target", "standalone", *jobs]):
        subprocess.run(command, env={**os.environ, "VISGEN_CUDA": "0"}, check=True)
    return FOLDER / "csrc" / "standalone" / "standalone"


def main() -> None:
    """Builds and tests; ends with the first fault."""
    parser = argparse.ArgumentParser(prog="python tools/test_aarch64.py", description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="searches to check; default %(default)s")
    parser.add_argument("pytest", nargs="*", help="in the place of the tests that are chosen otherwise")
    options = parser.parse_args()
    environment = {**os.environ, "VISGEN_STANDALONE": str(build()), "PYTHONPATH": f"{REPOSITORY}:{TESTS}"}
    chosen = options.pytest or [*FILES, "-k", CHOSEN]
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen]
    subprocess.run(pytest, env=environment, cwd=TESTS, check=True)
    searches = [sys.executable, "-c", SEARCHES, str(options.rows)]
    subprocess.run(searches, env=environment, cwd=TESTS, check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
