"""Runs vector-quantize-pytorch's own examples and tests with our operations in it.

Each example of the README in the package's source distribution (from the package index) runs twice from the same
random state, by itself and with `apply_visgen_to_vector_quantize_pytorch`, and every tensor it leaves is compared. By
itself it gets distances in float64: in float32 it takes codes that are not nearest, and then all that follows differs.

The source distribution has no tests; `--tests FOLDER` takes those of a checkout of the package's repository, all of
them, a few minutes' work. Each must have the same outcome with our operations as by itself. Both times it begins with
the same random state, and distances that the package itself computes are exact: some tests compare codes from what we
replace with codes from what we don't.

    python tools/check_vector_quantize_pytorch.py --tests vector-quantize-pytorch/tests
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor
from vector_quantize_pytorch import vector_quantize_pytorch as package

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from visgen_fast.interop import apply_visgen_to_vector_quantize_pytorch  # noqa: E402

# Plugins of pytest: what every test runs with, and what it runs with the second time. A few of the package's tests, of
# FSP and LFQ, which we don't replace, pass from most random states only.
ALIKE = """\
import random
import torch
from check_vector_quantize_pytorch import exact_distances
exact = exact_distances()
exact.__enter__()
def pytest_runtest_setup():
    torch.manual_seed(1)
    random.seed(1)
"""
OURS = "from visgen_fast.interop import apply_visgen_to_vector_quantize_pytorch as apply\napply()\n"
REPLACED = {"VectorQuantize", "ResidualVQ", "GroupedResidualVQ", "RandomProjectionQuantizer", "HierarchicalVQ"}
FURTHER = {"x_transformers": "x-transformers==2.31.10"}  # what single tests import beside the package, and where from


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=Path, metavar="FOLDER", help="the tests of a checkout of its repository")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failures = check_examples(Path(folder))
        if arguments.tests:
            failures += check_tests(arguments.tests.resolve(), Path(folder))
    print(f"{failures} differences" if failures else "everything is as it is by itself")
    return min(failures, 1)


def check_examples(folder: Path) -> int:
    """The number of examples that give something else with our operations than by themselves."""
    failures = 0
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", readme(folder), re.DOTALL), 1):
        classes = ", ".join(sorted(set(re.findall(r"import (\w+)", example)) - {"torch"}))
        if not REPLACED & set(re.findall(r"\w+", example)):
            print(f"example {number} ({classes}): left out, it has nothing that is replaced")
            continue
        with exact_distances():
            own = outcome_of(example)
        with apply_visgen_to_vector_quantize_pytorch():
            ours = outcome_of(example)
        differing = differences(ours, own)
        failures += bool(differing)
        verdict = f"FAILED: {differing}" if differing else "passed"
        print(f"example {number} ({classes}): {verdict}" + (f", {own} by itself too" if isinstance(own, str) else ""))
    return failures


@contextlib.contextmanager
def exact_distances():
    """The package's codes, those of k-means too, are the nearest in float64."""
    rounded = package.cdist

    def cdist(x: Tensor, y: Tensor) -> Tensor:
        distances = rounded(x, y)
        nearest = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(-1, True)
        return distances.scatter(-1, nearest, distances.amin(-1, keepdim=True) - 1e-3)

    package.cdist = cdist
    try:
        yield
    finally:
        package.cdist = rounded


def readme(folder: Path) -> str:
    """The README in the source distribution of the installed version."""
    version = importlib.metadata.version("vector-quantize-pytorch")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder]
    subprocess.run([*pip, f"vector-quantize-pytorch=={version}"], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        (name,) = [name for name in files.getnames() if re.fullmatch(r"[^/]+/README\.md", name)]
        found = files.extractfile(name)
        assert found is not None
        return found.read().decode()


def outcome_of(example: str) -> dict[str, Tensor] | str:
    """Every tensor that the code leaves behind, those in its modules included, or the name of what it raises."""
    torch.manual_seed(0)
    random.seed(0)
    names: dict[str, object] = {}
    try:
        with contextlib.redirect_stdout(None):
            exec(compile(example, "an example", "exec"), names)
    except Exception as error:
        return type(error).__name__
    found: dict[str, Tensor] = {}
    for name, value in names.items():
        if isinstance(value, torch.nn.Module):
            found |= {f"{name}.{key}": tensor for key, tensor in value.state_dict().items()}
        elif isinstance(value, Tensor):
            found[name] = value
    return found


def differences(ours: dict[str, Tensor] | str, own: dict[str, Tensor] | str) -> str:
    """The names of the tensors that differ, integers at all and other numbers beyond the rounding of a batch's sums."""
    if isinstance(own, str) or isinstance(ours, str):
        return "" if ours == own else f"raises {ours}" if isinstance(ours, str) else "does not raise"
    if ours.keys() != own.keys():
        return "other tensors"
    return ", ".join(name for name in own if not same(ours[name].detach(), own[name].detach()))


def same(ours: Tensor, own: Tensor) -> bool:
    if ours.shape != own.shape or not own.is_floating_point():
        return torch.equal(ours, own)
    return own.numel() == 0 or bool((ours - own).abs().max() <= 1e-4 * own.abs().max())


def check_tests(tests: Path, folder: Path) -> int:
    """The number of tests whose outcome is another with our operations than by itself."""
    missing = [requirement for module, requirement in FURTHER.items() if importlib.util.find_spec(module) is None]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "further"]
        subprocess.run([*pip, *missing], check=True)
    (folder / "visgen_alike.py").write_text(ALIKE)
    (folder / "visgen_ours.py").write_text(OURS)
    own, ours = (outcomes(tests, folder, plugins) for plugins in (["visgen_alike"], ["visgen_alike", "visgen_ours"]))
    for name, outcome in ours.items():
        print(f"{name}: {outcome}" + (f", by itself {own[name]}" if {outcome, own[name]} != {"passed"} else ""))
    print(f"tests: {list(ours.values()).count('passed')} of {len(ours)} passed")
    if "passed" not in own.values():
        raise SystemExit(f"the tests in {tests} do not run by themselves either")
    return sum(outcome != own[name] for name, outcome in ours.items())


def outcomes(tests: Path, folder: Path, plugins: Sequence[str]) -> dict[str, str]:
    """What pytest says of each test in a folder, run against the installed package."""
    report = folder / "report.xml"
    paths = os.pathsep.join(map(str, (folder, folder / "further", ROOT, ROOT / "tools")))
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tests]
    chosen = [option for plugin in plugins for option in ("-p", plugin)]
    command = [sys.executable, "-m", "pytest", *options, *chosen, f"--junitxml={report}", tests]
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.DEVNULL, check=False)
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[f"{case.get('classname')}.{case.get('name')}"] = bad[0] if bad else "passed"
    if not found:
        raise SystemExit(f"there are no tests in {tests}")
    return found


if __name__ == "__main__":
    sys.exit(main())
