"""A build that cannot be says why in one sentence."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command whose environment has no switches of the build but those given."""
    switches = ("CXX", "VISGEN_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH", "DEBUG")
    kept = {name: value for name, value in os.environ.items() if name not in switches}
    return subprocess.run(
        command, env=kept | {"PATH": PATH} | environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def setup(folder: Path, *prepare: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py after the statements `prepare`; it would put its libraries into `folder`."""
    arguments = ["setup.py", "build_ext", "--build-lib", str(folder)]
    code = ["import runpy, sys", *prepare, f"sys.argv = {arguments}", "runpy.run_path('setup.py', run_name='__main__')"]
    return run(sys.executable, "-c", "; ".join(code), **environment)


def configure(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the first half of a build, CMake's configuration, as without setup.py."""
    cmake = shutil.which("cmake", path=PATH)
    options = (f"-DVISGEN_PYTHON={sys.executable}", f"-DVISGEN_PYTHONS={sys.executable}")
    return run(cmake, "-S", REPOSITORY, "-B", folder, *options, **environment)


@pytest.fixture
def path_without_nvcc(tmp_path: Path) -> str:
    """A folder with links to all programs on PATH but nvcc."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for source in PATH.split(os.pathsep):
        for program in Path(source).iterdir() if Path(source).is_dir() else ():
            if program.name != "nvcc" and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """What a failed build said, on one line."""
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    result = setup(tmp_path, CXX="/nonexistent/c++")
    assert "needs a C++20 compiler, and '/nonexistent/c++' was not found" in sentence(result)


def test_a_compiler_without_cpp20_is_named(tmp_path: Path) -> None:
    compiler = tmp_path / "old-c++"
    compiler.write_text('#!/bin/bash\nexec c++ "${@/-std=c++20/-std=c++14}"\n')
    compiler.chmod(0o755)
    result = configure(tmp_path / "build", CXX=str(compiler))
    assert f"needs a C++20 compiler, and {compiler}" in sentence(result)


def test_a_missing_torch_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    result = setup(tmp_path, "sys.modules['torch'] = None")
    assert "torch 2.13, which was not found: pip install torch==2.13.0" in sentence(result)


@pytest.mark.parametrize("program", ["cmake", "ninja"])
def test_a_missing_build_tool_is_named_with_the_command_that_installs_it(program: str, tmp_path: Path) -> None:
    hide = f"shutil.which = lambda name, **options: None if name == '{program}' else which(name, **options)"
    result = setup(tmp_path, "import shutil", "which = shutil.which", hide)
    assert f"built with {program}, which was not found: pip install {program}" in sentence(result)


def test_without_nvcc_the_cpu_library_is_made_alone_and_one_line_says_so(
    tmp_path: Path, path_without_nvcc: str
) -> None:
    result = configure(tmp_path / "build", PATH=path_without_nvcc, CUDA_HOME="/nonexistent")
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if "CPU library" in line] == [
        "-- visgen_fast: nvcc was not found, so the CPU library is made alone."
    ]


def test_cuda_demanded_without_nvcc_is_an_error(tmp_path: Path, path_without_nvcc: str) -> None:
    result = configure(tmp_path / "build", PATH=path_without_nvcc, CUDA_HOME="/nonexistent", VISGEN_CUDA="1")
    assert "VISGEN_CUDA=1 asks for the CUDA library, but nvcc is neither" in sentence(result)


def test_an_unknown_value_of_the_cuda_switch_is_an_error(tmp_path: Path) -> None:
    assert "VISGEN_CUDA must be auto, 0 or 1, not 'yes'" in sentence(configure(tmp_path, VISGEN_CUDA="yes"))
