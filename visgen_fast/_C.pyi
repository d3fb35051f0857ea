"""Introspection of the compiled half of visgen_fast; built for some interpreters, needed by no operation."""

from typing import TypedDict

class BuildInfo(TypedDict):
    version: str
    torch_target: str
    instruction_sets: list[str]
    cuda_architectures: list[str]
    compiler: str
    nvcc: str

def build_info() -> BuildInfo: ...
def cpu_capability() -> str: ...
