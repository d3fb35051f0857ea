"""`python -m benchmarks.gpu_report --out DIR`: everything that only a GPU can tell, in one command and under 8 minutes.

Builds a wheel (or takes one), installs it beside the results, and from there runs the CUDA tests, compute-sanitizer on
small cases, the machine's ceilings and every family's benchmark, and reads each kernel's resources from the library.
Writes report.md, report.json, the benchmarks' own files and one log a part. A part that fails or runs out of time is
reported and stops no other; a part whose tool is missing is skipped and says which. Exit code 1 if any part failed, or
if tests or benchmarks were skipped: a report that tested nothing is no success.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .kernel_resources import kernel_resources, toolkit_program
from .machine import describe, provenance
from .parts import FAILED, SKIPPED, TIMED_OUT, Commands, Failure, Outcome, Report, Skip
from .table import as_markdown, ceilings_text

REPOSITORY = Path(__file__).resolve().parent.parent
MINUTES = 8
# By name, as importing benchmarks.families needs the library that this report has yet to build.
_FAMILIES = sorted(page.stem for page in (Path(__file__).parent / "families").glob("[a-z]*.py"))
_CHECKED = {
    "activate",
    "diffuse",
    "dit_step",
    "modulate",
    "multiscale",
    "optimize",
    "quantize",
    "solve",
}  # families with a promise of a GPU
_NEEDED = ("layouts on the GPU", "tests", *(f"benchmark {family}" for family in _FAMILIES))
_CUDA_TESTS = "cuda and not host and not test_build and not test_benchmarks"
_CEILINGS = """
import json, sys
from benchmarks.ceilings import measure_ceilings
from benchmarks.machine import describe
with open(sys.argv[1], "w") as target:
    json.dump(measure_ceilings(describe("cuda")).as_dict(), target)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all parts and writes the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="a wheel of visgen_fast; without it one is built")
    options = parser.parse_args(arguments)
    if options.wheel is not None and not options.wheel.is_file():
        parser.error(f"--wheel must be a file, got {options.wheel}")
    outcomes = make_report(options.out.resolve(), options.wheel and options.wheel.resolve(), 60 * MINUTES)
    return int(any(_is_fault(outcome) for outcome in outcomes))


def _is_fault(outcome: Outcome) -> bool:
    return outcome.status in (FAILED, TIMED_OUT) or (outcome.status == SKIPPED and outcome.name in _NEEDED)


def make_report(out: Path, wheel: Path | None, seconds: float) -> list[Outcome]:
    """All parts within `seconds`; report.md and report.json are written whatever becomes of them."""
    shutil.rmtree(out / "logs", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out, time.monotonic() + seconds)
    with tempfile.TemporaryDirectory() as folder:
        workplace = Path(folder)
        _run_parts(report, workplace, wheel)
    machine = describe("cuda" if torch.cuda.is_available() else "cpu")
    contents = {**provenance(machine), "parts": [asdict(outcome) for outcome in report.outcomes]}
    places = {workplace: "<workplace>", out: "<out>", REPOSITORY: "<repository>",
              Path(sys.prefix): "<python>", Path(sys.base_prefix): "<python>"}  # fmt: skip
    stored = json.dumps(contents, indent=1, ensure_ascii=False) + "\n"
    (out / "report.json").write_text(without_places(stored, places))
    (out / "report.md").write_text(without_places(as_text(contents, out), places))
    print(f"written to {out / 'report.md'}")
    return report.outcomes


def without_places(text: str, places: Mapping[Path, str]) -> str:
    """`text` with short names for folders, and what lies below them: where a machine keeps things is nobody's business.

    The innermost folder gives its name; one whose name only begins the same is another.
    """
    for folder in sorted(places, key=lambda place: len(place.parts), reverse=True):
        text = re.sub(r"(?<![\w.-])" + re.escape(str(folder)) + r"(?![\w.-])", places[folder], text)
    return text


