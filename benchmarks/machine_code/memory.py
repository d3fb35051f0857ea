"""What instructions on memory do, and what they move: global memory is that of this process."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np

from .program import RZ, URZ, Instruction, Operand
from .values import I64, U32, U64, CannotTell, Effect, word, write

SHARED_WINDOW = 0x5A5A0000  # the upper half of generic addresses of shared memory; no process has memory there
SECTOR = 32  # bytes that travel together between the caches and memory
_BANKS, _BANK_BYTES = 32, 4


@dataclass
class Traffic:
    """What one instruction moved."""

    bytes: int = 0  # that threads asked for
    shared: int = 0  # executions of a generic access that went to shared memory
    constant: int = 0  # or to the kernel's parameters
    sectors: int = 0  # global memory: different ones, warp by warp
    wavefronts: int = 0  # shared memory: turns that the banks took
    least_wavefronts: int = 0  # without conflicts
    touched: list[np.ndarray] = field(default_factory=list)  # global memory: numbers of the sectors


class Memory:
    """The memory of this process, by address."""

    def __init__(self) -> None:
        self._regions: list[tuple[int, int, np.ndarray]] = []

    def _find(self, address: int) -> tuple[int, int, np.ndarray]:
        for attempt in range(2):
            for region in self._regions:
                if region[0] <= address < region[1]:
                    return region
            if attempt == 0:
                self._read_maps()
        raise CannotTell(f"an access outside all memory, at {address:#x}")

    def _read_maps(self) -> None:
        self._regions = []
        with open("/proc/self/maps") as maps:
            for line in maps:
                span, rights = line.split()[:2]
                start, end = (int(part, 16) for part in span.split("-"))
                if rights.startswith("rw"):
                    whole = (ctypes.c_uint8 * (end - start)).from_address(start)
                    self._regions.append((start, end, np.frombuffer(whole, np.uint8)))

    def parts(self, address: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(which lanes, the region as units of `size` bytes, the unit of each of these lanes)."""
        if (address % U64(size)).any():
            raise CannotTell("a misaligned access")
        left, found = np.arange(len(address)), []
        while len(left):
            start, end, data = self._find(int(address[left[0]]))
            inside = (address[left] >= U64(start)) & (address[left] < U64(end))
            unit = min(size, 4)
            words = data[: len(data) // size * size].view(f"u{unit}").reshape(-1, size // unit)
            found.append((left[inside], words, ((address[left[inside]] - U64(start)) // U64(size)).astype(I64)))
            left = left[~inside]
        return found


def size_of(instruction: Instruction) -> tuple[int, bool]:
    """Bytes of an access, and whether they are signed."""
    for kind in instruction.modifiers:
        if kind in ("64", "128"):
            return int(kind) // 8, False
        if kind in ("U8", "S8", "U16", "S16"):
            return int(kind[1:]) // 8, kind[0] == "S"
    return 4, False


def address_of(operand: Operand, wide: bool):
    """Of global memory (64 bits; uniform registers are pairs) or of shared and local memory (32)."""

    def read(m: object, i: object) -> np.ndarray:
        total = np.full(m.count(i), operand.value, I64)
        for row, factor, is_pair in operand.index:
            value = m.registers[row][i].astype(I64)
            if wide and (is_pair or row > RZ) and row not in (RZ, URZ):
                value = value + (m.registers[row + 1][i].astype(I64) << I64(32))
            total = total + value * I64(factor)
        return total.view(U64) if wide else total

    return read


def _registers(first: Operand, count: int) -> list[Operand]:
    return [first if k == 0 or first.row in (RZ, URZ) else Operand("register", first.row + k) for k in range(count)]


def _extend(values: np.ndarray, size: int, signed: bool) -> np.ndarray:
    if size >= 4:
        return values
    return values.view(f"i{size}").astype(np.int32).view(U32) if signed else values.astype(U32)


def load_global(instruction: Instruction) -> Effect:
    result, source = instruction.operands[:2]
    size, signed = size_of(instruction)
    where, outs = address_of(source, True), [write(register) for register in _registers(result, max(size // 4, 1))]

    def run(m: object, i: object) -> None:
        address = where(m, i)
        values = np.empty((len(address), len(outs)), f"u{min(size, 4)}")
        for lanes, words, unit in m.memory.parts(address, size):
            values[lanes] = words[unit]
        m.moved(instruction, address, i, size)
        for column, out in enumerate(outs):
            out(m, i, _extend(np.ascontiguousarray(values[:, column]), size, signed))

    return run


def store_global(instruction: Instruction) -> Effect:
    target, source = instruction.operands
    size, _ = size_of(instruction)
    where, reads = address_of(target, True), [word(register) for register in _registers(source, max(size // 4, 1))]

    def run(m: object, i: object) -> None:
        address = where(m, i)
        values = np.stack([np.broadcast_to(read(m, i), len(address)) for read in reads], 1).astype(f"u{min(size, 4)}")
        for lanes, words, unit in m.memory.parts(address, size):
            words[unit] = values[lanes]
        m.moved(instruction, address, i, size)

    return run


def add_global(instruction: Instruction) -> Effect:
    """RED, and ATOM whose old value nobody reads."""
    target, source = instruction.operands[-2:]
    if "ADD" not in instruction.modifiers or "64" in instruction.modifiers or instruction.base.startswith("ATOM"):
        raise CannotTell(f"the instruction {instruction.text}")
    where, value = address_of(target, True), word(source)

    def run(m: object, i: object) -> None:
        address = where(m, i)
        added = np.broadcast_to(value(m, i), len(address))
        for lanes, words, unit in m.memory.parts(address, 4):
            np.add.at(words[:, 0], unit, added[lanes])
        m.moved(instruction, address, i, 4)

    return run


def load_shared(instruction: Instruction) -> Effect:
    result, source = instruction.operands
    size, signed = size_of(instruction)
    where, unit = address_of(source, False), min(size, 4)
    outs = [write(register) for register in _registers(result, max(size // 4, 1))]
    local = instruction.base == "LDL"

    def run(m: object, i: object) -> None:
        address = where(m, i)
        at, data = m.local_at(address, i) if local else m.shared_at(address, i)
        if not local:
            m.banked(instruction, address, i, size)
        for column, out in enumerate(outs):
            out(m, i, _extend(data.view(f"u{unit}")[at // unit + column], size, signed))

    return run


def store_shared(instruction: Instruction) -> Effect:
    target, source = instruction.operands
    size, _ = size_of(instruction)
    where, unit = address_of(target, False), min(size, 4)
    reads = [word(register) for register in _registers(source, max(size // 4, 1))]
    local = instruction.base == "STL"

    def run(m: object, i: object) -> None:
        address = where(m, i)
        at, data = m.local_at(address, i) if local else m.shared_at(address, i)
        if not local:
            m.banked(instruction, address, i, size)
        for column, read in enumerate(reads):
            data.view(f"u{unit}")[at // unit + column] = np.asarray(read(m, i)).astype(f"u{unit}")

    return run


def count_shared(instruction: Instruction) -> Effect:
    """ATOMS.POPC.INC, whose old value nobody reads."""
    result, target = instruction.operands[:2]
    if "POPC" not in instruction.modifiers or result.row != RZ:
        raise CannotTell(f"the instruction {instruction.text}")
    where = address_of(target, False)

    def run(m: object, i: object) -> None:
        at, data = m.shared_at(where(m, i), i)
        np.add.at(data.view(U32), at // 4, U32(1))

    return run


def copy_async(instruction: Instruction) -> Effect:
    """LDGSTS: 16 bytes from global to shared memory."""
    target, source, *rest = instruction.operands
    if rest:
        raise CannotTell(f"the instruction {instruction.text}")
    to, where = address_of(target, False), address_of(source, True)

    def run(m: object, i: object) -> None:
        address = where(m, i)
        at, data = m.shared_at(to(m, i), i)
        for lanes, words, unit in m.memory.parts(address, 16):
            data.view(U32).reshape(-1, 4)[at[lanes] // 16] = words[unit]
        m.moved(instruction, address, i, 16)

    return run


def bank_turns(address: np.ndarray, warp: np.ndarray, size: int) -> tuple[int, int]:
    """Wavefronts of an access to shared memory, and the least that it could take.

    A wavefront serves 32 banks of 4 bytes, one word each; wider accesses take their lanes in groups of 128 bytes.
    """
    words = max(size // _BANK_BYTES, 1)
    order = np.arange(len(address))
    starts = np.r_[True, warp[1:] != warp[:-1]]
    within = order - np.maximum.accumulate(np.where(starts, order, 0))
    group = warp * 8 + within * words // _BANKS
    unit = (address[:, None] // _BANK_BYTES + np.arange(words)).ravel()
    distinct = np.unique(np.repeat(group, words).astype(I64) << I64(32) | unit)
    by_bank, turns = np.unique(distinct >> I64(32) << I64(5) | distinct % _BANKS, return_counts=True)
    groups = by_bank >> I64(5)
    first = np.r_[True, groups[1:] != groups[:-1]]
    return int(np.maximum.reduceat(turns, np.flatnonzero(first)).sum()), int(first.sum())


def generic(instruction: Instruction) -> Effect:
    """LD and ST: to shared memory where the address lies in its window, else to global memory."""
    loads = instruction.base == "LD"
    operand = instruction.operands[1 if loads else 0]
    where = address_of(operand, True)
    outside = (load_global if loads else store_global)(instruction)
    inside = (load_shared if loads else store_shared)(instruction)

    def run(m: object, i: object) -> None:
        shared = where(m, i) >> U64(32) == U64(SHARED_WINDOW)
        m.traffic[instruction.address // 16].shared += int(shared.sum())
        for effect, chosen in ((inside, shared), (outside, ~shared)):
            if chosen.any():
                effect(m, i if chosen.all() else m.lanes(i)[chosen])

    return run


MEMORY = {
    "LDG": load_global, "STG": store_global, "LD": generic, "ST": generic, "RED": add_global,
    "REDG": add_global, "ATOM": add_global, "ATOMG": add_global, "LDS": load_shared, "STS": store_shared,
    "LDL": load_shared, "STL": store_shared, "ATOMS": count_shared, "LDGSTS": copy_async,
}  # fmt: skip
