"""Runs machine code: all threads of some blocks at once, an array of registers with a column for each lane.

Lanes that stand at the same instruction run it together, the lowest instruction first. Lanes of a warp that have
parted go on as two paths, each of which issues its instructions, until a barrier of the warp joins them (BSYNC,
WARPSYNC), as in hardware. An instruction that nothing here models ends the run with `CannotTell`: nothing is guessed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from .control import CONTROL, NOTHING
from .floats import FLOATS
from .integers import INTEGERS
from .memory import MEMORY, SECTOR, SHARED_WINDOW, Memory, Traffic, bank_turns
from .program import PT, UPT, Instruction, Program
from .values import I64, U32, CannotTell, truth
from .warps import LANES, WARPS

EFFECTS = {**INTEGERS, **FLOATS, **MEMORY, **WARPS}
RUNNING, WAITING, AT_BARRIER, EXITED = range(4)
_PARAMETERS = {"sm_80": 0x160, "sm_86": 0x160, "sm_89": 0x160, "sm_90": 0x210}
_STACK = 4096  # bytes of local memory that a lane may use


@dataclass(frozen=True)
class Launch:
    """One launch, as the emulation would have run it."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    dynamic_shared_bytes: int
    parameters: bytes  # laid out as a kernel sees them


class Machine:
    """Some blocks of a launch."""

    def __init__(
        self,
        program: Program,
        launch: Launch,
        architecture: str,
        *,
        blocks: np.ndarray,
        shared_bytes: int,
        constants: dict[int, bytes] | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.program, self.memory = program, memory or Memory()
        threads = int(np.prod(launch.block))
        self.lanes_of_block = -(-threads // LANES) * LANES
        self.size = self.lanes_of_block * len(blocks)
        self.warps = self.size // LANES
        self.registers = np.zeros((320, self.size), U32)
        self.predicates = np.zeros((16, self.size), bool)
        self.predicates[[PT, UPT]] = True
        self.members = np.zeros((17, self.size), U32)  # of barriers of a warp; the last is WARPSYNC's
        self.waits_at = np.full(self.size, -1)
        self.position = np.zeros(self.size, I64)
        self._path, self._paths = np.zeros(self.size, I64), 0  # of each lane within its warp, and how many there were
        within = np.tile(np.arange(self.lanes_of_block), len(blocks))
        self.state = np.where(within < threads, RUNNING, EXITED)
        self._shared_bytes = -(-shared_bytes // 128) * 128
        self._shared = np.zeros(max(self._shared_bytes, 128) * len(blocks), np.uint8)
        self._local: np.ndarray | None = None
        self._block_of_lane = np.repeat(np.arange(len(blocks)), self.lanes_of_block)
        self._bank_0 = _constant_bank(launch, architecture)
        self._banks = {**(constants or {}), 0: self._bank_0.tobytes()}
        self.special = _special_registers(launch, blocks, within, self._block_of_lane)
        count = len(program.instructions)
        self.issues = np.zeros(count, I64)  # of warps, by instruction
        self.executions = np.zeros(count, I64)  # of threads whose guard holds
        self.traffic: dict[int, Traffic] = defaultdict(Traffic)
        self._read: list[np.ndarray] = []  # addresses of global loads, with the lane
        self._steps: list[tuple | None] = [None] * count

    # What instructions ask for.
    def count(self, i: object) -> int:
        return self.size if isinstance(i, slice) else len(i)

    def lanes(self, i: object) -> np.ndarray:
        return np.arange(self.size) if isinstance(i, slice) else i

    def bank(self, number: int) -> bytes:
        if number not in self._banks:
            raise CannotTell(f"the constant bank {number}")
        return self._banks[number]

    def for_warp(self, i: object, value: np.ndarray) -> tuple[object, np.ndarray]:
        """A uniform value for all lanes of the warps that `i` belongs to."""
        if isinstance(i, slice):
            if np.ndim(value):
                value = np.repeat(value[::LANES], LANES)
            return i, value
        warps, first = np.unique(i // LANES, return_index=True)
        lanes = (warps[:, None] * LANES + np.arange(LANES)).ravel()
        return lanes, np.repeat(np.asarray(value)[first], LANES) if np.ndim(value) else value

    def shared_at(self, address: np.ndarray, i: object) -> tuple[np.ndarray, np.ndarray]:
        if (address < 0).any() or (address >= self._shared_bytes).any():
            raise CannotTell("an access outside shared memory")
        return address + self._block_of_lane[self.lanes(i)] * self._shared_bytes, self._shared

    def local_at(self, address: np.ndarray, i: object) -> tuple[np.ndarray, np.ndarray]:
        if self._local is None:
            self._local = np.zeros(_STACK * self.size, np.uint8)
        if (address < 0).any() or (address >= _STACK).any():
            raise CannotTell("an access outside local memory")
        return address + self.lanes(i) * _STACK, self._local

    def moved(self, instruction: Instruction, address: np.ndarray, i: object, size: int) -> None:
        traffic = self.traffic[instruction.address // 16]
        lanes, start = self.lanes(i), self._bank_0.ctypes.data
        own = (address >= np.uint64(start)) & (address < np.uint64(start + self._bank_0.nbytes))
        if own.any():
            traffic.constant += int(own.sum())
            address, lanes = address[~own], lanes[~own]
        sectors = (address // np.uint64(SECTOR)).astype(I64)
        warps = lanes // LANES
        traffic.bytes += size * len(address)
        traffic.sectors += len(np.unique(warps << 48 ^ sectors))
        traffic.touched.append(np.unique(sectors))
        if instruction.base in ("LDG", "LD"):
            self._read.append(address * np.uint64(1 << 14) + lanes.astype(np.uint64))

    @property
    def different_loads(self) -> int:
        """Global loads but those of an address that the lane has read before."""
        return len(np.unique(np.concatenate(self._read))) if self._read else 0

    def banked(self, instruction: Instruction, address: np.ndarray, i: object, size: int) -> None:
        traffic = self.traffic[instruction.address // 16]
        taken, least = bank_turns(address, self.lanes(i) // LANES, size)
        traffic.bytes += size * len(address)
        traffic.wavefronts += taken
        traffic.least_wavefronts += least

    # The run.
    def run(self, most_issues: int = 20_000_000) -> None:
        with np.errstate(all="ignore"):
            while (self.state != EXITED).any():
                self._release()
                running = self.state == RUNNING
                if not running.any():
                    raise CannotTell("all lanes wait for others")
                here = self.position[running].min()
                together = running & (self.position == here)
                if self._paths:
                    first = np.where(together, self._path, np.iinfo(I64).max).reshape(-1, LANES).min(1)
                    together &= self._path == np.repeat(first, LANES)
                elsewhere = self.position[running & (self.position > here)]
                self._go(np.flatnonzero(together), int(here), int(elsewhere.min()) if len(elsewhere) else -1)
                if self.issues.sum() > most_issues:
                    raise CannotTell("the run does not end")

    def _go(self, lanes: np.ndarray, here: int, other: int) -> None:
        """Runs `lanes` from `here` until they part, wait or meet others, of which the next stand at `other`."""
        i = slice(None) if len(lanes) == self.size else lanes
        warps = int((np.diff(lanes // LANES) != 0).sum()) + 1
        while True:
            effect, guard, control = self._steps[here] or self._prepare(here)
            self.issues[here] += warps
            chosen = i
            if guard is not None:
                holds = guard(self, i)
                if not holds.all():
                    chosen = lanes[holds]
            self.executions[here] += self.count(chosen)
            if control:
                following = effect(self, lanes, chosen if guard is not None else lanes, here)
                if following is None:
                    return
                here = following
            else:
                if self.count(chosen):
                    effect(self, chosen)
                here += 1
            if here == other or (other >= 0 and here > other):
                self.position[lanes] = here
                return

    def _prepare(self, here: int) -> tuple:
        instruction = self.program.instructions[here]
        guard = None if instruction.guard.row == PT and not instruction.guard.inverted else truth(instruction.guard)
        if instruction.base in CONTROL:
            step = (CONTROL[instruction.base](instruction, self.program), guard, True)
        elif instruction.base in NOTHING:
            step = (lambda m, i: None, guard, False)
        elif instruction.base in EFFECTS:
            step = (EFFECTS[instruction.base](instruction), guard, False)
        else:
            raise CannotTell(f"the instruction {instruction.text}")
        self._steps[here] = step
        return step

    def part(self, lanes: np.ndarray, going: np.ndarray) -> None:
        """Of `lanes`, those `going` take another way; where all of a warp's do, they stay one path."""
        staying = np.zeros(self.warps, I64)
        np.add.at(staying, lanes // LANES, 1)
        np.subtract.at(staying, going // LANES, 1)
        self._paths += 1
        self._path[going[staying[going // LANES] > 0]] = self._paths

    def bits(self, which: np.ndarray) -> np.ndarray:
        """For each warp, the lanes of a mask over all of them as 32 bits."""
        weights = np.uint64(1) << np.arange(LANES, dtype=np.uint64)
        return (which.reshape(-1, LANES) * weights).sum(1).astype(U32)

    def _release(self) -> None:
        """Lets those go on for whom all have come."""
        waiting = self.state == WAITING
        if waiting.any():
            gone = self.bits(self.state == EXITED)
            for barrier in np.unique(self.waits_at[waiting]):
                here = waiting & (self.waits_at == barrier)
                missing = self.members[barrier] & ~np.repeat(self.bits(here) | gone, LANES)
                free = here & (missing == 0)
                self.state[free] = RUNNING
                joined = np.where(free, self._path, np.iinfo(I64).max).reshape(-1, LANES).min(1)
                self._path[free] = np.repeat(joined, LANES)[free]
        blocked = self.state == AT_BARRIER
        if blocked.any():
            done = (blocked | (self.state == EXITED)).reshape(-1, self.lanes_of_block).all(1)
            self.state[blocked & np.repeat(done, self.lanes_of_block)] = RUNNING


def _constant_bank(launch: Launch, architecture: str) -> np.ndarray:
    """Bank 0: the shape of the launch, the stack, where shared memory and the bank itself lie, and the parameters."""
    start = _PARAMETERS[architecture]
    bank = np.zeros(0x1000 + len(launch.parameters), np.uint8)
    words = bank.view(U32) if len(bank) % 4 == 0 else bank[: len(bank) // 4 * 4].view(U32)
    words[:6] = [*launch.block, *launch.grid]
    words[0x28 // 4] = _STACK - 64
    if start == _PARAMETERS["sm_90"]:
        places = {0x198: bank.ctypes.data + start}
    else:
        places = {0x18: SHARED_WINDOW << 32, 0x40: bank.ctypes.data}
    for place, address in places.items():
        words[place // 4 : place // 4 + 2] = [address & 0xFFFFFFFF, address >> 32]
    bank[start : start + len(launch.parameters)] = np.frombuffer(launch.parameters, np.uint8)
    return bank


def _special_registers(
    launch: Launch, blocks: np.ndarray, within: np.ndarray, block_of_lane: np.ndarray
) -> dict[str, np.ndarray]:
    x, y, _ = launch.block
    block = blocks[block_of_lane]
    found = {
        "SR_TID.X": within % x,
        "SR_TID.Y": within // x % y,
        "SR_TID.Z": within // x // y,
        "SR_CTAID.X": block % launch.grid[0],
        "SR_CTAID.Y": block // launch.grid[0] % launch.grid[1],
        "SR_CTAID.Z": block // launch.grid[0] // launch.grid[1],
        "SR_LANEID": within % LANES,
        "SR_CgaCtaId": np.zeros_like(within),
        "SR_SWINHI": np.full_like(within, SHARED_WINDOW),
        "SRZ": np.zeros_like(within),
    }
    return {name: value.astype(U32) for name, value in found.items()}
