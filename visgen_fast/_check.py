"""What is asked of arguments everywhere: one sentence for each that is wrong, which names it.

TypeError for what is of another kind than it should be, ValueError for a tensor or a number that does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # that operations take
_INTEGERS: Any = (int, torch.SymInt, Integral)
_NUMBERS: Any = (int, float, torch.SymInt, torch.SymFloat, Real)
_MOST = 2**63 - 1  # an int64


def tensor(value: object, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def floats(value: Any, name: str) -> None:
    tensor(value, name)
    float_type(value.dtype, name)


def float_type(dtype: object, name: str) -> None:
    if dtype not in FLOATS:
        raise ValueError(f"{name} must be float32, bfloat16, float16 or float64, got {dtype}")


def device(value: Tensor, name: str, expected: torch.device, whose: str) -> None:
    if value.device != expected:
        raise ValueError(f"{name} must be on {expected}, the device of {whose}, got {value.device}")


def seeds(value: Any, batch: int | None = None, on: torch.device | None = None) -> None:
    """int64 [B], where these are known of `batch` samples on their device."""
    tensor(value, "seeds")
    if value.dtype != torch.int64 or value.dim() != 1:
        raise ValueError(f"seeds must be int64 of shape [B], got {value.dtype} of shape {list(value.shape)}")
    if batch is not None and value.shape[0] != batch:
        raise ValueError(f"seeds must have one number for each of the {batch} samples, got {value.shape[0]}")
    if on is not None:
        device(value, "seeds", on, "the samples")


def stream(value: Any) -> None:
    integer(value, "stream", 0, _MOST)


def is_integer(value: Any) -> bool:
    """Whether it is one; True and False are none, though Python counts them among them."""
    return isinstance(value, _INTEGERS) and not isinstance(value, bool)


def integer(value: Any, name: str, least: int, most: int | None = None, otherwise: str = "") -> None:
    """An integer from `least` to `most`, of which a graph may not know the value; `otherwise`: what else may be."""
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer{otherwise}, got {type(value).__name__}")
    if isinstance(value, torch.SymInt) or least <= value <= (_MOST if most is None else most):
        return
    if most is None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    most = _MOST if most is None else most
    bits = most.bit_length()
    ends = f"[{least}, {most}]" if bits < 30 else f"[{'-2**63' if least < 0 else least}, 2**{bits})"
    raise ValueError(f"{name} must lie in {ends}{otherwise}, got {value}")


def instance(value: object, name: str, kind: type, example: str) -> None:
    """ValueError unless the value is of this kind, of which `example` is one."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ValueError(f"{name} must be {article} {kind.__name__}, for example {example}, got {value!r:.80}")


def integers(values: Any, name: str, least: int | None = None) -> list[int]:
    """A sequence of integers, as a list."""
    try:
        result = [*values]
    except TypeError:
        raise TypeError(f"{name} must be a sequence of integers, got {type(values).__name__}") from None
    for value in result:
        if not is_integer(value):
            raise TypeError(f"{name} must be integers, got {type(value).__name__}")
        if least is not None:
            integer(value, name, least)
    return result


def number(value: Any, name: str, *, positive: bool = False) -> None:
    if not _is_number(value):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if positive and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def real(value: Any, name: str, least: float = -math.inf, most: float = math.inf) -> None:
    """A finite number from `least` to `most`."""
    number(value, name)
    if least <= value <= most and abs(value) < math.inf:
        return
    if math.isinf(least):
        raise ValueError(f"{name} must be finite, got {value}")
    ends = f"be at least {least:g}" if math.isinf(most) else f"lie in [{least:g}, {most:g}]"
    raise ValueError(f"{name} must {ends}, got {value}")


def interval(value: Any, name: str) -> None:
    """Two numbers (low, high) in [0, 1]."""
    if not is_pair(value) or not 0 <= value[0] <= value[1] <= 1:
        raise ValueError(f"{name} must be (low, high) with 0 ≤ low ≤ high ≤ 1, got {value!s:.80}")


def is_pair(value: Any) -> bool:
    """Whether it is a sequence of two numbers."""
    return isinstance(value, Sequence) and len(value) == 2 and all(_is_number(one) for one in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and not isinstance(value, bool)


def one_of(value: object, name: str, names: Sequence[str]) -> int:
    """Which of the names it is, counted from 0."""
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")
    return names.index(str(value))


def options(asked: Mapping[str, Any], known: Iterable[str], kind: str) -> None:
    """ValueError where one of the options asked for is none of those known; `kind` says what has these."""
    names = tuple(known)
    for name in asked.keys() - set(names):
        raise ValueError(f"{name} is no option of {kind}, which has {', '.join(names)}")
