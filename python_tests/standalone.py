"""The CPU kernels of another processor as this process's operations: csrc/standalone, run by an emulator."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from visgen_fast import _library

# The program, compiled for aarch64. Without it nothing is emulated.
PROGRAM = os.environ.get("VISGEN_STANDALONE", "")
# For each instruction set a processor that has it and little else: an instruction too many ends the program.
PROCESSORS = {"baseline": "cortex-a53", "dotprod": "neoverse-n1"} if PROGRAM else {}

_DTYPES = {0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64, 5: torch.float16}
_DTYPES |= {6: torch.float32, 7: torch.float64, 9: torch.complex64, 11: torch.bool, 15: torch.bfloat16}
_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}


class _Process:
    """The program on one processor. What it reads and answers is described in csrc/standalone/main.cpp."""

    def __init__(self, instruction_set: str) -> None:
        self._process = subprocess.Popen(
            ["qemu-aarch64", "-cpu", PROCESSORS[instruction_set], PROGRAM],
            env={**os.environ, "VISGEN_CPU_CAPABILITY": instruction_set},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout

    def call(self, name: str, arguments: list[bytes], results: int, overwritten: int) -> list[Tensor]:
        """The results, then what was overwritten."""
        text = name.encode()
        head = struct.pack("<i", len(text)) + text + struct.pack("<ii", results, len(arguments))
        try:
            self._to.write(head + b"".join(arguments))
            self._to.flush()
        except BrokenPipeError:
            raise self._ended() from None
        if self._read(1) == b"e":
            raise RuntimeError(self._read(*self._unpack("<i")).decode())
        return [self._tensor() for _ in range(results + overwritten)]

    def _tensor(self) -> Tensor:
        number, dimensions = self._unpack("<ii")
        sizes, strides = self._unpack(f"<{dimensions}q"), self._unpack(f"<{dimensions}q")
        data = bytearray(self._read(*self._unpack("<q")))
        if not data:
            return torch.empty_strided(sizes, strides, dtype=_DTYPES[number])
        return torch.frombuffer(data, dtype=_DTYPES[number]).as_strided(sizes, strides)

    def _unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self._read(struct.calcsize(form)))

    def _read(self, count: int) -> bytes:
        data = self._from.read(count)
        if len(data) < count:
            raise self._ended()
        return data

    def _ended(self) -> RuntimeError:
        return RuntimeError(f"the emulated program ended with status {self._process.wait()}")


def _packed(value: Any, kind: Any, mark: bytes) -> bytes:
    if isinstance(kind, torch.OptionalType):
        return b"n" if value is None else b"o" + _packed(value, kind.getElementType(), mark)
    if isinstance(value, Tensor):
        return mark + _packed_tensor(value)
    if isinstance(value, (list, tuple)):
        element = kind.getElementType()
        return b"l" + struct.pack("<i", len(value)) + b"".join(_packed(item, element, mark) for item in value)
    if isinstance(value, torch.dtype):
        value = _NUMBERS[value]
    return b"v" + struct.pack("<d" if isinstance(value, float) else "<q", value)


def _packed_tensor(tensor: Tensor) -> bytes:
    sizes, strides = tuple(tensor.shape), tensor.stride()
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    data = b""
    if tensor.numel():
        data = tensor.detach().as_strided((last + 1,), (1,)).view(torch.uint8).numpy().tobytes()
    places = struct.pack(f"<ii{2 * len(sizes)}q", _NUMBERS[tensor.dtype], len(sizes), *sizes, *strides)
    return places + struct.pack("<q", len(data)) + data


class _Emulated:
    """Takes the place of the CPU library in visgen_fast._library, and has its operations."""

    def __init__(self, instruction_set: str) -> None:
        self._instruction_set, self._filter = instruction_set, 0
        self._processes: dict[str, _Process] = {}

    def operation(self, name: str) -> Callable[..., Any]:
        """The function that calls an operation."""
        schema = getattr(torch.ops.visgen_fast, name).default._schema
        marks = [
            b"m" if argument.alias_info is not None and argument.alias_info.is_write else b"t"
            for argument in schema.arguments
        ]

        def call(*arguments: Any) -> Any:
            packed, overwritten = [], []
            for argument, mark, value in zip(schema.arguments, marks, arguments, strict=True):
                packed.append(_packed(value, argument.real_type, mark))
                if mark == b"m" and value is not None:
                    overwritten += [value] if isinstance(value, Tensor) else value
            answer = self._process().call(name, packed, len(schema.returns), len(overwritten))
            results = answer[: len(schema.returns)]
            for tensor, after in zip(overwritten, answer[len(schema.returns) :], strict=True):
                tensor.copy_(after)
            return tuple(results) if len(results) > 1 else results[0] if results else None

        return call

    def _process(self) -> _Process:
        if self._instruction_set not in self._processes:
            self._processes[self._instruction_set] = _Process(self._instruction_set)
        process = self._processes[self._instruction_set]
        process.call("set_first_filter", [b"v" + struct.pack("<q", self._filter)], 0, 0)
        return process

    def visgen_fast_cpu_capability(self) -> bytes:
        return self._instruction_set.encode()

    def visgen_fast_set_cpu_capability(self, name: bytes) -> bool:
        if name.decode() not in PROCESSORS:
            return False
        self._instruction_set = name.decode()
        return True

    def visgen_fast_set_first_filter(self, number: int) -> int:
        before, self._filter = self._filter, number
        return before


_emulated = _Emulated("baseline")


@contextmanager
def emulated(instruction_set: str) -> Iterator[Callable[[str], Callable[..., Any]]]:
    """Inside, the CPU library's instruction set and filter are those of the emulated one; gives its operations."""
    native, _library._cpu = _library._cpu, _emulated
    try:
        _library.set_cpu_capability(instruction_set)
        yield _emulated.operation
    finally:
        _library._cpu = native
