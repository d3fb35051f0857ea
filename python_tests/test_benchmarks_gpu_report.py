"""The GPU report: what of it needs no GPU."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

from benchmarks import gpu_report
from benchmarks.families import FAMILIES
from benchmarks.kernel_resources import KernelResources, parse_launch_bounds, parse_resource_usage, toolkit_program
from benchmarks.parts import FAILED, PASSED, SKIPPED, TIMED_OUT, Commands, Failure, Outcome, Report, Skip

# What cuobjdump 13.2 prints for a library of two kernels, one of them with a local array.
USAGE = """
Fatbin elf code:
================
arch = sm_80
code version = [1,8]
host = linux
compile_size = 64bit

Resource usage:
 Common:
  GLOBAL:0
 Function _Z3dotIdEvPT_i:
  REG:32 STACK:512 SHARED:0 LOCAL:0 CONSTANT[0]:364 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z5saxpyPfPKffl:
  REG:10 STACK:0 SHARED:512 LOCAL:0 CONSTANT[0]:384 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90
code version = [1,8]
host = linux
compile_size = 64bit

Resource usage:
 Common:
  GLOBAL:0
 Function _Z3dotIdEvPT_i:
  REG:32 STACK:512 SHARED:0 LOCAL:0 CONSTANT[0]:540 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
ELF = """
arch = sm_80
.nv.info
\tAttribute:\tEIATTR_REGCOUNT
.nv.info._Z3dotIdEvPT_i
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x200 0x1 0x1 
arch = sm_90
.nv.info._Z5saxpyPfPKffl
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x10 0x10 0x1 
"""  # noqa: W291  the tool ends these lines with a space


def test_resources_of_every_kernel_and_architecture_are_read():
    kernels = parse_resource_usage(USAGE, parse_launch_bounds(ELF))
    assert kernels == [
        KernelResources("_Z3dotIdEvPT_i", "sm_80", 32, 0, 512, 512),
        KernelResources("_Z5saxpyPfPKffl", "sm_80", 10, 512, 0, None),
        KernelResources("_Z3dotIdEvPT_i", "sm_90", 32, 0, 512, None),
    ]


def test_launch_bounds_multiply_the_dimensions_of_a_block():
    assert parse_launch_bounds(ELF) == {("sm_80", "_Z3dotIdEvPT_i"): 512, ("sm_90", "_Z5saxpyPfPKffl"): 256}


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "architecture", "occupancy"),
    [
        (32, 0, 256, "sm_80", 1.0),  # 8 blocks of 8 warps fill 64
        (40, 0, 256, "sm_90", 48 / 64),  # 10240 registers a block: 6 blocks
        (255, 0, 256, "sm_86", 8 / 48),  # 65280 registers a block: 1 block
        (32, 80 << 10, 256, "sm_80", 16 / 64),  # 81 KiB of 164 a block: 2 blocks
        (16, 0, 32, "sm_86", 16 / 48),  # 16 blocks at most, of one warp each
        (32, 0, 1024, "sm_89", 32 / 48),  # a second block of 32 warps does not fit into 48
        (32, 1024, 256, "sm_90a", 1.0),
    ],
)
def test_occupancy_is_what_the_scarcest_resource_leaves(registers, shared, threads, architecture, occupancy):
    assert KernelResources("k", architecture, registers, shared, 0, threads).occupancy == pytest.approx(occupancy)


def test_occupancy_is_unknown_without_launch_bounds_or_for_an_unknown_architecture():
    assert KernelResources("k", "sm_80", 32, 0, 0, None).occupancy is None
    assert KernelResources("k", "sm_190", 32, 0, 0, 256).occupancy is None


@pytest.fixture
def report(tmp_path):
    return Report(tmp_path, time.monotonic() + 60)


def statuses(report):
    return [outcome.status for outcome in report.outcomes]


def raising(error):
    def work(_):
        raise error

    return work


