"""What instructions on integers, bits and predicates do."""

from __future__ import annotations

import operator

import numpy as np

from .program import Instruction, Operand
from .values import (
    I64,
    U32,
    U64,
    CannotTell,
    Effect,
    Value,
    constant,
    destinations,
    high,
    pair,
    truth,
    word,
    write,
    write_pair,
)

COMPARISONS = {name: getattr(operator, name.lower()) for name in ("LT", "LE", "GT", "GE", "EQ", "NE")}
_STRICT = {"LT": operator.lt, "LE": operator.lt, "GT": operator.gt, "GE": operator.gt}
_32 = U64(32)


def signed(value: Value) -> Value:
    return lambda m, i: value(m, i).view(np.int32)


def wide(value: Value, is_signed: bool) -> Value:
    """Extended to 64 bits."""
    if is_signed:
        return lambda m, i: value(m, i).view(np.int32).astype(I64).view(U64)
    return lambda m, i: value(m, i).astype(U64)


def carry_of(operands: list[Operand]) -> tuple[list[Value], list[Operand]]:
    """The carries among an instruction's last operands, and the others."""
    carries = [truth(operand) for operand in operands if operand.kind == "predicate"]
    return carries, [operand for operand in operands if operand.kind != "predicate"]


def add(instruction: Instruction) -> Effect:
    """IADD3, UIADD3, VIADD: carries are those of 33 bits, for a negated operand too."""
    result, carried, read = destinations(instruction)
    carries, terms = carry_of(read)
    extended = "X" in instruction.modifiers
    fixed = sum(1 for term in terms if term.negative and not extended and term.kind != "number")
    values = [word(Operand(**{**vars(term), "negative": False, "inverted": _flips(term)})) for term in terms]
    out, flags = write(result), [write(flag) for flag in carried]

    def run(m: object, i: object) -> None:
        total = U64(fixed)
        for value in values:
            total = total + value(m, i).astype(U64)
        for carry in carries if extended else ():
            total = total + carry(m, i).astype(U64)
        out(m, i, (total & U64(0xFFFFFFFF)).astype(U32))
        for position, flag in enumerate(flags):
            flag(m, i, (total >> _32) > U64(position))

    return run


def _flips(term: Operand) -> bool:
    return term.inverted or (term.negative and term.kind != "number")


def multiply(instruction: Instruction) -> Effect:
    """IMAD in all its forms; a HI or WIDE one adds a pair."""
    kinds = instruction.modifiers
    result, carried, read = destinations(instruction)
    carries, (a, b, c) = carry_of(read)
    is_signed = "U32" not in kinds
    left, right = wide(word(a), is_signed), wide(word(b), is_signed)
    is_long = "WIDE" in kinds or "HI" in kinds
    addend = pair(c) if is_long else wide(word(c), False)
    out, flags = (write_pair if "WIDE" in kinds else write)(result), [write(flag) for flag in carried]
    if flags and is_long and (is_signed or "X" in kinds):
        raise CannotTell(f"the carry of {instruction.text}")

    def run(m: object, i: object) -> None:
        added = addend(m, i)
        total = left(m, i) * right(m, i) + added
        for carry in carries if "X" in kinds else ():
            total = total + carry(m, i).astype(U64)
        if flags and is_long:
            flags[0](m, i, total < added)
        elif flags:  # of the sum of 32 bits
            product = (left(m, i) * right(m, i) & U64(0xFFFFFFFF)) + addend(m, i)
            flags[0](m, i, (product >> _32) > U64(0))
        if "WIDE" in kinds:
            out(m, i, total)
        else:
            out(m, i, (total >> _32 if "HI" in kinds else total & U64(0xFFFFFFFF)).astype(U32))

    return run


def shift_add(instruction: Instruction) -> Effect:
    """LEA: a shifted to the left, plus b; HI: the upper half of a pair shifted."""
    kinds = instruction.modifiers
    result, carried, read = destinations(instruction)
    carries, operands = carry_of(read)
    shift = U64(operands[-1].value)
    a, b = word(operands[0]), word(operands[1])
    upper = None
    if "SX32" in kinds:
        upper = signed(a)
    elif "HI" in kinds:
        upper = word(operands[2])
    out, flags = write(result), [write(flag) for flag in carried]

    def run(m: object, i: object) -> None:
        if upper is None:
            shifted = a(m, i).astype(U64) << shift & U64(0xFFFFFFFF)
        else:
            top = upper(m, i)
            top = (top >> 31).view(U32) if "SX32" in kinds else top
            shifted = ((top.astype(U64) << _32 | a(m, i).astype(U64)) << shift) >> _32
        total = shifted + b(m, i).astype(U64)
        for carry in carries if "X" in kinds else ():
            total = total + carry(m, i).astype(U64)
        out(m, i, (total & U64(0xFFFFFFFF)).astype(U32))
        for flag in flags:
            flag(m, i, (total >> _32) > U64(0))

    return run


