"""Drives CMakeLists.txt through ninja and packs what it makes; everything else is in pyproject.toml."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

SOURCE = Path(__file__).resolve().parent


def program(name: str) -> str:
    """The path of a build tool: beside this Python first, where pip puts build requirements, then on PATH."""
    folders = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        sys.exit(f"visgen_fast is built with {name}, which was not found: pip install {name}")
    return path


def forget_compiler(folder: Path) -> None:
    """CMake would keep the compiler and the flags of the first build, bad ones too. What they compiled stays."""
    (folder / "CMakeCache.txt").unlink(missing_ok=True)
    for answers in folder.glob("CMakeFiles/[0-9]*"):
        shutil.rmtree(answers)


class BuildNative(build_ext):
    """CMake builds all libraries at once; editable installs keep theirs in the source tree."""

    def run(self) -> None:
        compiler = os.environ.get("CXX") or "c++"
        if shutil.which(compiler.split()[0]) is None:
            sys.exit(f"visgen_fast needs a C++20 compiler, and {compiler!r} was not found: install g++ or set CXX")
        torch = importlib.util.find_spec("torch")
        if torch is None:
            sys.exit("visgen_fast is built with torch 2.11 or newer, and no torch was found: pip install torch")
        cmake, ninja = program("cmake"), program("ninja")

        # An isolated build finds torch in a throw-away folder, so nothing can be built upon what it compiled.
        isolated = Path(torch.origin).is_relative_to(tempfile.gettempdir()) and not self.inplace
        folder = Path(self.build_temp).resolve() if isolated else SOURCE / "build" / "cmake"
        target = SOURCE if self.inplace else Path(self.build_lib).resolve()
        configure = [cmake, "-S", SOURCE, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        configure += [f"-DCMAKE_INSTALL_PREFIX={target}", f"-DVISGEN_PYTHON={sys.executable}"]
        configure += [f"-DVISGEN_PYTHONS={sys.executable}"] if self.inplace else []
        forget_compiler(folder)
        jobs = ["--parallel", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        for command in (configure, [cmake, "--build", folder, *jobs]):
            if subprocess.run(command, check=False).returncode != 0:
                sys.exit("visgen_fast could not be built; the first error above says why")
        for stale in [*target.glob("visgen_fast/lib/libvisgen_fast_*.so"), *target.glob("visgen_fast/_C.*.so")]:
            stale.unlink()
        subprocess.run([cmake, "--install", folder], check=True, stdout=subprocess.DEVNULL)

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class BuildFresh(build):
    """Packs no module that an earlier build left behind."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class AnyPython3Wheel(bdist_wheel):
    """The libraries hold no Python symbols, and _C is optional: one wheel serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("visgen_fast._C", sources=[])],
    cmdclass={"build": BuildFresh, "build_ext": BuildNative, "bdist_wheel": AnyPython3Wheel},
)
