"""tools/mutate_cuda.py plants its faults where they belong."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tools"))

import mutate_cuda  # noqa: E402


@pytest.mark.parametrize("mutation", mutate_cuda.MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_fits_its_source(mutation):
    mutate_cuda.check_fit(ROOT, mutation)
