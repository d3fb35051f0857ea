"""The compiled kernels of a library: what their ELF files say, and their machine code as nvdisasm prints it."""

from __future__ import annotations

import functools
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..kernel_resources import KernelResources, readable_names, toolkit_program
from .program import Program, parse_program

_PARAMETER, _MOST_THREADS, _FRAME_SIZE, _REGISTERS = 0x17, 0x05, 0x11, 0x2F  # attributes of .nv.info
_SECONDS = 300  # the most that a tool may take
_extracted: dict[tuple[Path, str], tempfile.TemporaryDirectory[str]] = {}  # removed when the process ends


def tool(name: str) -> str:
    """cuobjdump or nvdisasm: from the package index (``pip install 'visgen_fast[bench]'``) or the CUDA toolkit."""
    packages = [sysconfig.get_path("purelib"), *sys.path]
    folders = [folder for package in packages for folder in Path(package or ".").glob("nvidia/cu*/bin")]
    found = next((path for folder in folders if (path := shutil.which(name, path=str(folder)))), None)
    found = found or toolkit_program(name)
    if found is None:
        raise RuntimeError(f"{name} was not found: pip install nvidia-cuda-{name}")
    return found


@dataclass(frozen=True)
class Kernel:
    """One kernel in one ELF file."""

    name: str  # mangled
    readable: str
    file: Path
    architecture: str
    registers: int
    stack_bytes: int
    static_shared_bytes: int
    threads: int
    parameters: tuple[tuple[int, int], ...]  # offset and bytes, in order
    constants: dict[int, bytes]

    def resources(self, dynamic_shared_bytes: int = 0) -> KernelResources:
        shared = self.static_shared_bytes + dynamic_shared_bytes
        return KernelResources(self.readable, self.architecture, self.registers, shared, self.stack_bytes, self.threads)

    @functools.cached_property
    def program(self) -> Program:
        return parse_program(self.name, _disassembly(self.file, self.name))


@functools.cache
def _disassembly(file: Path, kernel: str) -> str:
    number = next(index for index, name, _, _ in Elf(file).symbols if name == kernel)
    return _run([tool("nvdisasm"), "-c", "-fun", str(number), str(file)])


def _run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def kernels(library: Path, architecture: str) -> dict[str, Kernel]:
    """The kernels of `library` for "sm_80" or another, by their names as people read them."""
    folder = Path(_extracted.setdefault((library, architecture), tempfile.TemporaryDirectory()).name)
    _run([tool("cuobjdump"), "-xelf", "all", "-arch", architecture, str(library.resolve())], cwd=folder)
    found = [kernel for file in sorted(folder.glob("*.cubin")) for kernel in _kernels_of(file, architecture)]
    if not found:
        raise RuntimeError(f"{library} has no machine code for {architecture}")
    names = readable_names([name for name, *_ in found])
    return {readable: Kernel(name, readable, *rest) for readable, (name, *rest) in zip(names, found, strict=True)}


def _kernels_of(file: Path, architecture: str) -> list[tuple]:
    elf = Elf(file)
    frames, registers = (
        dict(struct.unpack("<II", value) for kind, value in elf.attributes(".nv.info") if kind == wanted)
        for wanted in (_FRAME_SIZE, _REGISTERS)
    )
    found = []
    for index, name, section, _ in elf.symbols:
        if section != f".text.{name}":
            continue
        attributes = elf.attributes(f".nv.info.{name}")
        parameters = [struct.unpack("<IHHI", value) for kind, value in attributes if kind == _PARAMETER]
        threads = next(
            (struct.unpack("<III", value) for kind, value in attributes if kind == _MOST_THREADS), (1024, 1, 1)
        )
        shared = elf.sizes.get(f".nv.shared.{name}", 0)
        layout = tuple(sorted((offset, bits >> 18) for _, _, offset, bits in parameters))
        constants = {
            int(match.group(1)): data
            for title, (data, _) in elf.sections.items()
            if (match := re.fullmatch(rf"\.nv\.constant([23])(?:\.{re.escape(name)})?", title))
        }
        most = threads[0] * threads[1] * threads[2]
        found.append(
            (name, file, architecture, registers[index], frames.get(index, 0), shared, most, layout, constants)
        )
    return found


class Elf:
    """The sections and symbols of a 64-bit ELF file."""

    def __init__(self, file: Path) -> None:
        self._data = data = file.read_bytes()
        start = struct.unpack_from("<Q", data, 0x28)[0]
        size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + size * k) for k in range(count)]
        texts = headers[names][4]
        self._names = [self._text(texts + header[0]) for header in headers]
        self.sections: dict[str, tuple[bytes, int]] = {}  # contents and the field "info"
        self.sizes = {name: header[5] for name, header in zip(self._names, headers, strict=True)}
        for name, header in zip(self._names, headers, strict=True):
            no_bits = header[1] == 8
            self.sections[name] = (b"" if no_bits else data[header[4] : header[4] + header[5]], header[7])
        table = next(header for name, header in zip(self._names, headers, strict=True) if name == ".symtab")
        strings = headers[table[6]][4]
        self.symbols = []  # (number, name, section, value)
        for number in range(table[5] // 24):
            name, kind, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, table[4] + 24 * number)
            where = self._names[section] if kind & 15 == 2 and section < count else ""
            self.symbols.append((number, self._text(strings + name), where, value))

    def _text(self, start: int) -> str:
        return self._data[start : self._data.index(b"\0", start)].decode()

    def attributes(self, section: str) -> list[tuple[int, bytes]]:
        """What a section .nv.info says: pairs of kind and value."""
        data, found, position = self.sections.get(section, (b"", 0))[0], [], 0
        while position + 4 <= len(data):
            form, kind, size = struct.unpack_from("<BBH", data, position)
            length = size if form == 4 else 0
            found.append((kind, data[position + 4 : position + 4 + length]))
            position += 4 + length
        return found
