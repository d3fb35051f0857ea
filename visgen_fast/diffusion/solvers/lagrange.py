"""Polynomials through what earlier steps knew, integrated exactly: the weights of linear multistep methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def lagrange_integrals(nodes: Sequence[float], low: float, high: float, rate: float = 0.0) -> list[float]:
    """The integral from `low` to `high` of e^(rate·(x − high)) times each Lagrange polynomial of the nodes.

    By Gauss–Legendre quadrature with 32 points: to rounding for rate·(high − low) up to 60, and without the
    cancellation that closed forms suffer where it is small.
    """
    x = (low + high) / 2 + (high - low) / 2 * _POINTS
    weights = (high - low) / 2 * _WEIGHTS * np.exp(rate * (x - high))
    found = []
    for node in nodes:
        factors = ((x - other) / (node - other) for other in nodes if other != node)
        found.append(float(weights @ math.prod(factors, start=np.ones_like(x))))
    return found
