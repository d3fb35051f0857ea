"""What instructions on floats and doubles do, in NumPy: results of special functions may differ in the last places."""

from __future__ import annotations

import numpy as np

from .integers import combine
from .program import Instruction, Operand, bits_of
from .values import (
    I64,
    U32,
    U64,
    CannotTell,
    Effect,
    Value,
    double,
    pair,
    single,
    truth,
    word,
    write,
    write_pair,
)

F32, F64 = np.float32, np.float64


def _flush(value: np.ndarray) -> np.ndarray:
    tiny = np.abs(value) < np.finfo(F32).tiny
    return np.where(tiny, np.copysign(F32(0), value), value)


def _round(exact: np.ndarray, kinds: list[str]) -> np.ndarray:
    """A double as a float, rounded as the modifiers say."""
    near = exact.astype(F32)
    back = near.astype(F64)
    if "RP" in kinds:
        return np.where(back < exact, np.nextafter(near, F32(np.inf)), near)
    if "RM" in kinds:
        return np.where(back > exact, np.nextafter(near, F32(-np.inf)), near)
    if "RZ" in kinds:
        return np.where(np.abs(back) > np.abs(exact), np.nextafter(near, F32(0)), near)
    return near


def _rounded(instruction: Instruction, compute: object) -> Effect:
    """FADD, FMUL, FFMA: exact in double but for the last place of a sum."""
    kinds = instruction.modifiers
    reads, out = [single(operand) for operand in instruction.operands[1:]], write(instruction.operands[0])

    def run(m: object, i: object) -> None:
        values = [read(m, i) for read in reads]
        if "FTZ" in kinds:
            values = [_flush(value) for value in values]
        result = _round(compute(*(value.astype(F64) for value in values)), kinds)
        out(m, i, (_flush(result) if "FTZ" in kinds else result).view(U32))

    return run


def add(instruction: Instruction) -> Effect:
    return _rounded(instruction, lambda a, b: a + b)


def multiply(instruction: Instruction) -> Effect:
    factor = {"D2": 0.5, "D4": 0.25, "D8": 0.125, "M2": 2.0, "M4": 4.0, "M8": 8.0}
    scale = next((factor[kind] for kind in instruction.modifiers if kind in factor), 1.0)
    return _rounded(instruction, lambda a, b: a * b * scale)


