"""Tables for all steps of a scheduler at once, in float64, from the noise levels that diffusers chose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...diffusion.solvers.rows import S1, S2, D, O, X, Z
from ...reference.solve import CLAMP, COLUMNS, L0, L1, NEXT, SLOT_A, SLOT_B, WRITE_A, WRITE_B, U, V

__all__ = ["S1", "S2", "D", "Numbers", "O", "Sums", "Table", "X", "Z", "converted", "filled", "levels", "phi", "times"]

Numbers = np.ndarray | float
Sums = np.ndarray  # float64 [..., 8]: weights of the operands, a sum for each step


@dataclass(frozen=True, eq=False)
class Table:
    """Rows on the host, and on each device that has asked for them. It is immutable, so schedulers share it."""

    rows: Tensor  # float64 [rows, 32]
    finite: list[bool]  # of each row
    row_of: dict[int, int]  # by timestep, where rows are found so: the first one, for a timestep that stands twice
    _on_devices: dict[torch.device, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: np.ndarray, timesteps: tuple[int, ...] = ()) -> Table:
        rows = np.ascontiguousarray(rows.reshape(-1, COLUMNS))
        row_of = {time: row for row, time in reversed(list(enumerate(timesteps)))}
        return cls(torch.from_numpy(rows), np.isfinite(rows).all(1).tolist(), row_of)

    def on(self, device: torch.device) -> Tensor:
        if device.type == "cpu":
            return self.rows
        if device not in self._on_devices:
            self._on_devices[device] = self.rows.to(device)
        return self._on_devices[device]


def filled(
    denoise: tuple[Numbers, Numbers],
    following: Sums,
    write: Mapping[int, Sums],
    *,
    clamp: float = 0.0,
    log_variance: tuple[Numbers, Numbers] = (0.0, 0.0),
) -> np.ndarray:
    """The rows [steps, 32] of x̂ = u·x + v·output, the next state and at most two slots."""
    rows = np.zeros((*following.shape[:-1], COLUMNS))
    rows[..., U], rows[..., V] = denoise
    rows[..., CLAMP] = clamp
    rows[..., L0], rows[..., L1] = log_variance
    rows[..., NEXT : NEXT + 8] = following
    rows[..., [SLOT_A, SLOT_B]] = -1
    for (slot, value), column, first in zip(write.items(), (SLOT_A, SLOT_B), (WRITE_A, WRITE_B), strict=False):
        rows[..., column], rows[..., first : first + 8] = slot, value
    return rows


def times(weight: Numbers, operand: Sums) -> Sums:
    """weight·operand, a sum for each step."""
    return np.asarray(weight, dtype=np.float64)[..., None] * operand


def levels(sigmas: tuple[float, ...], flow: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(α, σ, ln(α/σ)) of diffusers' `sigmas`: σ itself on a flow, otherwise the noise over the signal."""
    ratio = np.array(sigmas, dtype=np.float64)
    alpha = 1 - ratio if flow else 1 / np.sqrt(ratio**2 + 1)
    sigma = ratio if flow else ratio * alpha
    with np.errstate(divide="ignore"):
        return alpha, sigma, np.log(alpha) - np.log(sigma)


def converted(prediction: str, alpha: Numbers, sigma: Numbers, *, to_noise: bool) -> tuple[Numbers, Numbers] | None:
    """(u, v) of what a solver integrates, u·x + v·output: the noise or the image; None if there is none."""
    if prediction == "flow_prediction" and not to_noise:
        return 1.0, -sigma
    if prediction == "epsilon":
        return (0.0, 1.0) if to_noise else (1 / alpha, -sigma / alpha)
    if prediction == "sample":
        return (1 / sigma, -alpha / sigma) if to_noise else (0.0, 1.0)
    if prediction == "v_prediction":
        return (sigma, alpha) if to_noise else (alpha, -sigma)
    return None


def phi(order: int, z: np.ndarray) -> np.ndarray:
    """Σ_{j ≥ 1} z^j/(j + order − 1)!: e^z − 1 for the first, and what integrates a polynomial for the next ones.

    That is (…((e^z − 1)/z − 1)/z − 1/2!…)/z − 1/(order − 1)!, which cancels for small z.
    """
    near = np.where(np.abs(z) < 0.5, z, 0.0)
    series, term = np.zeros_like(near), np.ones_like(near)
    for j in range(1, 16):
        term = term * near
        series = series + term / math.factorial(j + order - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.expm1(z)
        for k in range(1, order):
            far = far / z - 1 / math.factorial(k)
    return np.where(np.abs(z) < 0.5, series, far)
