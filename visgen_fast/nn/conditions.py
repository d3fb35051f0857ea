"""What a network is told of an image beside its noise level, and the functions that treat every kind of it alike.

A condition is int64 labels [B]; a `Condition`, of whose parts a network reads what it knows; or None, which is nothing.
Its null, which stands for "no condition", is a label, a `Condition` with one sample (learned or not), or None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _check as check


@dataclass(frozen=True)
class Condition:
    """Parts of a condition; each may be absent.

    pooled: [B, P], one vector for each sample. tokens: [B, L, D], a sequence. mask: bool [B, L], True where a token
    counts; absent where all of them do. image: [B, C, H, W].

    TypeError for a part that is no tensor; ValueError where the parts are of different batches, or the mask does not
    fit the tokens.
    """

    pooled: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None

    def __post_init__(self) -> None:
        for name, part in self.parts().items():
            check.tensor(part, name)
        if len({len(part) for part in self.parts().values()}) > 1:
            shapes = {name: list(part.shape) for name, part in self.parts().items()}
            raise ValueError(f"the parts of a condition must have one batch size, got {shapes}")
        if self.mask is not None and (self.tokens is None or self.mask.shape != self.tokens.shape[:2]):
            tokens = None if self.tokens is None else list(self.tokens.shape)
            raise ValueError(f"mask must be [B, L] for tokens [B, L, D], got {list(self.mask.shape)} for {tokens}")

    def parts(self) -> dict[str, Tensor]:
        """The parts that are there, by their names."""
        found = {"pooled": self.pooled, "tokens": self.tokens, "mask": self.mask, "image": self.image}
        return {name: part for name, part in found.items() if part is not None}


AnyCondition = Tensor | Condition | None
Null = int | Condition | None


def apply_to_parts(condition: AnyCondition, function: Callable[[Tensor], Tensor]) -> AnyCondition:
    """The condition with `function` applied to each of its tensors: to move it, or to take some of its samples."""
    if isinstance(condition, Condition):
        return replace(condition, **{name: function(part) for name, part in condition.parts().items()})
    return None if condition is None else function(condition)


def check_condition(condition: AnyCondition, name: str, batch: int) -> None:
    """TypeError or ValueError, with this name, unless it is a condition of `batch` samples."""
    if isinstance(condition, Condition):
        found = [len(part) for part in condition.parts().values()][:1]
        if found not in ([], [batch]):
            raise ValueError(f"{name} must have one sample for each of the {batch} seeds, got {found[0]}")
    elif isinstance(condition, Tensor):
        if condition.shape != (batch,):
            raise ValueError(f"{name} and seeds must both have shape [B], got {list(condition.shape)} and {[batch]}")
    elif condition is not None:
        raise TypeError(f"{name} must be int64 [B], a Condition or None, got {type(condition).__name__}")


def concatenate(conditions: Sequence[AnyCondition]) -> AnyCondition:
    """Conditions of one kind as one batch. Sequences of different lengths are padded, and the padding is masked."""
    first = conditions[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat([_labels(condition) for condition in conditions])
    alike = _of_one_length([_parts(condition) for condition in conditions])
    names = first.parts().keys() | alike[0].parts().keys()
    return Condition(**{name: torch.cat([condition.parts()[name] for condition in alike]) for name in names})


def null_like(condition: AnyCondition, null: Null) -> AnyCondition:
    """The null condition for every sample of `condition`. ValueError where `null` is of another kind."""
    if condition is None:
        return None
    if isinstance(condition, Tensor):
        if not isinstance(null, int):
            raise ValueError(f"the null of labels must be a label, got {type(null).__name__}")
        return torch.full_like(condition, null)
    if not isinstance(null, Condition):
        raise ValueError(f"the null of a Condition must be a Condition, got {type(null).__name__}")
    there, given = (sorted(some.parts().keys() - {"mask"}) for some in (condition, null))
    if there != given:
        raise ValueError(f"the null must have the condition's parts {there}, got {given}")
    batch = len(next(iter(condition.parts().values()), ()))
    return apply_to_parts(null, lambda part: part.expand(batch, *part.shape[1:]))


def drop(condition: AnyCondition, dropped: Tensor, null: Null) -> AnyCondition:
    """The condition with its null where `dropped`, bool [B], says so; what `null_like` raises."""
    absent = null_like(condition, null)
    if condition is None or absent is None:
        return None
    if isinstance(condition, Tensor):
        return torch.where(dropped, _labels(absent), condition)
    kept, absent = _of_one_length([condition, _parts(absent)])
    chosen = {
        name: torch.where(dropped.view(-1, *[1] * (part.dim() - 1)), absent.parts()[name], part)
        for name, part in kept.parts().items()
    }
    return Condition(**chosen)


def _of_one_length(conditions: list[Condition]) -> list[Condition]:
    """The same with tokens padded to the longest, and with masks where any of them has or needs one."""
    lengths = [condition.tokens.shape[1] for condition in conditions if condition.tokens is not None]
    if not lengths or (len(set(lengths)) == 1 and all(condition.mask is None for condition in conditions)):
        return conditions
    return [_padded(condition, max(lengths)) for condition in conditions]


def _padded(condition: Condition, length: int) -> Condition:
    assert condition.tokens is not None
    missing = length - condition.tokens.shape[1]
    mask = condition.mask
    if mask is None:
        mask = torch.ones(condition.tokens.shape[:2], dtype=torch.bool, device=condition.tokens.device)
    return replace(condition, tokens=F.pad(condition.tokens, (0, 0, 0, missing)), mask=F.pad(mask, (0, missing)))


def _labels(condition: AnyCondition) -> Tensor:
    if not isinstance(condition, Tensor):
        raise ValueError(f"conditions must be of one kind, got labels and {type(condition).__name__}")
    return condition


def _parts(condition: AnyCondition) -> Condition:
    if not isinstance(condition, Condition):
        raise ValueError(f"conditions must be of one kind, got a Condition and {type(condition).__name__}")
    return condition
