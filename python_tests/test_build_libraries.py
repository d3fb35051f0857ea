"""What the compiled libraries contain, ask for and tell about themselves."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import torch

import visgen_fast

PACKAGE = Path(visgen_fast.__file__).parent
REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARIES = sorted((PACKAGE / "lib").glob("libvisgen_fast_*.so"))
OBJECTS = sorted((REPOSITORY / "build" / "cmake" / "CMakeFiles").glob("isa_*.dir/**/*.o"))
MODULES = sorted(PACKAGE.glob("_C.*.so"))
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
MODULE_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def symbols(*arguments: str | Path) -> list[tuple[str, str]]:
    """(type, demangled name) of what nm lists."""
    return re.findall(r"^[0-9a-f ]*([A-Za-z]) (.+)$", output("nm", "-C", *arguments), re.MULTILINE)


def in_python(code: str) -> str:
    return output(sys.executable, "-W", "error", "-c", code).strip()


def test_the_cpu_library_is_built() -> None:
    assert "libvisgen_fast_cpu.so" in [library.name for library in LIBRARIES]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_a_library_asks_for_the_stable_abi_and_for_no_python(library: Path) -> None:
    needed = [name for kind, name in symbols("--dynamic", "--undefined-only", library) if kind == "U"]
    assert any(name.startswith("aoti_torch_") for name in needed)
    assert [name for name in needed if re.match(r"_?Py[A-Z_]|(at|c10|torch|pybind11)::", name)] == []


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_a_library_finds_torch_in_the_process_and_not_by_a_path(library: Path) -> None:
    dynamic = output("readelf", "--dynamic", library)
    assert "[libtorch.so]" in dynamic and "[libtorch_cpu.so]" in dynamic
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic and "libpython" not in dynamic


@pytest.mark.parametrize("library", LIBRARIES + MODULES, ids=lambda path: path.name)
def test_a_library_names_no_path_of_its_builder(library: Path) -> None:
    """So that building is reproducible, and no message shows where somebody built."""
    text = library.read_bytes()
    for path in (REPOSITORY / "csrc", Path(torch.__file__).parent / "include"):
        assert str(path).encode() not in text


@pytest.mark.parametrize("objects", OBJECTS, ids=lambda path: str(path).partition("isa_")[2])
def test_an_instruction_set_shares_no_symbol_with_another(objects: Path) -> None:
    """The linker keeps one copy of a weak symbol: it must not be one with instructions that the machine lacks."""
    namespace = re.search(r"isa_(\w+)\.dir", str(objects)).group(1)
    shared = [name for kind, name in symbols("--defined-only", objects) if kind in "WVuwv"]
    assert [name for name in shared if f"visgen::{namespace}::" not in name] == []


def test_every_instruction_set_is_examined() -> None:
    examined = {re.search(r"isa_(\w+)\.dir", str(objects)).group(1) for objects in OBJECTS}
    x86 = {"baseline", "avx2", "avx512", "avx512vnni", "avx512bf16"}
    expected = x86 if sysconfig.get_platform().endswith("x86_64") else {"baseline", "dotprod"}
    assert examined == expected, "the objects lie in build/cmake after `pip install -e .`"


def test_the_operations_need_no_module_of_one_interpreter() -> None:
    code = "import sys; sys.modules['visgen_fast._C'] = None; import torch; from visgen_fast import ops; "
    assert in_python(code + "print(ops.gaussian(torch.tensor([3]), (2, 2)).shape)") == "torch.Size([1, 2, 2])"


def test_build_info_tells_what_was_built() -> None:
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        assert not (PACKAGE / f"_C{MODULE_SUFFIX}").exists()  # an interpreter without headers gets no _C
        return
    from visgen_fast import _C, _library

    info = _C.build_info()
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert info["version"] == version and info["torch_target"] == "2.11"
    assert re.match(r"\w+ \d+\.\d+", info["compiler"])
    assert info["instruction_sets"][0] == "baseline" and _C.cpu_capability() in info["instruction_sets"]
    assert _C.cpu_capability() == _library.cpu_capability()
    has_cuda = (PACKAGE / "lib" / "libvisgen_fast_cuda.so").exists()
    assert bool(info["cuda_architectures"]) == has_cuda and bool(info["nvcc"]) == has_cuda


def capability(environment: dict[str, str]) -> tuple[str, str]:
    """The instruction set that a process with that environment uses, and what it says of it."""
    code = "from visgen_fast import _library; print(_library.cpu_capability())"
    others = {name: value for name, value in os.environ.items() if name != "VISGEN_CPU_CAPABILITY"}
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=others | environment
    )
    return result.stdout.strip(), result.stderr.strip()


def test_the_environment_chooses_the_instruction_set() -> None:
    assert capability({"VISGEN_CPU_CAPABILITY": "baseline"}) == ("baseline", "")


def test_an_empty_choice_of_the_instruction_set_is_none() -> None:
    assert capability({"VISGEN_CPU_CAPABILITY": ""}) == capability({})


def test_an_unknown_instruction_set_is_ignored_with_a_sentence() -> None:
    used, said = capability({"VISGEN_CPU_CAPABILITY": "mmx"})
    assert used == capability({})[0]
    assert said.startswith("visgen_fast: VISGEN_CPU_CAPABILITY must be baseline") and said.endswith("mmx is ignored.")


def test_builds_of_two_folders_are_identical(tmp_path: Path) -> None:
    """One source with torch's headers and its own stands for all."""
    target, objects = "CMakeFiles/visgen_fast_cpu.dir/csrc/cpu/noise.cpp.o", []
    for name in ("one", "another"):
        source = tmp_path / name
        shutil.copytree(REPOSITORY / "csrc", source / "csrc")
        for file in ("CMakeLists.txt", "pyproject.toml"):
            shutil.copy(REPOSITORY / file, source)
        python = (f"-DVISGEN_PYTHON={sys.executable}", "-DVISGEN_PYTHONS=")
        environment = {**os.environ, "VISGEN_CUDA": "0", "PATH": PATH}
        for command in (
            ["-S", source, "-B", source / "build", "-G", "Ninja", *python],
            ["--build", source / "build", "--target", target],
        ):
            subprocess.run(
                [shutil.which("cmake", path=PATH), *command], check=True, capture_output=True, env=environment
            )
        objects.append((source / "build" / target).read_bytes())
    assert objects[0] == objects[1]


def test_the_sdist_holds_every_file_of_the_repository(tmp_path: Path) -> None:
    """README's pictures and what `make` needs too."""
    command = [
        sys.executable,
        "setup.py",
        "--quiet",
        "egg_info",
        "--egg-base",
        tmp_path,
        "sdist",
        "--dist-dir",
        tmp_path,
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as contents:
        packed = {name.partition("/")[2] for name in contents.getnames()}
    tracked = output("git", "-C", REPOSITORY, "ls-files").splitlines()
    assert sorted(set(tracked) - packed) == []


def test_the_wheel_is_for_every_python_3_of_the_platform(tmp_path: Path) -> None:
    folders = ("--bdist-dir", tmp_path / "contents", "--dist-dir", tmp_path)
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--skip-build", *folders]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.split("-", 2)[2] == f"py3-none-{platform}.whl"
