"""Machine code as a program: the instructions of one kernel, parsed from what nvdisasm prints."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field, replace

RZ, FIRST_UNIFORM, URZ = 255, 256, 319  # rows of the register file: R0 … R254, RZ, UR0 … UR62, URZ
PT, FIRST_UNIFORM_PREDICATE, UPT = 7, 8, 15  # rows of the predicates
_LINE = re.compile(r"\s*/\*([0-9a-f]{4,6})\*/\s+(?:@(!?)(U?P\w+)\s+)?(\S+)\s*(.*?)\s*;\s*(.*)$")
_LABEL = re.compile(r"^(\S+):\s*$")
_CONSTANT = re.compile(r"c\[(0x[0-9a-f]+|U?R\w+)\]\s*\[(.*)\]$")


@dataclass(frozen=True)
class Operand:
    """One operand. `kind` is register, predicate, barrier, constant, address, number, label or name."""

    kind: str
    row: int = 0  # of the register, the predicate or the barrier
    value: int = 0  # of a number, as written; of an address or a constant, what is added
    real: float | None = None  # of a number written as a decimal fraction
    negative: bool = False  # -
    inverted: bool = False  # ~, or ! of a predicate
    absolute: bool = False
    name: str = ""  # of a label or a special register; which part of a register (H0_H0, B3)
    bank: int = 0  # of a constant
    index: tuple[tuple[int, int, bool], ...] = ()  # of an address: (row, factor, whether it is 64 bits wide)

    @property
    def is_uniform(self) -> bool:
        first = FIRST_UNIFORM_PREDICATE if self.kind == "predicate" else FIRST_UNIFORM
        return self.kind in ("register", "predicate") and self.row >= first


@dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str  # with its modifiers
    operands: tuple[Operand, ...]
    guard: Operand  # the predicate under which it runs
    spill: bool = False
    text: str = field(default="", compare=False)

    @property
    def base(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def modifiers(self) -> list[str]:
        return self.opcode.split(".")[1:]


@dataclass(frozen=True)
class Program:
    """A kernel. Addresses are positions in `instructions` times 16."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]  # position of the instruction that follows

    def target(self, instruction: Instruction) -> int:
        """Where a branch goes."""
        return self.labels[next(operand.name for operand in instruction.operands if operand.kind == "label")]


def parse_programs(text: str) -> dict[str, Program]:
    """The kernels in the output of ``nvdisasm -c``, by mangled name."""
    programs = {}
    for part in re.split(r"^\.text\.", text, flags=re.MULTILINE)[1:]:
        name = part[: part.index(":")]
        programs[name] = parse_program(name, part)
    return programs


def parse_program(name: str, text: str) -> Program:
    """One kernel, from the lines of its section."""
    instructions: list[Instruction] = []
    labels = {name: 0}
    for line in text.splitlines():
        if match := _LINE.match(line):
            address, inverted, guard, opcode, operands, remark = match.groups()
            predicate = parse_operand(("!" if inverted else "") + guard) if guard else Operand("predicate", PT)
            parsed = tuple(parse_operand(operand) for operand in _split(operands))
            if int(address, 16) != 16 * len(instructions):
                raise ValueError(f"{name}: an instruction is missing before {address}")
            shown = re.sub(r"\s*\(\*.*", "", line.split("*/", 1)[1].strip())
            spill = "SpillRefill" in operands + remark
            instructions.append(Instruction(int(address, 16), opcode, parsed, predicate, spill, shown))
        elif line.lstrip().startswith("//---") and instructions:
            break
        elif match := _LABEL.match(line):
            labels[match.group(1)] = len(instructions)
    return Program(name, tuple(instructions), labels)


def with_inserted(program: Program, position: int, text: str) -> Program:
    """The program with further instructions before one of its own; branches to that one reach the new ones first.

    A return address that the code keeps as a number is not moved, so no call may lie behind them.
    """
    added = [f"/*{16 * k:04x}*/ {line.strip()}" for k, line in enumerate(text.strip().splitlines())]
    new = parse_program("inserted", "\n".join(added)).instructions
    joined = (*program.instructions[:position], *new, *program.instructions[position:])
    labels = {name: at + len(new) if at > position else at for name, at in program.labels.items()}
    return Program(program.name, tuple(replace(one, address=16 * k) for k, one in enumerate(joined)), labels)


