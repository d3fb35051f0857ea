"""Options on the command line, and the sentence for those that are wrong."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, TypeVar

from ..errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def parse(cls: type[T], arguments: list[str], program: str) -> T:
    """`cls` from its options; tyro's help exits with code 0, its complaints become one sentence."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(cls, args=arguments, prog=program, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as error:
        if not error.code:
            raise
        raise UserError(f"{first_sentence(complaint.getvalue())} (see {program} --help)") from None


def first_sentence(box: str) -> str:
    """The text of the first section of one of tyro's boxes."""
    lines = []
    for line in box.splitlines()[1:]:
        text = line.strip("│╭╮╰╯ ")
        if not text.strip("─"):
            break
        lines.append(text)
    return " ".join(lines).rstrip(".")


def no_options(arguments: list[str], command: str, description: str) -> None:
    """For a command without options: answers --help, refuses anything else."""
    if set(arguments) & {"-h", "--help"}:
        print(f"usage: visgen-fast {command}\n\n{description}")
        raise SystemExit(0)
    if arguments:
        raise UserError(f"visgen-fast {command} takes no arguments, got {arguments[0]}")


def device_named(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} is not to be had here: {str(error).splitlines()[0]}") from error