def multiply_add(instruction: Instruction) -> Effect:
    return _rounded(instruction, lambda a, b, c: a * b + c)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _split(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    c = F64(134217729.0) * a
    top = c - (c - a)
    return top, a - top


def _fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a·b + c, rounded once (but for halfway cases)."""
    product = a * b
    (ah, al), (bh, bl) = _split(a), _split(b)
    error = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    total, rest = _two_sum(product, c)
    exact = total + (rest + error)
    return np.where(np.isfinite(exact) & np.isfinite(error), exact, product + c)


def double_arithmetic(instruction: Instruction) -> Effect:
    """DADD, DMUL, DFMA; directed roundings as to the nearest."""
    reads, out = [double(operand) for operand in instruction.operands[1:]], write_pair(instruction.operands[0])
    compute = {"DADD": lambda a, b: a + b, "DMUL": lambda a, b: a * b, "DFMA": _fused}[instruction.base]
    return lambda m, i: out(m, i, np.asarray(compute(*(read(m, i) for read in reads))).view(U64))


_ORDERED = {"LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal, "EQ": np.equal}


def compare(instruction: Instruction) -> Effect:
    """FSETP, DSETP. A name that ends in U holds where one of the two is NaN, too.

    MIN and MAX say whether to take the first, and whether there is no number to take.
    """
    kinds = instruction.modifiers
    first, second, a, b, condition = instruction.operands
    read = double if instruction.base == "DSETP" else single
    left, right, other, outs = read(a), read(b), truth(condition), (write(first), write(second))

    def found(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        unordered = np.isnan(x) | np.isnan(y)
        name = kinds[0]
        if name in ("NAN", "NUM"):
            return unordered if name == "NAN" else ~unordered
        if name in ("MAX", "MIN"):
            return (np.greater if name == "MAX" else np.less)(x, y) | np.isnan(y)
        if name == "NE":
            return np.not_equal(x, y) & ~unordered
        if name == "NEU":
            return np.not_equal(x, y)
        return _ORDERED[name](x, y) if name in _ORDERED else _ORDERED[name[:-1]](x, y) | unordered

    def run(m: object, i: object) -> None:
        x, y = left(m, i), right(m, i)
        if "FTZ" in kinds:
            x, y = _flush(x), _flush(y)
        holds, also = np.asarray(found(x, y)), other(m, i)
        no_number = np.isnan(x) & np.isnan(y)
        outs[0](m, i, combine(kinds, holds, also))
        outs[1](m, i, combine(kinds, no_number if kinds[0] in ("MAX", "MIN") else ~holds, also))

    return run


def select(instruction: Instruction) -> Effect:
    result, a, b, condition = instruction.operands
    left, right, choice, out = single(a), single(b), truth(condition), write(result)
    return lambda m, i: out(m, i, np.where(choice(m, i), left(m, i).view(U32), right(m, i).view(U32)))


def extreme(instruction: Instruction) -> Effect:
    """FMNMX: the least where the predicate holds, else the largest; a NaN only where both are, or with NAN."""
    result, a, b, condition = instruction.operands
    left, right, choice, out = single(a), single(b), truth(condition), write(result)
    least, most = (np.minimum, np.maximum) if "NAN" in instruction.modifiers else (np.fmin, np.fmax)

    def run(m: object, i: object) -> None:
        x, y = left(m, i), right(m, i)
        out(m, i, np.where(choice(m, i), least(x, y), most(x, y)).view(U32))

    return run


_SPECIAL = {
    "RCP": lambda x: 1 / x, "RSQ": lambda x: 1 / np.sqrt(x), "SQRT": np.sqrt, "EX2": np.exp2, "LG2": np.log2,
    "SIN": lambda x: np.sin(x * 2 * np.pi), "COS": lambda x: np.cos(x * 2 * np.pi), "TANH": np.tanh,
}  # fmt: skip


def special(instruction: Instruction) -> Effect:
    """MUFU, in double precision; of a double (RCP64H) the upper words."""
    kind = instruction.modifiers[0]
    result, a = instruction.operands
    out = write(result)
    if kind.endswith("64H"):
        if a.real is not None:  # the double that the upper word stands for
            a = Operand("number", value=bits_of(a, "d") >> 32)
        top = word(a)

        def run(m: object, i: object) -> None:
            value = (top(m, i).astype(U64) << U64(32)).view(F64)
            out(m, i, (_SPECIAL[kind[:3]](value).view(U64) >> U64(32)).astype(U32))

        return run
    value = single(a)

    def run_single(m: object, i: object) -> None:
        x = _flush(value(m, i)) if kind != "EX2" else value(m, i)
        out(m, i, _flush(_SPECIAL[kind](x.astype(F64)).astype(F32)).view(U32))

    return run_single


def check_division(instruction: Instruction) -> Effect:
    """FCHK: whether a / b needs the slow path, by the exponents."""
    flag, a, b = instruction.operands
    left, right, out = word(a), word(b), write(flag)

    def run(m: object, i: object) -> None:
        x, y = ((value(m, i) >> U32(23) & U32(255)).astype(np.int32) for value in (left, right))
        fine = (x > 24) & (x < 254) & (y > 0) & (y < 252) & (x - y > -125) & (x - y < 125)
        out(m, i, ~fine)

    return run


_INTEGERS = {"U8": (0, 0xFF), "U16": (0, 0xFFFF), "U32": (0, 2**32 - 1), "S32": (-(2**31), 2**31 - 1)}


def from_integer(instruction: Instruction) -> Effect:
    """I2F, I2FP."""
    kinds = [kind for kind in instruction.modifiers if kind != "F32"]
    result, a = instruction.operands
    to_double, source = "F64" in kinds, next((kind for kind in kinds if kind[0] in "US"), "S32")
    if source.endswith("64"):
        bits = pair(a)
        value: Value = (lambda m, i: bits(m, i).view(I64)) if source == "S64" else bits
    else:
        low, size = word(a), source[1:]
        kind = np.dtype(f"{'i' if source[0] == 'S' else 'u'}{int(size) // 8}")
        value = lambda m, i: low(m, i).astype(f"u{kind.itemsize}").view(kind)  # noqa: E731
    out = (write_pair if to_double else write)(result)

    def run(m: object, i: object) -> None:
        number = np.asarray(value(m, i))
        if to_double:
            return out(m, i, number.astype(F64).view(U64))
        near = number.astype(F32)
        if "RP" in kinds:
            near = np.where(
                near.astype(np.longdouble) < number.astype(np.longdouble), np.nextafter(near, F32(np.inf)), near
            )
        out(m, i, near.view(U32))

    return run


def to_integer(instruction: Instruction) -> Effect:
    """F2I: to the nearest, even; or TRUNC. Saturates, and NaN gives 0 (of 64 bits the lowest number)."""
    kinds = instruction.modifiers
    result, a = instruction.operands
    value = double(a) if "F64" in kinds else single(a)
    target = next((kind for kind in kinds if kind[0] in "US" and kind[1:].isdigit()), "S32")
    rounding = next((name for name in ("TRUNC", "FLOOR", "CEIL") if name in kinds), "NEAREST")
    rounded = {"TRUNC": np.trunc, "FLOOR": np.floor, "CEIL": np.ceil, "NEAREST": np.rint}[rounding]
    is_long = target.endswith("64")
    out = (write_pair if is_long else write)(result)

    def run(m: object, i: object) -> None:
        number = rounded(np.asarray(value(m, i)).astype(np.longdouble))
        number = np.where(np.isnan(number), 0, number)
        if is_long:
            limits = np.iinfo(I64 if target == "S64" else U64)
            whole = np.clip(number, np.longdouble(limits.min), np.longdouble(limits.max)).astype(limits.dtype).view(U64)
        else:
            whole = np.clip(number, *_INTEGERS[target]).astype(I64).view(U64).astype(U32)
        out(m, i, whole)

    return run


def _bfloat16(value: np.ndarray) -> np.ndarray:
    bits = value.view(U32)
    rounded = (bits + U32(0x7FFF) + (bits >> U32(16) & U32(1))) >> U32(16)
    return np.where(np.isnan(value), U32(0x7FFF), rounded)


def _half(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float16).view(np.uint16).astype(U32)


def convert(instruction: Instruction) -> Effect:
    """F2F."""
    to, source = (kind for kind in instruction.modifiers if kind in ("F32", "F64", "F16", "BF16"))
    result, a = instruction.operands
    value = double(a) if source == "F64" else single(a)
    if to == "F64":
        out = write_pair(result)
        return lambda m, i: out(m, i, value(m, i).astype(F64).view(U64))
    pack = {"F32": lambda x: x.astype(F32).view(U32), "BF16": lambda x: _bfloat16(x.astype(F32)), "F16": _half}[to]
    store = write(result)
    return lambda m, i: store(m, i, pack(np.asarray(value(m, i))))


def pack_halves(instruction: Instruction) -> Effect:
    """F2FP: two floats as halves of a word, the first in the upper half."""
    result, a, b = instruction.operands
    narrow = _bfloat16 if "BF16" in instruction.modifiers else _half
    left, right, out = single(a), single(b), write(result)

    def run(m: object, i: object) -> None:
        out(m, i, narrow(np.asarray(left(m, i))) << U32(16) | narrow(np.asarray(right(m, i))))

    return run


def round_to_integer(instruction: Instruction) -> Effect:
    """FRND."""
    result, a = instruction.operands
    names = {"TRUNC": np.trunc, "FLOOR": np.floor, "CEIL": np.ceil}
    rounded = next((names[kind] for kind in instruction.modifiers if kind in names), np.rint)
    if "F64" in instruction.modifiers:
        value, out = double(a), write_pair(result)
        return lambda m, i: out(m, i, np.asarray(rounded(value(m, i))).view(U64))
    near, store = single(a), write(result)
    return lambda m, i: store(m, i, np.asarray(rounded(near(m, i))).view(U32))


def _half_bits(operand: Operand) -> int:
    real = float(operand.value) if operand.real is None else operand.real
    return int(np.float16(-real if operand.negative and operand.real is None else real).view(np.uint16))


def halves(instruction: Instruction) -> Effect:
    """HADD2.F32, a half as a float; and HFMA2 of zeros, which writes two constants."""
    result, a, b, *constants = instruction.operands
    out = write(result)
    if instruction.base == "HADD2" and "F32" in instruction.modifiers:
        left, right = single(a), single(b)
        return lambda m, i: out(m, i, (left(m, i) + right(m, i)).view(U32))
    if instruction.base == "HFMA2" and a.row == b.row == 255 and len(constants) == 2:
        value = U32(_half_bits(constants[0]) << 16 | _half_bits(constants[1]))
        return lambda m, i: out(m, i, value)
    raise CannotTell(f"the instruction {instruction.text}")


FLOATS = {
    "FADD": add, "FMUL": multiply, "FFMA": multiply_add, "DADD": double_arithmetic, "DMUL": double_arithmetic,
    "DFMA": double_arithmetic, "FSETP": compare, "DSETP": compare, "FSEL": select, "FMNMX": extreme, "MUFU": special,
    "FCHK": check_division, "I2F": from_integer, "I2FP": from_integer, "F2I": to_integer, "F2F": convert,
    "F2FP": pack_halves, "FRND": round_to_integer, "HADD2": halves, "HFMA2": halves,
}  # fmt: skip