def test_a_part_that_fails_in_any_way_stops_no_other(report):
    report.part("raises", 5, raising(KeyError("surprise")))
    report.part("fails", 5, raising(Failure("it did not work")))
    report.part("skips", 5, raising(Skip("no tool")))
    assert report.part("works", 5, lambda _: {"remark": "well", "number": 1}) == {"number": 1}
    assert statuses(report) == [FAILED, FAILED, SKIPPED, PASSED]
    assert [outcome.remark for outcome in report.outcomes][1:] == ["it did not work", "no tool", "well"]
    assert "KeyError" in report.outcomes[0].details["traceback"]


def test_a_command_past_its_limit_is_ended_with_its_children(report, tmp_path):
    alive = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(2); pathlib.Path({str(alive)!r}).touch()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    report.part("slow", 1, lambda commands: {"status": commands.run([sys.executable, "-c", parent], tmp_path)})
    assert statuses(report) == [TIMED_OUT]
    time.sleep(2.5)
    assert not alive.exists()


def test_no_part_begins_after_the_deadline(tmp_path):
    report = Report(tmp_path, time.monotonic() - 1)
    report.part("late", 5, raising(AssertionError("it ran")))
    assert [(outcome.status, outcome.remark) for outcome in report.outcomes] == [(SKIPPED, "no time was left")]


def test_a_failed_command_is_told_with_its_last_line(report, tmp_path):
    speaking = "import sys; print('first'); print('what went wrong'); sys.exit(7)"
    report.part("tests", 10, lambda commands: {"status": commands.run([sys.executable, "-c", speaking], tmp_path)})
    assert report.outcomes[0].status == FAILED
    assert "status 7" in report.outcomes[0].remark and "what went wrong" in report.outcomes[0].remark
    assert "first\nwhat went wrong" in (tmp_path / "logs" / "tests.txt").read_text()


def empty_wheel(folder: Path) -> Path:
    wheel = folder / "visgen_fast-0.0.1-py3-none-any.whl"
    info = "visgen_fast-0.0.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("visgen_fast/__init__.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: visgen_fast\nVersion: 0.0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_without_a_gpu_the_report_is_written_and_says_why_parts_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report.torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out"
    outcomes = {outcome.name: outcome for outcome in gpu_report.make_report(out, empty_wheel(tmp_path), 120)}
    assert outcomes["wheel"].status == outcomes["install"].status == PASSED
    assert outcomes["kernel resources"].remark == "no CUDA library is installed"
    assert {
        outcomes[name].remark
        for name in ("device", "layouts on the GPU", "ceilings", "tests", "memcheck", "benchmark diffuse")
    } == {"torch sees no GPU"}
    stored = json.loads((out / "report.json").read_text())
    assert [part["name"] for part in stored["parts"]] == list(outcomes)
    text = (out / "report.md").read_text()
    assert all(f"| {name} | {outcome.status} |" in text for name, outcome in outcomes.items())


def test_a_stored_report_names_no_folder_of_the_machine(tmp_path, monkeypatch):
    def failing(report, workplace, wheel):
        lines = [f"{place}/x.py" for place in (workplace, gpu_report.REPOSITORY, sys.prefix, report.folder)]
        report.part("tells", 20, raising(Failure("; ".join(lines))))
        report.part("raises", 20, lambda _: json.loads("{"))  # its traceback passes through Python's own library
        report.part(
            "runs", 20, lambda commands: commands.run([sys.executable, "-c", f"print({lines}); 1 / 0"], workplace)
        )

    monkeypatch.setattr(gpu_report, "_run_parts", failing)
    out = tmp_path / "out"
    gpu_report.make_report(out, None, 60)
    for text in ((out / "report.json").read_text(), (out / "report.md").read_text()):
        assert "<workplace>/x.py; <repository>/x.py; <python>/x.py; <out>/x.py" in text
        assert "JSONDecodeError" in text
        for place in (gpu_report.REPOSITORY, tmp_path, sys.prefix, sys.base_prefix, tempfile.gettempdir()):
            assert f"{place}/" not in text


def test_the_innermost_folder_gives_its_name_and_a_longer_name_is_another():
    places = {Path("/a"): "<outer>", Path("/a/b"): "<inner>"}
    assert gpu_report.without_places("/a/b/c /a/bc '/a' /ab", places) == "<inner>/c <outer>/bc '<outer>' /ab"


