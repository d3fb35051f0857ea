"""What the lanes of a warp do together: exchanges, votes, matrices from shared memory, tensor-core products."""

from __future__ import annotations

import numpy as np

from .program import Instruction, Operand
from .values import I64, U32, CannotTell, Effect, truth, word, write

LANES = 32


def _bits(m: object, i: object, holds: np.ndarray) -> np.ndarray:
    """For each lane of `i`, the lanes of its warp for which `holds` is true, as bits."""
    lanes = m.lanes(i)
    bits = np.zeros(m.warps, np.int64)
    np.add.at(bits, lanes // LANES, np.where(holds, I64(1) << (lanes % LANES), I64(0)))
    return bits[lanes // LANES].astype(U32)


def shuffle(instruction: Instruction) -> Effect:
    """SHFL; a lane whose source doesn't exist keeps its own value."""
    kind = instruction.modifiers[0]
    flag, result, a, lane, limit = instruction.operands
    value, by, clamp, out, valid = word(a), word(lane), word(limit), write(result), write(flag)

    def run(m: object, i: object) -> None:
        lanes = m.lanes(i)
        own, distance, bound = lanes % LANES, by(m, i).astype(I64), clamp(m, i).astype(I64)
        segment = bound >> 8 & 31
        last = (own & segment) | (bound & 31 & ~segment)
        if kind == "IDX":
            source = (own & segment) | (distance & ~segment & 31)
        else:
            source = {"BFLY": own ^ distance, "UP": own - distance, "DOWN": own + distance}[kind]
        fine = source >= last if kind == "UP" else source <= last
        source = lanes // LANES * LANES + np.where(fine, source, own)
        active = np.zeros(m.size, bool)
        active[lanes] = True
        if not active[source].all():
            raise CannotTell(f"a shuffle from a lane that does not take part: {instruction.text}")
        values = np.zeros(m.size, U32)
        values[lanes] = value(m, i)
        out(m, i, values[source])
        valid(m, i, fine)

    return run


def vote(instruction: Instruction) -> Effect:
    """VOTE: which lanes a predicate holds for, and whether for any, or all."""
    kind = instruction.modifiers[0]
    *written, condition = instruction.operands
    holds = truth(condition)
    outs = [(write(operand), operand.kind == "predicate") for operand in written]

    def run(m: object, i: object) -> None:
        found = np.broadcast_to(holds(m, i), m.count(i))
        ballot, members = _bits(m, i, found), _bits(m, i, np.True_)
        answer = {"ANY": ballot != 0, "ALL": ballot == members, "EQ": (ballot == 0) | (ballot == members)}[kind]
        for out, is_predicate in outs:
            out(m, i, answer if is_predicate else ballot)

    return run


def _whole(m: object, i: object, instruction: Instruction) -> np.ndarray:
    """The lanes, one warp a row."""
    lanes = m.lanes(i)
    if len(lanes) % LANES or (lanes[::LANES] % LANES).any() or (lanes[LANES - 1 :: LANES] % LANES != LANES - 1).any():
        raise CannotTell(f"a part of a warp executes {instruction.text}")
    return lanes.reshape(-1, LANES)


def _next(register: Operand, count: int) -> list[Operand]:
    return [Operand("register", register.row + k) if register.row != 255 else register for k in range(count)]


def load_matrices(instruction: Instruction) -> Effect:
    """LDSM: 8×8 matrices of halves; lanes 8k … 8k + 7 hold the addresses of the rows of the k-th."""
    from .memory import address_of

    result, source = instruction.operands
    count = int(instruction.modifiers[-1])
    transposed = "MT88" in instruction.modifiers
    where, outs = address_of(source, False), [write(register) for register in _next(result, count)]

    def run(m: object, i: object) -> None:
        warps = _whole(m, i, instruction)
        address = where(m, i)
        at, data = m.shared_at(address, i)
        m.banked(instruction, address, i, 16)
        rows = at.reshape(len(warps), LANES)[:, : 8 * count].reshape(-1, count, 8)
        halves = data.view(np.uint16)[rows[..., None] // 2 + np.arange(8)]
        if transposed:
            halves = np.swapaxes(halves, 2, 3)
        words = np.ascontiguousarray(halves).view(U32).reshape(len(warps), count, LANES)
        for matrix, out in enumerate(outs):
            out(m, i, words[:, matrix].ravel())

    return run


def _bfloat16_halves(words: np.ndarray) -> np.ndarray:
    pair = np.stack([words << U32(16), words & U32(0xFFFF0000)], -1)
    return np.ascontiguousarray(pair).view(np.float32)


def multiply_matrices(instruction: Instruction) -> Effect:
    """HMMA.16816.F32.BF16: D[16×8] = A[16×16] · B[16×8] + C."""
    if not {"16816", "F32", "BF16"} <= set(instruction.modifiers):
        raise CannotTell(f"the instruction {instruction.text}")
    d, a, b, c = instruction.operands
    reads_a, reads_b, reads_c = ([word(r) for r in _next(o, n)] for o, n in ((a, 4), (b, 2), (c, 4)))
    outs = [write(register) for register in _next(d, 4)]

    def run(m: object, i: object) -> None:
        warps = len(_whole(m, i, instruction))
        left, right = np.empty((warps, 16, 16), np.float32), np.empty((warps, 16, 8), np.float32)
        start = np.empty((warps, 16, 8), np.float32)
        for k, read in enumerate(reads_a):
            part = _bfloat16_halves(read(m, i).reshape(warps, 8, 4)).reshape(warps, 8, 8)
            left[:, 8 * (k % 2) :, 8 * (k // 2) :][:, :8, :8] = part
        for k, read in enumerate(reads_b):
            part = _bfloat16_halves(read(m, i).reshape(warps, 8, 4)).reshape(warps, 8, 8)
            right[:, 8 * k : 8 * k + 8] = np.swapaxes(part, 1, 2)
        for k, read in enumerate(reads_c):
            values = np.broadcast_to(read(m, i), warps * LANES)
            start[:, 8 * (k // 2) :, k % 2 :: 2][:, :8] = values.view(np.float32).reshape(warps, 8, 4)
        product = np.matmul(left.astype(np.float64), right.astype(np.float64)) + start
        result = product.astype(np.float32)
        for k, out in enumerate(outs):
            out(m, i, np.ascontiguousarray(result[:, 8 * (k // 2) :, k % 2 :: 2][:, :8]).view(U32).ravel())

    return run


WARPS = {
    "SHFL": shuffle, "VOTE": vote, "VOTEU": vote, "LDSM": load_matrices, "HMMA": multiply_matrices,
}  # fmt: skip
