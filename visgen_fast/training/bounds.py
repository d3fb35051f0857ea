"""Bounds of settings, which stand in the annotations of their fields: `steps: Annotated[int, AtLeast(1)] = 10`."""

from __future__ import annotations

import functools
import math
import types
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class AtLeast:
    """A finite number of at least `least`."""

    least: float

    def holds(self, value: float) -> bool:
        return self.least <= value < math.inf

    def __str__(self) -> str:
        return f"be a number of at least {self.least}"


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`; `ends` says which of the two are allowed themselves: [], [), (] or ()."""

    low: float
    high: float
    ends: Literal["[]", "[)", "(]", "()"] = "[]"

    def holds(self, value: float) -> bool:
        above = self.low < value or (self.ends[0] == "[" and value == self.low)
        below = value < self.high or (self.ends[1] == "]" and value == self.high)
        return above and below

    def __str__(self) -> str:
        return f"lie in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"


def check_fields(settings: object) -> None:
    """Checks the fields of a dataclass; of a tuple each element is held to the bounds.

    A derived class that gives a field another default keeps its bounds. Raises TypeError where a value isn't what its
    annotation says, ValueError where it is out of a bound.
    """
    cls: Any = type(settings)
    for name, (hint, bounds) in _checks(cls).items():
        value = getattr(settings, name)
        if not _is(value, hint):
            raise TypeError(f"{name} must be of type {_described(hint)}, got {value!r}")
        for bound in bounds if value is not None else ():
            if not all(bound.holds(number) for number in (value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"{name} must {bound}, got {value}")


@functools.cache
def _checks(cls: Any) -> dict[str, tuple[Any, list[AtLeast | Between]]]:
    """The annotation of each field, and the bounds that it has there and in the classes above."""
    annotated = [get_type_hints(base, include_extras=True) for base in cls.__mro__]
    return {
        field.name: (
            annotated[0][field.name],
            [
                bound
                for hints in annotated
                for bound in getattr(hints.get(field.name), "__metadata__", ())
                if isinstance(bound, AtLeast | Between)
            ],
        )
        for field in fields(cls)
    }


def _is(value: Any, hint: Any) -> bool:
    """Whether `value` is what `hint` says; of hints that settings don't use, everything is."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _is(value, inner[0])
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin in (Union, types.UnionType):
        return any(_is(value, choice) for choice in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return len(kinds) == len(value) and all(map(_is, value, kinds))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _described(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