def shift(instruction: Instruction) -> Effect:
    """SHF: a pair, or one word of it, shifted."""
    kinds = instruction.modifiers
    result, a, distance, c = instruction.operands
    low, by, top, out = word(a), word(distance), word(c), write(result)
    left, is_long, is_signed = "L" in kinds, "U64" in kinds or "S64" in kinds, "S32" in kinds or "S64" in kinds
    wraps = U32(63 if is_long else 31)

    def run(m: object, i: object) -> None:
        count = by(m, i)
        count = (count & wraps if "W" in kinds else np.minimum(count, wraps + U32(1))).astype(U64)
        lower, upper = low(m, i), top(m, i)
        if is_long:
            both = upper.astype(U64) << _32 | lower.astype(U64)
            if left:
                moved = np.where(count > U64(63), U64(0), both << np.minimum(count, U64(63)))
            elif is_signed:
                moved = (both.view(I64) >> np.minimum(count, U64(63)).view(I64)).view(U64)
            else:
                moved = np.where(count > U64(63), U64(0), both >> np.minimum(count, U64(63)))
            value = moved >> _32 if "HI" in kinds else moved & U64(0xFFFFFFFF)
        elif left:
            value = (lower.astype(U64) << count) & U64(0xFFFFFFFF)
            if "HI" in kinds:
                value = (((upper.astype(U64) << _32 | lower.astype(U64)) << count) >> _32) & U64(0xFFFFFFFF)
        else:
            source = upper if "HI" in kinds else lower
            if is_signed:
                value = (source.view(np.int32).astype(I64) >> count.view(I64)).view(U64) & U64(0xFFFFFFFF)
            else:
                value = source.astype(U64) >> count
                if "HI" not in kinds:
                    value = ((upper.astype(U64) << _32 | lower.astype(U64)) >> count) & U64(0xFFFFFFFF)
        out(m, i, value.astype(U32))

    return run


def _table(lut: int, a: np.ndarray, b: np.ndarray, c: np.ndarray, none: object, every: object) -> np.ndarray:
    """A function of three bits, given by its eight values."""
    result = none
    for entry in range(8):
        if lut >> entry & 1:
            term = every
            for position, value in ((4, a), (2, b), (1, c)):
                term = term & (value if entry & position else ~value)
            result = result | term
    return result


def logic(instruction: Instruction) -> Effect:
    """LOP3."""
    *written, a, b, c, lut, condition = instruction.operands
    values = [word(a), word(b), word(c)]
    outs = [(write(operand), operand.kind == "predicate") for operand in written]
    table, extra = lut.value, truth(condition)

    def run(m: object, i: object) -> None:
        value = _table(table, *(read(m, i) for read in values), U32(0), U32(0xFFFFFFFF))
        for out, is_predicate in outs:
            out(m, i, (value != U32(0)) | extra(m, i) if is_predicate else value)

    return run


def predicate_logic(instruction: Instruction) -> Effect:
    """PLOP3: two functions of three predicates."""
    first, second, a, b, c, lut, other = instruction.operands
    values = [truth(a), truth(b), truth(c)]
    outs = [(write(first), lut.value), (write(second), other.value)]

    def run(m: object, i: object) -> None:
        read = [np.asarray(value(m, i)) for value in values]
        for out, table in outs:
            out(m, i, np.asarray(_table(table, *read, np.False_, np.True_)))

    return run


def combine(kinds: list[str], found: np.ndarray, other: np.ndarray) -> np.ndarray:
    return found & other if "AND" in kinds else found | other if "OR" in kinds else found ^ other


def compare(instruction: Instruction) -> Effect:
    """ISETP; EX goes on from the comparison of the lower halves."""
    kinds = instruction.modifiers
    first, second, a, b, condition, *lower = instruction.operands
    name = kinds[0]
    read = (word(a), word(b)) if "U32" in kinds else (signed(word(a)), signed(word(b)))
    outs, other = (write(first), write(second)), truth(condition)
    below = truth(lower[0]) if lower else None

    def run(m: object, i: object) -> None:
        left, right = read[0](m, i), read[1](m, i)
        if "EX" not in kinds or below is None:
            found = COMPARISONS[name](left, right)
        elif name in ("EQ", "NE"):
            found = (left == right) & below(m, i) if name == "EQ" else (left != right) | below(m, i)
        else:
            found = _STRICT[name](left, right) | ((left == right) & below(m, i))
        outs[0](m, i, combine(kinds, found, other(m, i)))
        if second.row not in (7, 15):
            outs[1](m, i, combine(kinds, ~found, other(m, i)))

    return run


def permute(instruction: Instruction) -> Effect:
    """PRMT: four bytes of eight."""
    result, a, selector, c = instruction.operands
    low, choice, top, out = word(a), word(selector), word(c), write(result)

    def run(m: object, i: object) -> None:
        both = top(m, i).astype(U64) << _32 | low(m, i).astype(U64)
        chosen = choice(m, i).astype(U64)
        value = U64(0)
        for byte in range(4):
            nibble = chosen >> U64(4 * byte)
            found = both >> (nibble & U64(7)) * U64(8) & U64(0xFF)
            sign = np.where(found & U64(0x80), U64(0xFF), U64(0))
            value = value | np.where(nibble & U64(8), sign, found) << U64(8 * byte)
        out(m, i, value.astype(U32))

    return run