def _split(text: str) -> list[str]:
    """At the commas outside brackets."""
    parts, depth, part = [], 0, ""
    for character in re.sub(r"\s*\(\*.*?\*\)", "", text).replace(" `(", ", `("):
        depth += {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    return [*parts, part.strip()] if part.strip() else parts


def parse_operand(text: str) -> Operand:
    text = text.replace(".reuse", "").strip()
    if text.startswith("`("):
        return Operand("label", name=text[2:].split("@")[0].rstrip(")"))
    negative = text.startswith("-") and not re.match(r"-[\d.]|-INF|-QNAN", text)
    inverted = text[:1] in ("~", "!")
    if negative or inverted:
        text = text[1:]
    absolute = text.startswith("|")
    part = ""
    if absolute:
        text, _, part = text[1:].partition("|")
    signs = {"negative": negative, "inverted": inverted, "absolute": absolute}
    if match := re.match(r"(U?R)(\d+|Z)(?:\.([HB]\w+))?$", text):
        return Operand(
            "register", _row(match.group(1), match.group(2)), name=match.group(3) or part.lstrip("."), **signs
        )
    if match := re.match(r"(U?P)(\d|T)$", text):
        first = FIRST_UNIFORM_PREDICATE if match.group(1) == "UP" else 0
        return Operand("predicate", first + (7 if match.group(2) == "T" else int(match.group(2))), **signs)
    if match := re.match(r"(?:S?B)(\d+)$", text):
        return Operand("barrier", int(match.group(1)))
    if match := _CONSTANT.match(text):
        index, offset = _address(match.group(2))
        if match.group(1).startswith(("U", "R")):
            raise ValueError(f"a constant of a bank that is a register: {text}")
        return Operand("constant", value=offset, bank=int(match.group(1), 16), index=index, **signs)
    if text.startswith(("[", "desc")):
        inner = text[text.rindex("[") + 1 :].rstrip("]")
        index, offset = _address(inner)
        return Operand("address", value=offset, index=index)
    if match := re.match(r"(-?)0x([0-9a-f]+)$", text):
        return Operand("number", value=int(match.group(2), 16) * (-1 if match.group(1) else 1), **signs)
    try:
        words = {"+INF": "inf", "-INF": "-inf", "+QNAN": "nan", "-QNAN": "nan", "INF": "inf", "QNAN": "nan"}
        real = float(words.get(text, text))
    except ValueError:
        return Operand("name", name=text)
    return Operand("number", value=int(real) if real.is_integer() else 0, real=real, **signs)


def _row(file: str, number: str) -> int:
    if file == "UR":
        return URZ if number == "Z" else FIRST_UNIFORM + int(number)
    return RZ if number == "Z" else int(number)


def _address(text: str) -> tuple[tuple[tuple[int, int, bool], ...], int]:
    """Registers and offset of ``R4.X8+UR6+0x20``."""
    index, offset = [], 0
    for sign, term in re.findall(r"([+-]?)([^+-]+)", text):
        if match := re.match(r"(U?R)(\d+|Z)(.*)$", term):
            factor = re.search(r"\.X(\d+)", match.group(3))
            row = _row(match.group(1), match.group(2))
            index.append((row, int(factor.group(1)) if factor else 1, ".64" in match.group(3)))
        else:
            offset += int(term, 16) * (-1 if sign == "-" else 1)
    return tuple(index), offset


def bits_of(operand: Operand, real: str) -> int:
    """A number as the bits that an instruction on floats ("f") or doubles ("d") sees."""
    if operand.real is None and operand.value >= 0:
        return operand.value << 32 if real == "d" else operand.value  # a double's upper half
    value = float(operand.value) if operand.real is None else operand.real
    return int.from_bytes(struct.pack("<" + real, -value if operand.negative else value), "little")
