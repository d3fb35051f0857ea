"""Counting what machine code executes: hand-written code, the budget, and the library's own kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.machine_code import budget, heads
from benchmarks.machine_code.cases import CASES, units_of
from benchmarks.machine_code.count import Count, bound
from benchmarks.machine_code.cubin import tool
from benchmarks.machine_code.launches import comparable, parameters_of
from benchmarks.machine_code.machine import Launch, Machine
from benchmarks.machine_code.program import parse_program
from benchmarks.machine_code.throughput import DEVICES
from benchmarks.machine_code.values import CannotTell

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "visgen_fast" / "lib" / "libvisgen_fast_cuda.so"


def machine(code: str, threads: int = 32, blocks: int = 1, parameters: bytes = bytes(64)) -> Machine:
    """The code after its run on sm_90, whose parameters begin at c[0x0][0x210]."""
    lines, address = [], 0
    for line in code.strip().splitlines():
        label = line.strip().endswith(":")
        lines.append(line.strip() if label else f"/*{address:04x}*/ {line.strip()}")
        address += 0 if label else 16
    launch = Launch("written", (blocks, 1, 1), (threads, 1, 1), 0, parameters)
    program = parse_program("written", "\n".join(lines))
    made = Machine(program, launch, "sm_90", blocks=np.arange(blocks), shared_bytes=2048)
    made.run()
    return made


def register(code: str, name: int, threads: int = 32) -> list[int]:
    return machine(code + "\nEXIT ;", threads).registers[name].tolist()


def test_lanes_that_part_meet_again_and_each_way_is_issued_once():
    found = machine("""
        S2R R0, SR_TID.X ;
        ISETP.GE.AND P0, PT, R0, 0x8, PT ;
        BSSY B0, `(.L_end) ;
        @P0 BRA `(.L_else) ;
        MOV R1, 0x1 ;
        BRA `(.L_end) ;
        .L_else:
        MOV R1, 0x2 ;
        MOV R1, 0x3 ;
        .L_end:
        BSYNC B0 ;
        IADD3 R1, R1, 0x1, RZ ;
        EXIT ;
    """)
    assert found.registers[1].tolist() == [2] * 8 + [4] * 24
    assert found.issues.tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1]
    assert found.executions[4:8].tolist() == [8, 8, 24, 24]


def test_a_loop_runs_as_often_as_its_slowest_lane_asks():
    found = machine("""
        S2R R0, SR_TID.X ;
        LOP3.LUT R0, R0, 0x3, RZ, 0xc0, !PT ;
        .L_again:
        IADD3 R1, R1, 0x1, RZ ;
        ISETP.LT.AND P0, PT, R1, R0, PT ;
        @P0 BRA `(.L_again) ;
        EXIT ;
    """)
    assert found.registers[1][:4].tolist() == [1, 1, 2, 3]
    assert found.issues.tolist() == [1, 1, 3, 3, 3, 3]  # no barrier joins them, so each leaves alone


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("IADD3 R1, P0, R2, -R3, RZ ;\nSEL R1, RZ, 0x1, !P0 ;", lambda a, b: int(a >= b)),
        ("IMAD.HI.U32 R1, R2, R3, RZ ;", lambda a, b: a * b >> 32),
        ("IMAD R1, R2, -0x3, R3 ;", lambda a, b: b - 3 * a),
        ("LOP3.LUT R1, R2, R3, RZ, 0x3c, !PT ;", lambda a, b: a ^ b),
        ("PRMT R1, R2, 0x5410, R3 ;", lambda a, b: a & 0xFFFF | (b & 0xFFFF) << 16),
        ("SHF.R.U64 R1, R2, 0x5, R3 ;", lambda a, b: (b << 32 | a) >> 5),
        ("LEA.HI.X R1, R2, RZ, R3, 0x4, !PT ;", lambda a, b: (b << 32 | a) << 4 >> 32),
        ("SHF.R.S32.HI R1, RZ, 0x1f, R2 ;", lambda a, b: -(a >> 31)),
        ("I2FP.F32.U32 R1, R2 ;", lambda a, b: int(np.float32(a).view(np.uint32))),
    ],
)
def test_an_instruction_computes_what_the_hardware_does(code, expected):
    for a, b in ((3, 5), (0xFFFFFFFF, 1), (0x80000000, 0x80000000), (0x12345678, 0x9ABCDEF0)):
        found = register(f"MOV R2, {a:#x} ;\nMOV R3, {b:#x} ;\n{code}", 1)
        assert found == [expected(a, b) & 0xFFFFFFFF] * 32


def test_a_butterfly_of_shuffles_adds_up_the_warp():
    steps = "".join(f"SHFL.BFLY PT, R2, R1, {mask:#x}, 0x1f ;\nIADD3 R1, R1, R2, RZ ;\n" for mask in (16, 8, 4, 2, 1))
    found = machine(f"S2R R1, SR_TID.X ;\n{steps}EXIT ;", threads=64)
    assert found.registers[1].tolist() == [496] * 32 + [1520] * 32


def test_what_is_not_modelled_is_said_and_not_guessed():
    with pytest.raises(CannotTell, match="UNHEARD.OF R1"):
        machine("UNHEARD.OF R1, R2 ;\nEXIT ;")
    with pytest.raises(CannotTell, match="all lanes wait"):
        machine("S2R R0, SR_TID.X ;\nISETP.NE.AND P0, PT, R0, RZ, PT ;\n@P0 BAR.SYNC 0x0 ;\nWARPSYNC.ALL ;\nEXIT ;")


@pytest.mark.parametrize(("stride", "turns"), [(4, 1), (32, 2), (128, 8), (0, 1)])
def test_words_of_one_bank_take_turns(stride, turns):
    code = f"S2R R0, SR_TID.X ;\nLOP3.LUT R0, R0, 0x7, RZ, 0xc0, !PT ;\nIMAD R0, R0, {stride:#x}, RZ ;"
    found = machine(f"{code}\nLDS R1, [R0] ;\nEXIT ;").traffic[3]
    assert (found.wavefronts, found.least_wavefronts) == (turns, 1)


def test_the_bytes_of_a_load_are_those_of_its_sectors():
    data = np.arange(64, dtype=np.uint32)
    found = machine(
        "S2R R0, SR_TID.X ;\nLDC.64 R2, c[0x0][0x210] ;\nIMAD.WIDE.U32 R2, R0, 0x8, R2 ;\nLDG.E R1, [R2.64] ;\nEXIT ;",
        parameters=data.ctypes.data.to_bytes(8, "little"),
    )
    assert found.registers[1].tolist() == list(range(0, 64, 2))
    assert (found.traffic[3].bytes, found.traffic[3].sectors in (8, 9)) == (128, True)


def test_arguments_are_laid_out_as_the_kernel_has_them():
    # std::tuple<int64, empty, int32>: reversed, and the empty one takes no place.
    seven, nine = ((number).to_bytes(8, "little") for number in (7, 9))
    assert parameters_of(seven + nine, ((0, 8), (8, 1), (12, 4))) == nine + bytes(4) + seven[:4]
    with pytest.raises(ValueError, match="don't fit"):
        parameters_of(bytes(24), ((0, 8), (8, 8)))


def test_names_of_both_compilers_are_one():
    assert comparable("fill<float, visgen::Distribution::uniform, 8, true>") == comparable(
        "fill<float, (visgen::Distribution)1, 8, true>"
    )


def test_the_slowest_unit_bounds_and_memory_is_the_share():
    count = Count(issues=400, memory_bytes=1600)
    count.pipes["alu"] = 400
    found = bound(count, 32, next(device for device in DEVICES if device.name == "A100"))
    assert found.limit == "alu"  # 64 results a clock: 200 clocks, where issue takes 100
    assert found.time == pytest.approx(200 / (108 * 1.41) / 32)
    assert found.memory_share == pytest.approx((1600 / (0.9 * 2039)) / (200 / (108 * 1.41)))


def test_every_case_has_a_budget():
    granted = json.loads(budget.FILE.read_text())
    assert sorted(granted) == sorted(case.name for case in CASES)
    assert all(sorted(entries) == ["sm_80", "sm_90"] for entries in granted.values())


@pytest.mark.parametrize("family", sorted({case.family for case in CASES}))
def test_the_head_of_a_kernels_file_says_what_is_counted(family):
    assert heads.write(family, units_of(family), json.loads(budget.FILE.read_text()), check=True)


def tools_missing() -> str:
    try:
        return "" if tool("cuobjdump") and tool("nvdisasm") else "never"
    except RuntimeError as missing:
        return str(missing)


@pytest.mark.skipif(not LIBRARY.exists(), reason="built without CUDA")
@pytest.mark.skipif(bool(tools_missing()), reason=tools_missing())
def test_the_librarys_kernels_keep_their_budget_and_planted_faults_are_caught():
    """In a process of its own, as the emulation that counts replaces torch's allocator."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("plant_machine_code.py"))],
        env=environment, capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    complaints = json.loads(done.stdout.splitlines()[-1])
    assert complaints.pop("as it is") == []
    expected = {"5% more": "issue slots", "a spill": "spilled registers", "a bank conflict": "turns of the banks",
                "more registers": "occupancy", "a store less": "global stores"}  # fmt: skip
    assert {fault: [expected[fault] in text for text in found] for fault, found in complaints.items()} == dict.fromkeys(
        expected, [True]
    )
