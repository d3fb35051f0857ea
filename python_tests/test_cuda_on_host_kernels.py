"""The real kernels, emulated with every access to memory checked."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_kernels_have_no_faults_and_give_the_same_bits_under_every_schedule() -> None:
    folder = Path(__file__).parent
    path = os.pathsep.join(filter(None, [str(folder), str(folder.parent), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        [sys.executable, "-m", "cuda_on_host.run_cases"],
        env={**os.environ, "PYTHONPATH": path, "VISGEN_CUDA_ON_HOST": "checked"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "runs without a fault" in result.stdout
