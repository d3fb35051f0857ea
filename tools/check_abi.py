"""Installs a wheel beside the oldest and the newest torch, in two Pythons, and tests the operations there.

    python tools/check_abi.py dist/visgen_fast-0.1.0-py3-none-manylinux_2_36_x86_64.whl

Each of the four environments is made afresh under build/ and removed again. The oldest torch is the oldest that the
wheel serves, in the CUDA build that the package index has: several gigabytes, which must serve on a machine without a
GPU. The newest is what pip takes from the index by that name.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12")
OLDEST_TORCH, NEWEST_TORCH = "torch==2.11.0", "torch"
FAMILIES = sorted(page.stem for page in (REPOSITORY / "visgen_fast" / "reference").glob("[a-z]*.py"))
FAMILY_TESTS = [f"test_{family}.py" for family in FAMILIES]
TESTS = ["test_contract.py", *(test for test in FAMILY_TESTS if (REPOSITORY / "python_tests" / test).exists())]
# Internal assertions of torch 2.11 fail where it traces these second derivatives with sizes left open.
FAULTS_OF_OLDEST_TORCH = [
    f"test_contract.py::test_opcheck_finds_nothing[{{}}-{case}]"
    for case in ("multiscale_loss-l1", "residual_quantize-shared", "residual_quantize-active_depths")
]
DESCRIBE = """
import sys, torch, visgen_fast
from visgen_fast import _library
assert visgen_fast.__file__.startswith(sys.prefix), visgen_fast.__file__
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, instruction set {_library.cpu_capability()}")
"""
CAPABILITY = "from visgen_fast import _library; print(f'cpu-{_library.cpu_capability()}')"


def interpreter(version: str) -> str:
    """The Python of that version on PATH, or else pyenv's."""
    candidates = [
        shutil.which(f"python{version}"),
        *sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3")),
    ]
    for candidate in filter(None, candidates):
        # pyenv puts programs on PATH that only say that they are not there
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    sys.exit(f"check_abi needs Python {version}, which is neither on PATH nor among pyenv's versions")


def bare_environment(folder: Path, python: str, torch: str, torch_index: str) -> tuple[Path, list[str | Path]]:
    """Makes a virtual environment with that torch alone: its Python, and the command that installs more into it."""
    environment = folder / "venv"
    inside = environment / "bin" / "python"
    install: list[str | Path] = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "venv", environment], check=True)
    subprocess.run([*install, torch, *(["--index-url", torch_index] if torch_index else [])], check=True)
    return inside, install


def check(python: str, torch: str, torch_index: str, wheel: Path) -> bool:
    """Whether the wheel passes the tests in a new environment of that Python and torch."""
    (REPOSITORY / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="abi-", dir=REPOSITORY / "build") as folder:
        inside, install = bare_environment(Path(folder), python, torch, torch_index)
        subprocess.run([*install, wheel, "pytest", "hypothesis"], check=True)
        # A copy, so that the tests find the installed package and not the source tree.
        tests = shutil.copytree(REPOSITORY / "python_tests", Path(folder, "python_tests"))
        subprocess.run([inside, "-c", DESCRIBE], cwd=folder, check=True)
        command = [inside, "-m", "pytest", "-q", "-k", "not cuda", "-p", "no:cacheprovider", *TESTS]
        if torch == OLDEST_TORCH:
            asked = subprocess.run([inside, "-c", CAPABILITY], cwd=folder, check=True, capture_output=True, text=True)
            command += [f"--deselect={test.format(asked.stdout.strip())}" for test in FAULTS_OF_OLDEST_TORCH]
        return subprocess.run(command, cwd=tests, check=False).returncode == 0


def main() -> None:
    """Checks every pair of Python and torch, and exits with an error if one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch-index", default="", help="package index to take the newest torch from")
    arguments = parser.parse_args()
    wheel = arguments.wheel.resolve(strict=True)
    failed = [
        f"Python {version} with {torch}"
        for version in PYTHONS
        for torch, index in ((NEWEST_TORCH, arguments.torch_index), (OLDEST_TORCH, ""))
        if not check(interpreter(version), torch, index, wheel)
    ]
    if failed:
        sys.exit("The wheel fails in " + ", ".join(failed))
    print(f"{wheel.name} passes in Python {' and '.join(PYTHONS)} with {OLDEST_TORCH} and the newest torch")


if __name__ == "__main__":
    main()
