"""Sub-tasks: the parts that a decomposition makes of a model's objective, by noise, by position or by depth.

A model of pictures is one network for many sub-tasks, whose losses add up to its objective. Here each decomposition
says the same of itself: the names of its sub-tasks, how much of training each is, and the loss of a sample in each.
`gradient_cosines`, `transfer` and `equivariance` know nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .. import ops
from ..autoregression.likelihood import nll
from ..diffusion.objective import DiffusionObjective
from .measuring import Pictures, edges_of

Network = Callable[..., Tensor]


class Subtasks(ABC):
    """K sub-tasks, by `names`; shares: how much of training each is, float64 [K], which add up to 1 at most."""

    names: tuple[str, ...]
    shares: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def losses(self, model: Network, some: Pictures, spread: Tensor, place: int) -> Tensor:
        """What each sample adds to the objective through sub-task number `place`, [N]: the mean is its contribution.

        spread: in [0, 1), [N], evenly spread over all samples, for what is drawn.
        """

    @abstractmethod
    def together(self, model: Network, some: Pictures, positions: Tensor) -> Tensor:
        """The objective's loss of each sample, [N]; positions: int64 [N], in the order of training."""


class NoiseLevels(Subtasks):
    """Intervals of λ = ln(α²/σ²) of a diffusion model.

    What an interval contributes is ∫ p(λ)·loss(λ) dλ over it, as training draws and weighs its levels. No label is
    dropped. Samples are pictures, the model as of `loss_by_level`.

    grid: the K + 1 edges, rising; ValueError for others, or beyond the schedule's ends.
    """

    def __init__(self, objective: DiffusionObjective, grid: Tensor | Sequence[float]) -> None:
        self.objective, self.edges = objective, edges_of(grid, objective)
        self.intervals = list(zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True))
        self.names = tuple(f"λ {low:.1f} to {high:.1f}" for low, high in self.intervals)
        within = [torch.linspace(*interval, 65, dtype=torch.float64) for interval in self.intervals]
        shares = [objective.level_density(levels).mean().cpu() for levels in within]
        self.shares = torch.stack(shares).detach() * self.edges.diff()

    def losses(self, model: Network, some: Pictures, spread: Tensor, place: int) -> Tensor:
        low, high = self.intervals[place]
        log_snr = low + (high - low) * spread
        density = self.objective.level_density(log_snr) * (high - low)
        t = self.objective.schedule.time(log_snr).clamp(0, 1).float()
        return density.float() * self.objective.losses_at(model, some.x, some.labels, some.seeds, t)

    def together(self, model: Network, some: Pictures, positions: Tensor) -> Tensor:
        t = self.objective.times(some.seeds, positions)
        return self.objective.losses_at(model, some.x, some.labels, some.seeds, t)


class Times(Subtasks):
    """`count` intervals of the same length of the times that training draws evenly, of any model that learns at times.

    losses_at: (model, samples, share in (0, 1] of all times [N]) → the objective's loss of each sample there, [N].
    ValueError for fewer than one interval.
    """

    def __init__(self, losses_at: Callable[[Network, Pictures, Tensor], Tensor], count: int) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        self.losses_at = losses_at
        self.names = tuple(f"t {place / count:.2f} to {(place + 1) / count:.2f}" for place in range(count))
        self.shares = torch.full((count,), 1 / count, dtype=torch.float64)

    def losses(self, model: Network, some: Pictures, spread: Tensor, place: int) -> Tensor:
        share = (place + 1 - spread) / len(self)
        return self.losses_at(model, some, share.float()) / len(self)

    def together(self, model: Network, some: Pictures, positions: Tensor) -> Tensor:
        share = ops.uniform(some.seeds, (1,), stream=ops.Purpose.TIME.stream())
        return self.losses_at(model, some, share.squeeze(1))


class CodeParts(Subtasks):
    """Groups of the codes [*grid, Q] that a model of codes predicts: samples are codes int64 [N, *grid, Q].

    groups: int64 [*grid, Q], the number of each code's group, from 0 on; −1 for codes of none. What a group contributes
    is its part of the mean over all codes of −ln p, given those of earlier steps. ValueError for a group without codes.
    """

    def __init__(self, names: Iterable[str], groups: Tensor) -> None:
        self.names, self.groups = tuple(names), groups.cpu()
        counts = torch.stack([(self.groups == place).sum() for place in range(len(self.names))])
        if not (counts > 0).all() or self.groups.max() >= len(self.names):
            raise ValueError(f"groups must have codes of each of {len(self.names)} names, got {counts.tolist()}")
        self.shares = counts.double() / self.groups.numel()

    def losses(self, model: Network, some: Pictures, spread: Tensor, place: int) -> Tensor:
        return self._mean(model, some, self.groups == place)

    def together(self, model: Network, some: Pictures, positions: Tensor) -> Tensor:
        return self._mean(model, some, self.groups >= 0)

    def _mean(self, model: Network, some: Pictures, chosen: Tensor) -> Tensor:
        of_codes = nll(model, some.x, some.labels)  # type: ignore[arg-type]  # a model of codes
        kept = of_codes * chosen.to(of_codes.device)
        return kept.flatten(1).sum(1) / self.groups.numel()