def _run_parts(report: Report, workplace: Path, given: Path | None) -> None:
    # Tests and benchmarks run in a folder without the sources of the package, so that they meet the wheel's.
    site = workplace / "site"
    environment = {"PYTHONPATH": os.pathsep.join([str(workplace), str(site)])}
    (workplace / "benchmarks").symlink_to(REPOSITORY / "benchmarks", target_is_directory=True)
    shutil.copytree(REPOSITORY / "python_tests", workplace / "python_tests")
    shutil.copy(REPOSITORY / "pyproject.toml", workplace)
    out = report.folder

    def in_workplace(commands: Commands, *command: str | Path, check: bool = True) -> int:
        return commands.run(command, workplace, environment, check)

    report.part("device", 20, _device)
    report.part("layouts on the GPU", 90, _layouts)
    report.part("wheel", 200, lambda commands: _wheel(commands, given, workplace / "wheel"))
    wheel = given or next((workplace / "wheel").glob("*.whl"), None)

    def install(commands: Commands) -> dict[str, Any]:
        if wheel is None:
            raise Skip("there is no wheel")
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel]
        commands.run(pip, workplace)
        return {"remark": wheel.name}

    report.part("install", 60, install)
    report.part("kernel resources", 60, lambda _: _resources(site))
    report.part("ceilings", 40, lambda commands: _ceilings(commands, in_workplace, out))
    report.part("tests", 180, lambda commands: _tests(commands, in_workplace, site))
    for tool in ("memcheck", "racecheck"):
        report.part(tool, 60, lambda commands, tool=tool: _sanitizer(commands, in_workplace, site, tool))
    for family in _FAMILIES:
        report.part(
            f"benchmark {family}", 120, lambda commands, family=family: _benchmark(commands, in_workplace, family, out)
        )


# --------------------------------------------------------------------------------------------------------------- parts


def _device(commands: Commands) -> dict[str, Any]:
    _need_gpu()
    if shutil.which("nvidia-smi"):
        commands.run(["nvidia-smi"], REPOSITORY)
    properties = torch.cuda.get_device_properties(0)
    return {"remark": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"}


def _layouts(commands: Commands) -> dict[str, Any]:
    """Tensor-core layouts on real tensor cores: nvcc compiles the emulator's tests, which only the sources have."""
    _need_gpu()
    nvcc = toolkit_program("nvcc")
    if nvcc is None:
        raise Skip("there is no nvcc")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(nvcc).parent)])

    def in_checkout(commands: Commands, *command: str | Path, check: bool) -> int:
        return commands.run(command, REPOSITORY, {"PATH": path}, check)

    names = ("test_cuda_on_host_layouts.py", "test_cuda_on_host.py")
    return _pytest(commands, in_checkout, "_gpu", *(f"python_tests/{name}" for name in names))


