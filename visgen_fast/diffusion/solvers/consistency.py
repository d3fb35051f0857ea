"""Samplers for networks that jump to the image in one step: each step adds fresh noise and jumps again."""

from __future__ import annotations

from collections.abc import Iterator

from ..path import Path
from .rows import D, Row, X, Z, check_eta


def consistency(path: Path) -> Iterator[Row]:
    """Song et al., "Consistency models", 2023, algorithm 1 with its ε as 0: α'·x̂ + σ'·z."""
    for start, end in path.steps():
        yield Row(start, end.alpha * D + end.sigma * Z)


def tcd(path: Path, *, eta: float = 0.3) -> Iterator[Row]:
    """Zheng et al., "Trajectory consistency distillation", 2024, algorithm 4: down along the path, then up with noise.

    η is their γ: the share of the way to the data's end that is gone beyond the next time and back.
    """
    check_eta(eta, 1)
    for start, end in path.steps():
        low = path.at_time((1 - eta) * end.time)
        down = low.alpha * D + low.sigma * (X - start.alpha * D) / start.sigma
        if low.ratio >= end.ratio:
            yield Row(start, down)
        else:
            fresh = (end.ratio**2 - low.ratio**2) ** 0.5
            yield Row(start, end.alpha / low.alpha * down + end.alpha * fresh * Z)
