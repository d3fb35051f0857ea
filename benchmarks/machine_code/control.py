"""Where lanes go next: branches, calls, barriers and ends.

An effect here is given the lanes that stand at the instruction, those of them whose guard holds, and its position. It
returns where all of them go on together, or None once it has set that for each.
"""

from __future__ import annotations

import numpy as np

from .program import Instruction, Program
from .values import I64, U32, CannotTell, truth, word, write
from .warps import LANES

NOTHING = {"NOP", "YIELD", "DEPBAR", "LDGDEPBAR", "MEMBAR", "ERRBAR", "CCTL", "ENDCOLLECTIVE"}
_WARPSYNC = 16  # its barrier, behind the numbered ones


def _part(m: object, lanes: np.ndarray, going: np.ndarray, here: int, target: int) -> int | None:
    if len(going) == 0:
        return here + 1
    if len(going) == len(lanes):
        return target
    m.position[lanes] = here + 1
    m.position[going] = target
    m.part(lanes, going)
    return None


def branch(instruction: Instruction, program: Program):
    """BRA. DIV is taken where a part of a warp has come, CONV where all of it has."""
    target = program.target(instruction)
    kinds = instruction.modifiers
    conditions = [truth(operand) for operand in instruction.operands if operand.kind == "predicate"]

    def run(m: object, lanes: np.ndarray, chosen: object, here: int) -> int | None:
        going = m.lanes(chosen)
        for condition in conditions:
            going = going[np.broadcast_to(condition(m, going), len(going))]
        if "DIV" in kinds or "CONV" in kinds:
            here_of_warp = np.bincount(lanes // LANES, minlength=m.warps)[going // LANES]
            going = going[(here_of_warp == LANES) == ("CONV" in kinds)]
        return _part(m, lanes, going, here, target)

    return run


def call(instruction: Instruction, program: Program):
    target = program.target(instruction)
    return lambda m, lanes, chosen, here: _part(m, lanes, m.lanes(chosen), here, target)


def give_back(instruction: Instruction, program: Program):
    """RET: to the address in a register."""
    to = word(instruction.operands[0])

    def run(m: object, lanes: np.ndarray, chosen: object, here: int) -> None:
        going = m.lanes(chosen)
        m.position[lanes] = here + 1
        targets = to(m, going).astype(I64) // 16
        m.position[going] = targets
        for target in np.unique(targets)[1:]:
            m.part(lanes, going[targets == target])

    return run


def leave(instruction: Instruction, program: Program):
    """EXIT."""

    def run(m: object, lanes: np.ndarray, chosen: object, here: int) -> int | None:
        from .machine import EXITED

        going = m.lanes(chosen)
        if len(going) == 0:
            return here + 1
        m.position[lanes] = here + 1
        m.state[going] = EXITED
        return None

    return run


def _wait(m: object, going: np.ndarray, barrier: int) -> None:
    from .machine import WAITING

    m.state[going] = WAITING
    m.waits_at[going] = barrier


def open_barrier(instruction: Instruction, program: Program):
    """BSSY: the lanes that have come will meet again."""
    barrier = instruction.operands[0].row

    def run(m: object, lanes: np.ndarray, chosen: object, here: int) -> int:
        going = m.lanes(chosen)
        which = np.zeros(m.size, bool)
        which[going] = True
        m.members[barrier][going] = np.repeat(m.bits(which), LANES)[going]
        return here + 1

    return run


def close_barrier(instruction: Instruction, program: Program):
    """BSYNC: waits for the lanes of BSSY."""
    barrier = instruction.operands[0].row

    def run(m: object, lanes: np.ndarray, chosen: object, here: int) -> None:
        m.position[lanes] = here + 1
        _wait(m, m.lanes(chosen), barrier)

    return run


def leave_barrier(instruction: Instruction, program: Program):
    """BREAK: the lanes will not come to BSYNC."""
    barrier = instruction.operands[-1].row

    def run(m: object, lanes: np.ndarray, chosen: object, here: int) -> int:
        which = np.zeros(m.size, bool)
        which[m.lanes(chosen)] = True
        m.members[barrier] &= ~np.repeat(m.bits(which), LANES)
        return here + 1

    return run


def move_barrier(instruction: Instruction, program: Program):
    """BMOV: a barrier's lanes to or from a register."""
    to, source = instruction.operands
    if to.kind == "barrier":
        value = word(source)

        def read(m: object, lanes: np.ndarray, chosen: object, here: int) -> int:
            m.members[to.row][m.lanes(chosen)] = value(m, m.lanes(chosen))
            return here + 1

        return read
    out = write(to)

    def store(m: object, lanes: np.ndarray, chosen: object, here: int) -> int:
        out(m, m.lanes(chosen), m.members[source.row][m.lanes(chosen)])
        return here + 1

    return store


def sync_block(instruction: Instruction, program: Program):
    """BAR.SYNC of all threads of the block."""
    if "SYNC" not in instruction.modifiers or len(instruction.operands) != 1:
        raise CannotTell(f"the instruction {instruction.text}")

    def run(m: object, lanes: np.ndarray, chosen: object, here: int) -> None:
        from .machine import AT_BARRIER

        m.position[lanes] = here + 1
        m.state[m.lanes(chosen)] = AT_BARRIER

    return run


def sync_warp(instruction: Instruction, program: Program):
    """WARPSYNC: waits for the lanes of a mask, or for all."""
    if "COLLECTIVE" in instruction.modifiers:
        raise CannotTell("a part of a warp at an exchange of all of it")
    mask = None if "ALL" in instruction.modifiers else word(instruction.operands[-1])

    def run(m: object, lanes: np.ndarray, chosen: object, here: int) -> None:
        going = m.lanes(chosen)
        m.position[lanes] = here + 1
        m.members[_WARPSYNC][going] = U32(0xFFFFFFFF) if mask is None else mask(m, going)
        _wait(m, going, _WARPSYNC)

    return run


def read_special(instruction: Instruction, program: Program):
    """S2R, S2UR."""
    result, source = instruction.operands
    out = write(result)

    def run(m: object, lanes: np.ndarray, chosen: object, here: int) -> int:
        if source.name not in m.special:
            raise CannotTell(f"the special register {source.name}")
        going = m.lanes(chosen)
        out(m, going, m.special[source.name][going])
        return here + 1

    return run


CONTROL = {
    "BRA": branch, "CALL": call, "RET": give_back, "EXIT": leave, "BSSY": open_barrier, "BSYNC": close_barrier,
    "BREAK": leave_barrier, "BMOV": move_barrier, "BAR": sync_block, "WARPSYNC": sync_warp, "S2R": read_special,
    "S2UR": read_special,
}  # fmt: skip
