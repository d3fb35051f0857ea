"""Fails where a source of csrc uses CUDA's own facilities outside the four headers that wrap them.

Kernels written on csrc/cuda/{launch,warp,vec,mma}.cuh alone compile for the CPU, too, so their tests run everywhere.
Comments and string literals are not looked at.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADERS = {f"csrc/cuda/{name}.cuh" for name in ("launch", "warp", "vec", "mma")}
EMULATION = "csrc/cuda_on_host/"  # names what it replaces; its test kernels are looked at
SUFFIXES = {".cu", ".cuh", ".cpp", ".h"}
NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)

# What must not be used, and what to use instead.
FORBIDDEN = {
    r"#\s*include\s*<(?:cu[a-z]|thrust|cooperative_groups|mma|nv/|nvtx|device_)[^>]*>": "launch.cuh",
    r"<<<": "launch<kernel>(shape, stream, arguments…)",
    r"\bcuda[A-Z]\w*": "launch.cuh",
    r"\b(?:cooperative_groups|cub|thrust|nvcuda|wmma)\s*::": "warp.cuh or mma.cuh",
    r"\b__syncthreads\w*": "sync_block()",
    r"\b__syncwarp\b|\b__activemask\b": "sync_warp()",
    r"\b__(?:shfl|ballot|any|all|match|reduce)_\w+|\b__(?:ballot|any|all)\b": "the exchanges of warp.cuh",
    r"\b__shared__\b": "VISGEN_SHARED or dynamic_shared<T>()",
    r"\b__threadfence\w*": "fence_device()",
    r"\batomic[A-Z]\w*": "atomic_add",
    r"\b__(?:ldg|ldc[agsv]|ldlu|st(?:cg|cs|wb|wt))\b": "the loads and stores of vec.cuh",
    r"\b(?:u?(?:char|short|int|long|longlong)|float|double)[1-4]\b": "Vec<T, N> of vec.cuh",
    r"\b__half2?\b|\b__nv_\w+|\bhalf2\b": "Half and BFloat16 of vec.cuh",
    r"\b__(?:cvta|pipeline|cluster|nanosleep|half2|bfloat16|float2half|float2bfloat16)\w*": "the four headers",
}
IN_KERNELS = {
    r"\b__CUDACC__\b|\b__CUDA_ARCH__\b|\bVISGEN_CUDA_ON_HOST\b": "one source for GPU and host",
    r"\basm\b|\b__asm\w*": "a function in one of the four headers",
}


def problems(path: str, text: str) -> list[str]:
    """One line for each use of a forbidden facility in the source `text` of the file `path`, relative to the root."""
    if path in HEADERS or (path.startswith(EMULATION) and not path.startswith(EMULATION + "tests/")):
        return []
    rules = {**FORBIDDEN, **IN_KERNELS} if path.endswith((".cu", ".cuh")) else FORBIDDEN
    code = NOT_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    found = [
        (match.start(), match[0], instead) for pattern, instead in rules.items() for match in re.finditer(pattern, code)
    ]
    return [
        f"{path}:{code.count(chr(10), 0, start) + 1}: `{use.strip()}` belongs in csrc/cuda's headers: use {instead}"
        for start, use, instead in sorted(found)
    ]


def main() -> int:
    sources = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in SUFFIXES)
    found = [line for path in sources for line in problems(str(path.relative_to(ROOT)), path.read_text())]
    print("\n".join(found) or f"{len(sources)} sources keep to csrc/cuda's headers.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