@pytest.mark.parametrize("name", ["layouts on the GPU", "tests", "benchmark noise", "benchmark diffuse"])
def test_a_report_that_skipped_tests_or_benchmarks_is_no_success(name, tmp_path, monkeypatch):
    outcomes = [Outcome(name, PASSED, 1.0), Outcome("racecheck", SKIPPED, 0.0)]
    monkeypatch.setattr(gpu_report, "make_report", lambda *_: outcomes)
    assert gpu_report.main(["--out", str(tmp_path)]) == 0
    outcomes[0].status = SKIPPED
    assert gpu_report.main(["--out", str(tmp_path)]) == 1


def test_the_report_checks_the_families_that_promise_something_of_a_gpu():
    def promises_of(family):
        names = {case.name for case in family.cases("cuda")}
        return any(names.issuperset(promise.needs) for promise in family.PROMISES)

    assert gpu_report._FAMILIES == list(FAMILIES)
    assert gpu_report._CHECKED == {name for name, family in FAMILIES.items() if promises_of(family)}


def program_in(folder: Path, text: str) -> Path:
    program = folder / "bin" / "nvcc"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def test_programs_of_the_toolkit_are_found_where_the_build_finds_them(tmp_path, monkeypatch):
    program = program_in(tmp_path, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert toolkit_program("nvcc") == str(program)
    assert toolkit_program("cuobjdump") is None


def test_the_layouts_are_tested_on_the_gpu_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, "_need_gpu", lambda: None)
    monkeypatch.setenv("CUDA_HOME", str(program_in(tmp_path, "").parents[1]))
    report, commands = Report(tmp_path, time.monotonic() + 60), []
    monkeypatch.setattr(Commands, "run", lambda self, command, folder, *_: commands.append((command, folder)) or 5)
    report.part("layouts on the GPU", 60, gpu_report._layouts)
    ((command, folder),) = commands
    assert folder == gpu_report.REPOSITORY and ("-k", "_gpu") == command[-4:-2]
    assert all((folder / path).is_file() for path in command[-2:])
    assert [(outcome.status, outcome.remark) for outcome in report.outcomes] == [(FAILED, "no test ran")]


def test_a_wheel_that_is_not_there_is_refused_in_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        gpu_report.main(["--out", str(tmp_path), "--wheel", str(tmp_path / "missing.whl")])
    assert refusal.value.code == 2
    assert "--wheel must be a file" in capsys.readouterr().err


def test_the_report_shows_shares_of_the_ceiling_kernels_and_failures(tmp_path):
    entry = {"cold": {"median": 2e-4}, "times_faster_than_best_peer": 3.0}
    case = {"name": "case", "entries": {"ours": entry}, "floor_seconds": 1e-4, "memory_floor_seconds": 5e-5}
    (tmp_path / "diffuse.json").write_text(json.dumps({"cases": [{**case, "best_peer_seconds": 6e-4}]}))
    kernel = {**vars(KernelResources("f<float>", "sm_90", 40, 0, 8, 256)), "occupancy": 0.75}
    part = {"seconds": 1.0, "remark": "", "details": {}}
    parts = [
        {**part, "name": "kernel resources", "status": PASSED, "details": {"kernels": [kernel]}},
        {**part, "name": "benchmark diffuse", "status": FAILED, "remark": "MISS 0.5 | 0.85"},
    ]
    head = {"machine": {"name": "GPU"}, "commit": "c", "date": "2026-01-01T00:00", "versions": {"torch": "2"}}
    text = gpu_report.as_text({**head, "parts": parts}, tmp_path)
    assert "| case | 200.0 | 600.0 | 3.00× | 50% | 25% |" in text
    assert "| `f<float>` | sm_90 | 40 | 0 | 8 | 256 | 75% |" in text
    assert "## benchmark diffuse: failed\n\n```\nMISS 0.5 | 0.85\n```" in text


def test_commands_of_a_part_share_one_log(tmp_path):
    commands = Commands(tmp_path / "logs" / "part.txt", time.monotonic() + 20)
    commands.run([sys.executable, "-c", "print(1)"], tmp_path)
    assert commands.run([sys.executable, "-c", "raise SystemExit(4)"], tmp_path, check=False) == 4
    assert commands.log.read_text().count("$ ") == 2
