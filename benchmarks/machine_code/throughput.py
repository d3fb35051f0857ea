"""Which unit executes an instruction, and how fast: what is published of five devices.

Results a clock and multiprocessor are those of the CUDA C++ Programming Guide ("Arithmetic Instructions", throughput of
native instructions), as far as it gives them by instruction; clocks, multiprocessors and bandwidths those of NVIDIA's
data sheets. A bound from them says what no run can beat, not what a run takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from .program import Instruction

COPY_SHARE = 0.9  # of the published bandwidth that a plain copy reaches, about, on these devices
SCHEDULERS = 4  # of a multiprocessor, each one instruction of a warp a clock

PIPES = ("fma", "imad", "alu", "half", "xu", "fp64", "convert64", "lsu", "tensor", "uniform", "constant", "control")
_FLOAT = {"FADD", "FMUL", "FFMA", "FSWZADD"}
_SPECIAL = {"MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO", "BREV"}
_DOUBLE = {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX"}
_MEMORY = {"LDG", "STG", "LD", "ST", "LDS", "STS", "LDL", "STL", "LDSM", "LDGSTS", "RED", "REDG", "ATOM", "ATOMG",
           "ATOMS", "SHFL"}  # fmt: skip
_CONTROL = {"BRA", "EXIT", "BSSY", "BSYNC", "CALL", "RET", "BAR", "WARPSYNC", "NOP", "BREAK", "BMOV", "YIELD", "DEPBAR",
            "LDGDEPBAR", "MEMBAR", "ERRBAR", "CCTL", "S2R", "CS2R", "ENDCOLLECTIVE"}  # fmt: skip


def pipe_of(instruction: Instruction) -> str:
    """The unit that executes it; all that is not listed is the ALU's."""
    base, kinds = instruction.base, instruction.modifiers
    if base in _FLOAT:
        return "fma"
    if base == "IMAD":
        return "imad"
    if base in _DOUBLE:
        return "fp64"
    if base in _SPECIAL:
        is_long = any(kind.endswith("64") or kind.endswith("64H") for kind in kinds)
        return "convert64" if is_long and base != "MUFU" else "xu"
    if base in ("HMMA", "IMMA", "HGMMA", "DMMA"):
        return "tensor"
    if base in ("HADD2", "HMUL2", "HFMA2"):
        return "half"
    if base in _MEMORY:
        return "lsu"
    if base in _CONTROL:
        return "control"
    if base == "LDC":
        return "constant"
    return "uniform" if base.startswith("U") or base in ("S2UR", "R2UR", "VOTEU") else "alu"


@dataclass(frozen=True)
class Device:
    """A GPU, and the architecture of the machine code that it runs or that stands for its own."""

    name: str
    capability: str
    runs: str  # whose machine code is counted
    multiprocessors: int
    clock: float  # GHz, boost
    bandwidth: float  # GB/s of memory, published
    rates: dict[str, float]  # results of threads, a clock and multiprocessor
    products: float  # multiply-adds in bfloat16 of mma.sync, a clock and multiprocessor
    tensor_peak: float  # TFLOP/s in bfloat16, dense, published

    @property
    def copy_bandwidth(self) -> float:
        return COPY_SHARE * self.bandwidth


def _rates(fma: int, all_fma: int, half: int, fp64: int, convert64: int) -> dict[str, float]:
    """`all_fma` serves floats and integers together, of which the integers' products get at most 64."""
    return {"fma": fma, "imad": 64, "fma and imad": all_fma, "alu": 64, "half": half, "xu": 16, "fp64": fp64,
            "convert64": convert64, "lsu": 32}  # fmt: skip


_8_0 = _rates(64, 64, 128, 32, 16)
_8_9 = _rates(128, 128, 64, 2, 2)
_9_0 = _rates(128, 128, 128, 64, 16)

DEVICES = (
    Device("A100", "8.0", "sm_80", 108, 1.41, 2039, _8_0, 1024, 312),
    Device("RTX 4090", "8.9", "sm_80", 128, 2.52, 1008, _8_9, 256, 165),
    Device("H100", "9.0", "sm_90", 132, 1.98, 3350, _9_0, 1270, 989),
    Device("H200", "9.0", "sm_90", 132, 1.98, 4800, _9_0, 1270, 989),
    Device("B200", "10.0", "sm_90", 148, 1.965, 8000, _9_0, 1270, 2250),
)