def _wheel(commands: Commands, given: Path | None, folder: Path) -> dict[str, Any]:
    if given is not None:
        return {"remark": f"{given.name}, given"}
    if toolkit_program("nvcc") is None:
        raise Skip("there is neither nvcc nor a --wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, REPOSITORY]
    commands.run(pip, REPOSITORY, {"VISGEN_CUDA": "1", **_own_architecture()})
    built = next(folder.glob("*.whl"))
    return {"remark": f"{built.name}, {built.stat().st_size / 2**20:.1f} MiB"}


def _own_architecture() -> dict[str, str]:
    """Only this GPU's architecture is compiled, for time; all of them where there is no GPU."""
    if not torch.cuda.is_available() or "TORCH_CUDA_ARCH_LIST" in os.environ:
        return {}
    return {"TORCH_CUDA_ARCH_LIST": "{}.{}".format(*torch.cuda.get_device_capability())}


def _resources(site: Path) -> dict[str, Any]:
    library = _cuda_library(site)
    if toolkit_program("cuobjdump") is None:
        raise Skip("there is no cuobjdump")
    architecture = "sm_{}{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None
    kernels = [{**asdict(kernel), "occupancy": kernel.occupancy} for kernel in kernel_resources(library, architecture)]
    if not kernels:
        raise Failure(f"{library.name} holds no kernel for {architecture or 'any architecture'}")
    spilling = sum(kernel["stack_bytes"] > 0 for kernel in kernels)
    return {"kernels": kernels, "remark": f"{len(kernels)} kernels, {spilling} with a stack"}


def _ceilings(commands: Commands, in_workplace, out: Path) -> dict[str, Any]:
    _need_gpu()
    target = out / "logs" / "ceilings.json"
    in_workplace(commands, sys.executable, "-c", _CEILINGS, target)
    ceilings = json.loads(target.read_text())
    return {"ceilings": ceilings, "remark": ceilings_text(ceilings)}


def _tests(commands: Commands, in_workplace, site: Path) -> dict[str, Any]:
    _need_gpu()
    _cuda_library(site)
    # The backend on a GPU is called cuda, the emulated one cuda-on-host; tests of the build need the sources.
    return _pytest(commands, in_workplace, _CUDA_TESTS, "python_tests")


def _pytest(commands: Commands, run: Callable[..., int], chosen: str, *paths: str) -> dict[str, Any]:
    """The tests of `paths` whose names fit `chosen`; Failure where one fails or none runs."""
    status = run(
        commands, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *paths, check=False
    )
    if status == 5:
        raise Failure("no test ran")
    summary = commands.last_line().strip("= ")
    if status != 0:
        raise Failure(summary)
    return {"remark": summary}


def _sanitizer(commands: Commands, in_workplace, site: Path, tool: str) -> dict[str, Any]:
    _need_gpu()
    _cuda_library(site)
    sanitizer = toolkit_program("compute-sanitizer")
    if sanitizer is None:
        raise Skip("there is no compute-sanitizer")
    watched = [sys.executable, "-m", "benchmarks.sanitized_cases"]
    in_workplace(commands, sanitizer, "--tool", tool, "--error-exitcode", "3", *watched)
    return {"remark": commands.last_line().strip("= ")}


def _benchmark(commands: Commands, in_workplace, family: str, out: Path) -> dict[str, Any]:
    _need_gpu()
    stored = out / f"{family}.json"
    stored.unlink(missing_ok=True)  # an earlier run's must not pass for this one's
    seconds = max(commands.deadline - time.monotonic() - 20, 5)
    options = ["--device", "cuda", "--seconds", "0.3", "--stop-after", f"{seconds:.0f}", "--out", out]
    options += ["--check"] * (family in _CHECKED)
    status = in_workplace(commands, sys.executable, "-m", "benchmarks", family, *options, check=False)
    if status not in (0, 1) or not stored.exists():
        raise Failure(f"ended with status {status}: {commands.last_line()}")
    log = commands.log.read_text()
    if status == 1:
        raise Failure("; ".join(re.findall(r"^  MISS .*", log, re.MULTILINE)) or commands.last_line())
    return {"remark": f"{len(json.loads(stored.read_text())['cases'])} cases"}


def _need_gpu() -> None:
    if not torch.cuda.is_available():
        raise Skip("torch sees no GPU")


def _cuda_library(site: Path) -> Path:
    library = next(site.glob("visgen_fast/**/libvisgen_fast_cuda*"), None)
    if library is None:
        raise Skip("no CUDA library is installed")
    return library


# ---------------------------------------------------------------------------------------------------------------- text


def as_text(report: Mapping[str, Any], out: Path) -> str:
    """report.md from what report.json holds and the benchmarks' files beside it."""
    machine = report["machine"]["name"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    head = f"# {machine}\n\ncommit {report['commit']}, {report['date'][:10]}, {versions}"
    parts = [
        [part["name"], part["status"], f"{part['seconds']:.0f}", _one_line(part["remark"])] for part in report["parts"]
    ]
    sections = [head, as_markdown(["part", "result", "seconds", "remark"], parts)]
    measured = {part["name"] for part in report["parts"] if part["status"] != SKIPPED}
    for family in _FAMILIES:
        if f"benchmark {family}" in measured and (stored := out / f"{family}.json").exists():
            sections += [f"## {family}\n\n![{family}]({family}.png)", _shares(json.loads(stored.read_text()))]
    kernels = [kernel for part in report["parts"] for kernel in part["details"].get("kernels", [])]
    if kernels:
        sections += ["## Kernels", _kernel_table(kernels)]
    for part in report["parts"]:
        if part["status"] in (FAILED, TIMED_OUT):
            sections += [f"## {part['name']}: {part['status']}\n\n```\n{_tail(part, out)}\n```"]
    return "\n\n".join(sections) + "\n"


def _shares(family: Mapping[str, Any]) -> str:
    rows = []
    for case in family["cases"]:
        ours = case["entries"]["ours"]
        seconds = ours["cold"]["median"]
        rows.append(
            [
                case["name"],
                f"{seconds * 1e6:.1f}",
                f"{case['best_peer_seconds'] * 1e6:.1f}",
                f"{ours['times_faster_than_best_peer']:.2f}×",
                f"{case['floor_seconds'] / seconds:.0%}",
                f"{case['memory_floor_seconds'] / seconds:.0%}",
            ]
        )
    return as_markdown(["case", "ours, µs", "best peer, µs", "faster", "share of ceiling", "share of copy"], rows)


def _kernel_table(kernels: Sequence[Mapping[str, Any]]) -> str:
    header = ["kernel", "architecture", "registers", "shared bytes", "stack bytes", "threads", "occupancy"]
    rows = []
    for kernel in kernels:
        occupancy = "–" if kernel["occupancy"] is None else f"{kernel['occupancy']:.0%}"
        numbers = [str(kernel[key]) for key in ("registers", "shared_bytes", "stack_bytes")]
        rows.append([f"`{kernel['name']}`", kernel["architecture"], *numbers, str(kernel["threads"] or "–"), occupancy])
    return as_markdown(header, rows)


def _tail(part: Mapping[str, Any], out: Path, lines: int = 25) -> str:
    log = out / "logs" / f"{part['name'].replace(' ', '-')}.txt"
    text = part["details"].get("traceback") or (log.read_text(errors="replace") if log.exists() else part["remark"])
    return "\n".join(text.rstrip().splitlines()[-lines:])


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
