"""Options on the command line, and the sentence for those that are wrong."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from ..errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_PLAIN = {
    r"^Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)": r"\1 must be a whole number, got \2",
    r"^Error parsing (\S+): could not convert string to float: (.*)": r"\1 must be a number, got \2",
    r"^Error parsing (\S+): no type matching \{None\}\|\{?\[?([A-Z .\[\]]+?)\]?\}? could.* \[(.*)\]": (
        r"\1 must be \2 or None, got \3"
    ),
    r"^invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)": r"\2 must be one of \3, got \1",
    r"^Missing value for argument '(.*)'.*": r"\1 needs a value",
    r"^Missing from [^:]*: (.*) \(required\)$": r"missing: \1",
}


def parse(cls: type[T], arguments: list[str], program: str, renamed: Mapping[str, str] = MappingProxyType({})) -> T:
    """`cls` from its options; tyro's help exits with code 0, its complaints become one sentence.

    renamed: what options were called before, and are called now.
    """
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), _unwrapped(arguments):
            return tyro.cli(cls, args=arguments, prog=program, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as error:
        if not error.code:
            raise
        options = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
        old = next((option for option in options if option in renamed), None)
        sentence = f"{old} is called {renamed[old]} now" if old else _first_sentence(complaint.getvalue())
        raise UserError(f"{sentence} (see {program} --help)") from None


@contextlib.contextmanager
def _unwrapped(arguments: list[str]) -> Iterator[None]:
    """Has tyro write a complaint's sentence on one line, however long; help keeps the terminal's width."""
    columns = os.environ.get("COLUMNS")
    if not set(arguments) & {"-h", "--help"}:
        os.environ["COLUMNS"] = "1000000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if columns is not None:
            os.environ["COLUMNS"] = columns


def _first_sentence(box: str) -> str:
    """The first section of one of tyro's boxes, drawn in Unicode or in ASCII, in plain English."""
    lines: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.removeprefix("│").removesuffix("│").strip()
        if text.strip("─╰╯-"):
            lines.append(text)
        elif lines:
            break
    sentence = " ".join(lines).rstrip(".")
    for pattern, plain in _PLAIN.items():
        sentence = re.sub(pattern, plain, sentence)
    return sentence


def no_options(arguments: list[str], command: str, description: str) -> None:
    """For a command without options: answers --help, refuses anything else."""
    if set(arguments) & {"-h", "--help"}:
        print(f"usage: visgen-fast {command}\n\n{description}")
        raise SystemExit(0)
    if arguments:
        raise UserError(f"visgen-fast {command} takes no arguments, got {arguments[0]}")


def device_named(name: str) -> torch.device:
    """The device that torch calls `name`, or the best one; `UserError` unless it computes on this machine."""
    import torch

    best = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return best or torch.device("cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            number = torch.ones((), device=name)
        number.item()  # which "meta" hasn't
        return number.device
    except (RuntimeError, AssertionError, ImportError) as error:
        available = "cpu is" if best is None else f"{best.type} and cpu are"
        raise UserError(f"--device {name} is not available on this machine, but {available}") from error