class RandomParts(Subtasks):
    """The null: parts of the data, drawn at random, each with the whole of another decomposition's objective.

    To learn from such a part is as good as from any other one of the same size, so that whatever is measured between
    sub-tasks has its value for equal ones here. A sample's part is a function of its seed.
    """

    def __init__(self, whole: Subtasks, count: int = 4) -> None:
        self.whole, self.names = whole, tuple(f"part {place + 1}" for place in range(count))
        self.shares = torch.full((count,), 1 / count, dtype=torch.float64) * whole.shares.sum()

    def losses(self, model: Network, some: Pictures, spread: Tensor, place: int) -> Tensor:
        part = (spread * len(self)).long().clamp_max(len(self) - 1)
        chosen = (part == place).nonzero().flatten()
        found = torch.zeros(len(some), device=some.seeds.device)
        if not len(chosen):
            return found
        within, own = (spread * len(self))[chosen] % 1, some.at(chosen)
        losses = [self.whole.losses(model, own, within, one) for one in range(len(self.whole))]
        return found.index_put((chosen,), sum(losses, torch.zeros(())))

    def together(self, model: Network, some: Pictures, positions: Tensor) -> Tensor:
        return self.whole.together(model, some, positions)


def by_row(shape: Sequence[int]) -> CodeParts:
    """The rows of a grid [H, W, Q]."""
    return _of_axis(shape, 0, "row")


def by_column(shape: Sequence[int]) -> CodeParts:
    """The columns of a grid [H, W, Q]."""
    return _of_axis(shape, 1, "column")


def by_patch(shape: Sequence[int], side: int) -> CodeParts:
    """Patches of side×side places of a grid [H, W, Q]; ValueError unless the side divides both."""
    height, width, codes = shape
    if side < 1 or height % side or width % side:
        raise ValueError(f"side must divide both sides of the grid, {height} and {width}, got {side}")
    rows, columns = torch.arange(height) // side, torch.arange(width) // side
    groups = rows[:, None] * (width // side) + columns
    names = [f"patch {row + 1}, {column + 1}" for row in range(height // side) for column in range(width // side)]
    return CodeParts(names, groups[..., None].expand(height, width, codes))


def by_row_end(shape: Sequence[int]) -> CodeParts:
    """First places of the rows of a grid [H, W, Q], last ones, and those between in two halves."""
    height, width, codes = shape
    if width < 4:
        raise ValueError(f"rows must have at least 4 places, got {width}")
    groups = 1 + (torch.arange(width) >= width // 2).long()
    groups[0], groups[-1] = 0, 3
    names = ("first of a row", "left interior", "right interior", "last of a row")
    return CodeParts(names, groups[None, :, None].expand(height, width, codes))


def by_depth(shape: Sequence[int]) -> CodeParts:
    """The Q codes of each place of [*grid, Q]: depths of a residual quantizer."""
    return _of_axis(shape, len(shape) - 1, "depth")


def by_scale(patch_numbers: Sequence[int | tuple[int, int]]) -> CodeParts:
    """The grids of codes [L, 1] that follow each other, as of `scale_by_scale`."""
    sides = [(n, n) if isinstance(n, int) else n for n in patch_numbers]
    lengths = torch.tensor([rows * columns for rows, columns in sides])
    names = [f"scale {rows}×{columns}" for rows, columns in sides]
    return CodeParts(names, torch.arange(len(sides)).repeat_interleave(lengths)[:, None])


def by_place(length: int, count: int) -> CodeParts:
    """`count` equal pieces of a sequence of codes [L, 1], such as a text."""
    if count < 1 or length % count:
        raise ValueError(f"count must divide the length {length}, got {count}")
    each = length // count
    names = [f"places {piece * each + 1} to {(piece + 1) * each}" for piece in range(count)]
    return CodeParts(names, (torch.arange(length) // each)[:, None])


def _of_axis(shape: Sequence[int], axis: int, name: str) -> CodeParts:
    lengths = [1] * len(shape)
    lengths[axis] = shape[axis]
    groups = torch.arange(shape[axis]).view(lengths).expand(*shape)
    return CodeParts([f"{name} {place + 1}" for place in range(shape[axis])], groups)


def spread_of(seeds: Tensor) -> Tensor:
    """Numbers in [0, 1), one a seed, spread evenly in an order that the seeds make: float64 [N]."""
    drawn = ops.uniform(seeds, (2,), stream=ops.Purpose.TIME.stream(), dtype=torch.float64)
    return (drawn[:, 0].argsort().argsort() + 1 - drawn[:, 1]) / len(seeds)
