"""Runs the CPU kernels, and the CUDA kernels compiled for the CPU, under address and undefined-behaviour sanitizers:
the cases of the tests, and then what a fuzzer makes of the operations' schemas.

The CPU library is built once more, with the sanitizers, beside a copy of the Python pages under build/sanitized.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TESTS = REPOSITORY / "python_tests"
FOLDER = REPOSITORY / "build" / "sanitized"
PACKAGE = FOLDER / "package"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"


def program(name: str) -> str:
    """The path of a build tool, of this Python's environment before others."""
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if path is None:
        sys.exit(f"sanitize builds with {name}, which was not found")
    return path


def build() -> None:
    """Puts a package with a sanitized CPU library into PACKAGE."""
    cmake, environment = program("cmake"), {**os.environ, "CXXFLAGS": SANITIZERS, "VISGEN_CUDA": "0"}
    configure = [cmake, "-S", REPOSITORY, "-B", FOLDER, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={program('ninja')}"]
    options = [f"-DVISGEN_PYTHON={sys.executable}", "-DVISGEN_PYTHONS="]
    for command in ([*configure, *options], [cmake, "--build", FOLDER]):
        subprocess.run(command, env=environment, check=True)
    shutil.rmtree(PACKAGE, ignore_errors=True)
    shutil.copytree(REPOSITORY / "visgen_fast", PACKAGE / "visgen_fast", ignore=shutil.ignore_patterns("*.so", "*.pyc"))
    subprocess.run([cmake, "--install", FOLDER, "--prefix", PACKAGE], check=True, stdout=subprocess.DEVNULL)


def sanitizers() -> dict[str, str]:
    """What in its environment makes Python start with the sanitizers."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    names = [f"-print-file-name={name}" for name in ("libasan.so", "libstdc++.so")]
    paths = [subprocess.run([compiler, name], capture_output=True, text=True, check=True).stdout for name in names]
    return {
        "LD_PRELOAD": " ".join(path.strip() for path in paths),
        # Python leaves memory behind when it ends; too much memory is torch's to refuse.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    }


def main() -> None:
    """Builds and tests; ends with the first fault."""
    build()
    environment = {**os.environ, **sanitizers(), "PYTHONPATH": str(PACKAGE)}  # imports the package built here
    where = "import visgen_fast; print(visgen_fast.__file__)"
    found = subprocess.run([sys.executable, "-c", where], env=environment, cwd=TESTS, capture_output=True, text=True)
    if not found.stdout.startswith(str(PACKAGE)):
        sys.exit(f"the sanitized package is not the one imported: {found.stdout}{found.stderr}")
    # Without pyproject.toml's pythonpath, which would put the source tree first.
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-o", "pythonpath=", "-p", "no:cacheprovider"]
    chosen = "not cuda and (equals_the_reference or gradients_equal)"
    subprocess.run([*pytest, "-k", chosen, "test_contract.py"], env=environment, cwd=TESTS, check=True)
    fuzz = [sys.executable, "-m", "fuzz_schemas"]
    subprocess.run([*fuzz, "--calls", "20000"], env=environment, cwd=TESTS, check=True)
    emulated = {**os.environ, "VISGEN_CUDA_ON_HOST": "sanitized"}
    subprocess.run([sys.executable, "-m", "cuda_on_host.run_cases"], env=emulated, cwd=TESTS, check=True)
    emulated |= sanitizers()
    subprocess.run([*fuzz, "--calls", "10000", "--backend", "cuda-on-host"], env=emulated, cwd=TESTS, check=True)
    # They bound their own memory, which the sanitizers take without bound.
    bare = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for damaged in (["fuzz_images", "--files", "5000"], ["fuzz_checkpoints", "--checkpoints", "300"]):
        subprocess.run([sys.executable, "-m", *damaged], env=bare, cwd=TESTS, check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
