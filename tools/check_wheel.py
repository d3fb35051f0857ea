"""Installs the wheel, then the sdist, beside torch in a bare virtual environment, and runs operations there.

    python tools/check_wheel.py dist/visgen_fast-0.1.0-py3-none-manylinux_2_36_x86_64.whl dist/visgen_fast-0.1.0.tar.gz

The sdist is built without isolation and for the CPU alone; neither installation may bring another torch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from check_abi import DESCRIBE, REPOSITORY, bare_environment

OPERATIONS = """
from visgen_fast import ops, reference
seeds, generator = torch.arange(4), torch.Generator().manual_seed(0)
noise = ops.gaussian(seeds, (3, 8, 8))
torch.testing.assert_close(noise, reference.gaussian(seeds, (3, 8, 8)), rtol=0, atol=1e-6)
codebook = torch.randn(64, 16, generator=generator)
assert ops.nearest_code(codebook[::3], codebook).tolist() == list(range(0, 64, 3))
x = torch.rand(4, 3, 8, 8, generator=generator, requires_grad=True)
x_t, target = ops.diffuse(x, torch.tensor([[0.6, 0.8, -0.8, 0.6]] * 4), seeds)
x_t.sum().backward()
torch.testing.assert_close(x.grad, torch.full_like(x, 0.6))
"""


def _torch_version(python: Path) -> str:
    command = [python, "-c", "import importlib.metadata as m; print(m.version('torch'))"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Checks both, and ends with the first that fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("sdist", type=Path)
    parser.add_argument("--torch", default="torch", help="the torch to install, such as torch==2.13.0")
    parser.add_argument("--torch-index", default="", help="package index to take torch from")
    arguments = parser.parse_args()
    wheel, sdist = arguments.wheel.resolve(strict=True), arguments.sdist.resolve(strict=True)
    (REPOSITORY / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheel-", dir=REPOSITORY / "build") as folder:
        inside, install = bare_environment(Path(folder), sys.executable, arguments.torch, arguments.torch_index)
        run = [inside, "-c", DESCRIBE + OPERATIONS]
        before = _torch_version(inside)
        subprocess.run([*install, wheel], check=True)
        subprocess.run(run, cwd=folder, check=True)
        # With --check-build-dependencies pip refuses where the build asks for another torch than the one that is there.
        subprocess.run([*install, "setuptools>=77", "cmake", "ninja"], check=True)
        build = ["--no-build-isolation", "--check-build-dependencies", "--force-reinstall", "--no-deps", sdist]
        subprocess.run([*install, *build], check=True, env={**os.environ, "VISGEN_CUDA": "0"})
        subprocess.run(run, cwd=folder, check=True)
        after = _torch_version(inside)
    if after != before:
        sys.exit(f"an installation replaced torch {before} by {after}")
    print(f"{wheel.name} and {sdist.name} serve beside torch {after}")


if __name__ == "__main__":
    main()