def select(instruction: Instruction) -> Effect:
    result, a, b, condition = instruction.operands
    left, right, choice, out = word(a), word(b), truth(condition), write(result)
    return lambda m, i: out(m, i, np.where(choice(m, i), left(m, i), right(m, i)))


def extreme(instruction: Instruction) -> Effect:
    """IMNMX, VIMNMX, VIMNMX3 and VIADDMNMX: the least where the predicate holds, else the largest."""
    result, *operands, condition = instruction.operands
    read = word if "U32" in instruction.modifiers else (lambda operand: signed(word(operand)))
    values, choice, out = [read(operand) for operand in operands], truth(condition), write(result)
    adds = instruction.base == "VIADDMNMX"

    def run(m: object, i: object) -> None:
        found = [value(m, i) for value in values]
        if adds:
            found = [found[0] + found[1], found[2]]
        least, most = found[0], found[0]
        for value in found[1:]:
            least, most = np.minimum(least, value), np.maximum(most, value)
        out(m, i, np.where(choice(m, i), least, most).view(U32))

    return run


def move(instruction: Instruction) -> Effect:
    read, out = word(instruction.operands[1]), write(instruction.operands[0])
    return lambda m, i: out(m, i, read(m, i))


def load_constant(instruction: Instruction) -> Effect:
    """LDC, ULDC."""
    result, source = instruction.operands
    kinds = instruction.modifiers
    if "64" in kinds:
        value, out = pair(source), write_pair(result)
        return lambda m, i: out(m, i, value(m, i))
    sizes = {"U8": (1, False), "S8": (1, True), "U16": (2, False), "S16": (2, True)}
    size, is_signed = next((sizes[kind] for kind in kinds if kind in sizes), (4, False))
    read, store = constant(source, size, is_signed), write(result)
    return lambda m, i: store(m, i, read(m, i))


def absolute(instruction: Instruction) -> Effect:
    result, a = instruction.operands
    value, out = signed(word(a)), write(result)
    return lambda m, i: out(m, i, np.abs(value(m, i)).view(U32))


def leading_one(instruction: Instruction) -> Effect:
    """FLO.U32: the position of the highest bit that is set, all ones where there is none."""
    *_, result, a = instruction.operands
    value, out = word(a), write(result)

    def run(m: object, i: object) -> None:
        found = value(m, i).astype(np.float64)
        position = np.where(found > 0, np.frexp(found)[1] - 1, -1)
        if "SH" in instruction.modifiers:
            position = np.where(found > 0, 31 - position, -1)
        out(m, i, position.astype(np.int32).view(U32))

    return run


def population(instruction: Instruction) -> Effect:
    result, a = instruction.operands
    value, out = word(a), write(result)
    return lambda m, i: out(m, i, np.bitwise_count(value(m, i)).astype(U32))


def pack_predicates(instruction: Instruction) -> Effect:
    """P2R and R2P."""
    if instruction.base == "R2P":
        _, source, mask = instruction.operands
        value, bits = word(source), mask.value

        def unpack(m: object, i: object) -> None:
            for row in range(7):
                if bits >> row & 1:
                    m.predicates[row][i] = (value(m, i) >> U32(row) & U32(1)).astype(bool)

        return unpack
    result, _, rest, mask = instruction.operands
    other, out, kept = word(rest), write(result), U32(mask.value)

    def pack(m: object, i: object) -> None:
        found = sum(m.predicates[row][i].astype(U32) << U32(row) for row in range(7))
        out(m, i, (found & kept) | (other(m, i) & ~kept))

    return pack


def clear(instruction: Instruction) -> Effect:
    """CS2R of zero: a pair."""
    result, source = instruction.operands
    if source.name != "SRZ":
        raise CannotTell(f"the special register {source.name}")
    outs = [write(result)] + ([] if "32" in instruction.modifiers else [write(high(result))])
    return lambda m, i: [out(m, i, U32(0)) for out in outs] and None


INTEGERS = {
    "IADD3": add, "UIADD3": add, "VIADD": add, "IMAD": multiply, "UIMAD": multiply, "LEA": shift_add,
    "ULEA": shift_add, "SHF": shift, "USHF": shift, "LOP3": logic, "ULOP3": logic, "PLOP3": predicate_logic,
    "UPLOP3": predicate_logic, "ISETP": compare, "UISETP": compare, "PRMT": permute, "UPRMT": permute, "SEL": select,
    "USEL": select, "IMNMX": extreme, "VIMNMX": extreme, "VIMNMX3": extreme, "VIADDMNMX": extreme, "MOV": move,
    "UMOV": move, "R2UR": move, "LDC": load_constant, "ULDC": load_constant, "IABS": absolute, "FLO": leading_one,
    "POPC": population, "P2R": pack_predicates, "R2P": pack_predicates, "CS2R": clear,
}  # fmt: skip
