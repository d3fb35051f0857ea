"""Counts one kernel of the library as it is and with planted faults; prints what the budget says of each, as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from benchmarks.machine_code import budget
from benchmarks.machine_code.__main__ import LIBRARY
from benchmarks.machine_code.cases import CASES
from benchmarks.machine_code.count import count_launch
from benchmarks.machine_code.cubin import kernels
from benchmarks.machine_code.examine import describe_launch, disagreements, numbers
from benchmarks.machine_code.launches import Emulation, comparable
from benchmarks.machine_code.program import Program, with_inserted

ARCHITECTURE = "sm_90"
CONFLICT = """
S2R R0, SR_TID.X ;
LOP3.LUT R0, R0, 0x7, RZ, 0xc0, !PT ;
SHF.L.U32 R0, R0, 0x7, RZ ;
LDS R0, [R0] ;
"""


def without_store(program: Program) -> Program:
    nothing = [replace(one, opcode="NOP", operands=()) if one.base == "STG" else one for one in program.instructions]
    return Program(program.name, tuple(nothing), program.labels)


def main() -> None:
    case = next(case for case in CASES if case.name == "gaussian bfloat16")
    granted = json.loads(budget.FILE.read_text())[case.name][ARCHITECTURE]
    emulation, complaints = Emulation(), {}
    named = {comparable(name): kernel for name, kernel in kernels(LIBRARY, ARCHITECTURE).items()}
    emulation.take_counts()
    with emulation.running():
        case.call(*case.prepare())
    emulated = emulation.take_counts()

    def observe(launch) -> bool:
        kernel = named[comparable(launch.kernel)]
        program = kernel.program
        end = max(k for k, one in enumerate(program.instructions) if one.base == "EXIT")
        path = granted["issue slots"] * case.units / 3072  # instructions of a thread: 3,072 run
        faults = {
            "as it is": (kernel, program),
            "5% more": (kernel, with_inserted(program, end, "IADD3 R0, R0, 0x1, RZ ;\n" * round(0.05 * path))),
            "a spill": (kernel, with_inserted(program, end, 'STL [R1], R0 (*"SpillRefill"*) ;')),
            "a bank conflict": (kernel, with_inserted(program, end, CONFLICT)),
            "more registers": (replace(kernel, registers=128), program),
            "a store less": (kernel, without_store(program)),
        }
        for name, (one, code) in faults.items():
            count = count_launch(one, launch, code)
            found = {
                "launches": [describe_launch(one, launch, count, case.units)],
                **numbers(count, case.units),
                "disagreements": disagreements(emulated, count),
            }
            complaints[name] = budget.excesses(case.name, ARCHITECTURE, found, granted)
        return True

    with emulation.running(observe):
        case.call(*case.prepare())
    print(json.dumps(complaints))


if __name__ == "__main__":
    main()
