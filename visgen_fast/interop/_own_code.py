"""A codebase's own code runs where ours doesn't serve, and says so."""

from __future__ import annotations

import warnings

import torch

said: set[tuple[str, str]] = set()


def say_once(name: str, codebase: str, reason: str, *, stacklevel: int = 3) -> None:
    """Warns that the function `name` runs the codebase's own code, once for each reason.

    Not while it is compiled: a warning would break the graph.
    """
    if torch.compiler.is_compiling() or (name, reason) in said:
        return
    said.add((name, reason))
    possessive = f"{codebase}'" if codebase.endswith("s") else f"{codebase}'s"
    warnings.warn(f"{name} runs {possessive} own code: {reason}", stacklevel=stacklevel + 1)
