"""How instructions read operands and write results: functions of the lanes that run, made once for an instruction.

A value is an array with an element for each lane. `m` is the machine, `i` the lanes: their indices, or all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .program import FIRST_UNIFORM, PT, RZ, UPT, URZ, Instruction, Operand, bits_of

if TYPE_CHECKING:
    from .machine import Machine

Value = Callable[["Machine", object], np.ndarray]
Effect = Callable[["Machine", object], None]
U32, U64, I64 = np.uint32, np.uint64, np.int64
_LOW = U64(0xFFFFFFFF)


class CannotTell(RuntimeError):
    """The path through the machine code depends on something that is not modelled."""


def word(operand: Operand) -> Value:
    """32 bits, with the operand's - (of two's complement), ~ and parts of registers."""
    raw = _raw_word(operand)
    if operand.inverted:
        return lambda m, i: ~raw(m, i)
    if operand.negative:
        return lambda m, i: U32(0) - raw(m, i)
    return raw


def _raw_word(operand: Operand) -> Value:
    if operand.kind == "number":
        number = U32((operand.value if operand.real is None else bits_of(operand, "f")) & 0xFFFFFFFF)
        return lambda m, i: number
    if operand.kind == "register":
        row = operand.row
        if operand.name.startswith("B"):
            shift = U32(8 * int(operand.name[1:]))
            return lambda m, i: m.registers[row][i] >> shift & U32(0xFF)
        return lambda m, i: m.registers[row][i]
    if operand.kind == "constant":
        return constant(operand, 4)
    raise CannotTell(f"an operand of the kind {operand.kind}")


def constant(operand: Operand, size: int, signed: bool = False) -> Value:
    """A value of at most four bytes from a constant bank."""
    bank, start, kind = operand.bank, operand.value, np.dtype(f"{'i' if signed else 'u'}{size}")

    def read(m: Machine, i: object) -> np.ndarray:
        memory = m.bank(bank)
        if not operand.index:
            found = np.frombuffer(memory, kind, 1, start)
        else:
            offset = sum(m.registers[row][i].astype(I64) * factor for row, factor, _ in operand.index) + start
            found = np.frombuffer(memory, np.uint8)[offset[:, None] + np.arange(size)].view(kind)[:, 0]
        return (
            (found.astype(np.int32).view(U32) if signed else found.astype(U32))
            if operand.index
            else U32(int(found[0]) & 0xFFFFFFFF)
        )

    return read


def high(operand: Operand) -> Operand:
    """The upper half of a pair."""
    if operand.kind == "register":
        row = operand.row if operand.row in (RZ, URZ) else operand.row + 1
        return Operand("register", row)
    if operand.kind == "constant":
        return Operand("constant", value=operand.value + 4, bank=operand.bank, index=operand.index)
    return Operand("number", value=0)


def pair(operand: Operand, real: str = "") -> Value:
    """64 bits: of a register and the next, of a constant, or a number. `real` "d": with the signs of doubles."""
    if operand.kind == "number":
        number = U64(bits_of(operand, "d") if real else operand.value & 0xFFFFFFFFFFFFFFFF)
        return lambda m, i: number
    plain = Operand(operand.kind, operand.row, operand.value, bank=operand.bank, index=operand.index)
    lower, upper = word(plain), word(high(operand))
    joined = lambda m, i: upper(m, i).astype(U64) << U64(32) | lower(m, i).astype(U64)  # noqa: E731
    if real or not (operand.negative or operand.inverted):
        return joined
    if operand.inverted:
        return lambda m, i: ~joined(m, i)
    return lambda m, i: U64(0) - joined(m, i)


def single(operand: Operand) -> Value:
    """A float."""
    if operand.kind == "number":
        number = U32(bits_of(operand, "f")).view(np.float32)
        return lambda m, i: number
    if operand.name.startswith("H"):
        row, shift = operand.row, U32(16 * int(operand.name[1]))
        raw = lambda m, i: (m.registers[row][i] >> shift).astype(np.uint16).view(np.float16).astype(np.float32)  # noqa: E731
    else:
        bits = _raw_word(operand)
        raw = lambda m, i: bits(m, i).view(np.float32)  # noqa: E731
    return _with_signs(raw, operand)


def double(operand: Operand) -> Value:
    bits = pair(operand, "d")
    if operand.kind == "number":
        return lambda m, i: bits(m, i).view(np.float64)
    return _with_signs(lambda m, i: bits(m, i).view(np.float64), operand)


def _with_signs(raw: Value, operand: Operand) -> Value:
    if operand.absolute and operand.negative:
        return lambda m, i: -np.abs(raw(m, i))
    if operand.absolute:
        return lambda m, i: np.abs(raw(m, i))
    if operand.negative:
        return lambda m, i: -raw(m, i)
    return raw


def truth(operand: Operand) -> Value:
    """A predicate."""
    row = operand.row
    if operand.kind != "predicate":
        raise CannotTell(f"a predicate of the kind {operand.kind}")
    if operand.inverted:
        return lambda m, i: ~m.predicates[row][i]
    return lambda m, i: m.predicates[row][i]


def write(operand: Operand) -> Callable[[Machine, object, np.ndarray], None]:
    """Writes words to a register, or truths to a predicate; uniform ones belong to the warp."""
    row = operand.row
    if operand.kind == "predicate":
        if row in (PT, UPT):
            return lambda m, i, value: None
        if not operand.is_uniform:
            return lambda m, i, value: m.predicates[row].__setitem__(i, value)
        return lambda m, i, value: m.predicates[row].__setitem__(*m.for_warp(i, value))
    if row in (RZ, URZ):
        return lambda m, i, value: None
    if row >= FIRST_UNIFORM:
        return lambda m, i, value: m.registers[row].__setitem__(*m.for_warp(i, value))
    return lambda m, i, value: m.registers[row].__setitem__(i, value)


def write_pair(operand: Operand) -> Callable[[Machine, object, np.ndarray], None]:
    lower, upper = write(operand), write(high(operand))

    def store(m: Machine, i: object, value: np.ndarray) -> None:
        lower(m, i, (value & _LOW).astype(U32))
        upper(m, i, (value >> U64(32)).astype(U32))

    return store


def destinations(instruction: Instruction) -> tuple[Operand, list[Operand], list[Operand]]:
    """The register that is written, the predicates that are (before or behind it), and the operands that are read."""
    operands = list(instruction.operands)
    before = []
    while operands[0].kind == "predicate":
        before.append(operands.pop(0))
    register = operands.pop(0)
    while operands and operands[0].kind == "predicate" and not operands[0].inverted and len(operands) > 1:
        before.append(operands.pop(0))
    return register, before, operands
