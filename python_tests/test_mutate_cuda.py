"""tools/mutate_cuda.py plants its faults where they belong."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("mutate_cuda", ROOT / "tools" / "mutate_cuda.py")
mutate_cuda = importlib.util.module_from_spec(_spec)
sys.modules["mutate_cuda"] = mutate_cuda
_spec.loader.exec_module(mutate_cuda)


@pytest.mark.parametrize("mutation", mutate_cuda.MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_fits_its_source(mutation):
    mutate_cuda.check_fit(ROOT, mutation)
