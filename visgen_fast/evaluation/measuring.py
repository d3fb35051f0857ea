"""What measures of a diffusion model share: a copy to work on, pictures in chunks, levels that its schedule has."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.images import AT_A_TIME
from ..diffusion.objective import DiffusionObjective
from ..nn.conditions import AnyCondition, apply_to_parts, check_condition

_ROUNDING = 1e-3  # of λ at a schedule's ends


@dataclass(frozen=True)
class Pictures:
    """Pictures [N, ...] with their labels, or any other condition, and their seeds int64 [N].

    ValueError for fewer than one, or another number of labels or seeds.
    """

    x: Tensor
    labels: AnyCondition
    seeds: Tensor

    def __post_init__(self) -> None:
        if len(self.x) < 1 or len(self.seeds) != len(self.x):
            raise ValueError(
                f"there must be at least 1 picture, and a seed for each, got {len(self.x)} and {len(self.seeds)}"
            )
        check_condition(self.labels, "labels", len(self.x))

    def __len__(self) -> int:
        return len(self.x)

    def at(self, places: slice | Tensor) -> Pictures:
        """Those at the places given."""
        return Pictures(self.x[places], apply_to_parts(self.labels, lambda part: part[places]), self.seeds[places])

    def chunks(self) -> Iterator[Pictures]:
        """All of them, `AT_A_TIME`."""
        return (self.at(slice(start, start + AT_A_TIME)) for start in range(0, len(self), AT_A_TIME))


@contextmanager
def apart(model: Callable[..., Tensor]) -> Iterator[Callable[..., Tensor]]:
    """A copy of the model in evaluation mode, for as long as this lasts; then torch's random state is what it was.

    A model that is no module has no state that is known of, and is given as it is.
    """
    if not isinstance(model, nn.Module):
        with torch.random.fork_rng([]):
            yield model
        return
    devices = {parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        yield copy.deepcopy(model).eval()


def levels_of(grid: Tensor | Sequence[float], objective: DiffusionObjective) -> Tensor:
    """The levels as float64 on the CPU; ValueError unless there are some, all within the schedule's ends."""
    levels = torch.as_tensor(grid, dtype=torch.float64).detach().cpu()
    if levels.dim() != 1 or len(levels) < 1:
        raise ValueError(f"grid must hold levels λ, got {levels.tolist()}")
    low, high = objective.ends()
    if not ((levels >= low - _ROUNDING) & (levels <= high + _ROUNDING)).all():
        raise ValueError(f"grid must lie in [{low:.6g}, {high:.6g}], the schedule's levels, got {levels.tolist()}")
    return levels.clamp(low, high)


def edges_of(grid: Tensor | Sequence[float], objective: DiffusionObjective) -> Tensor:
    """The edges of K intervals, float64 [K + 1] on the CPU; ValueError unless they rise within the schedule's ends."""
    edges = levels_of(grid, objective)
    if len(edges) < 2 or not (edges.diff() > 0).all():
        raise ValueError(f"grid must hold the edges of intervals, at least two that rise, got {edges.tolist()}")
    return edges
