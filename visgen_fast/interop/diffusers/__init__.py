"""diffusers' schedulers with our step: the same names, state, files, results and random draws, in one operation.

`apply_visgen_to_diffusers(pipeline)` puts them into a pipeline; or take a class by its name from here. What training
scripts call is in `training`. diffusers itself is imported with the first of them.
"""

from __future__ import annotations

from typing import Any

from .apply import NAMES, apply_visgen_to_diffusers, classes
from .training import apply_visgen_to_diffusers_training
from .transformer import apply_visgen_to_diffusers_transformer

__all__ = [  # noqa: PLE0604
    "apply_visgen_to_diffusers",
    "apply_visgen_to_diffusers_training",
    "apply_visgen_to_diffusers_transformer",
    *NAMES,
]


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return classes()[name]
