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
    switches = ("CXX", "CXXFLAGS", "VISGEN_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH", "DEBUG")
    kept = {name: value for name, value in os.environ.items() if name not in switches}
    return subprocess.run(
        command, env=kept | {"PATH": PATH} | environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def setup(folder: Path, *prepare: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py after the statements `prepare`; it would put its libraries into `folder`."""
    arguments = ["setup.py", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "build")]
    code = ["import runpy, sys", *prepare, f"sys.argv = {arguments}", "runpy.run_path('setup.py', run_name='__main__')"]
    return run(sys.executable, "-c", "; ".join(code), **environment)


def configure(
    folder: Path, python: str | Path = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the first half of a build, CMake's configuration, as without setup.py."""
    cmake = shutil.which("cmake", path=PATH)
    options = (f"-DVISGEN_PYTHON={python}", f"-DVISGEN_PYTHONS={python}")
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


def program(path: Path, *lines: str) -> Path:
    """An executable script."""
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.fixture
def old_compiler(tmp_path: Path) -> str:
    """A compiler that works and does not know C++20."""
    return str(program(tmp_path / "old-c++", 'exec c++ "${@/-std=c++20/-std=c++14}"'))


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """What a failed build said, on one line."""
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    result = setup(tmp_path, CXX="/nonexistent/c++")
    assert "needs a C++20 compiler, and '/nonexistent/c++' was not found" in sentence(result)


def test_a_compiler_without_cpp20_is_named(tmp_path: Path, old_compiler: str) -> None:
    result = configure(tmp_path / "build", CXX=old_compiler)
    assert f"needs a C++20 compiler, and {old_compiler}" in sentence(result)


def test_the_advice_to_set_another_compiler_works(tmp_path: Path, old_compiler: str) -> None:
    sentence(configure(tmp_path / "build", CXX=old_compiler, VISGEN_CUDA="0"))
    result = configure(tmp_path / "build", CXX="c++", VISGEN_CUDA="0")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("mistake", [{"CXX": "false"}, {"CXXFLAGS": "-fno-such-flag"}], ids=str)
def test_a_build_forgets_the_compiler_and_the_flags_of_one_that_failed(
    mistake: dict[str, str], tmp_path: Path, old_compiler: str
) -> None:
    # A build that is isolated has its folder where --build-temp says.
    aside = ("import tempfile", "tempfile.gettempdir = lambda: '/'")
    assert "could not be built" in sentence(setup(tmp_path, *aside, **mistake))
    assert f"and {old_compiler}" in sentence(setup(tmp_path, *aside, CXX=old_compiler))


def test_a_missing_torch_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    result = setup(tmp_path, "sys.modules['torch'] = None")
    assert "built with torch 2.11 or newer, and no torch was found: pip install torch" in sentence(result)


@pytest.mark.parametrize("answer, said", [("/torch;2.10.1+cpu", "has torch 2.10.1+cpu"), ("", "has no torch")])
def test_a_torch_that_does_not_serve_is_named(answer: str, said: str, tmp_path: Path) -> None:
    python = program(tmp_path / "python", f"echo '{answer}'")
    result = configure(tmp_path / "build", python, VISGEN_CUDA="0")
    assert f"is built with torch 2.11 or newer, and {python} {said}" in sentence(result)


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


def test_the_tests_of_aarch64_say_what_they_need() -> None:
    result = run(sys.executable, "tools/test_aarch64.py", PATH="")
    assert result.returncode == 1 and result.stderr == (
        "test_aarch64 needs aarch64-linux-gnu-g++ and qemu-aarch64: apt-get install g++-aarch64-linux-gnu qemu-user\n"
    )
