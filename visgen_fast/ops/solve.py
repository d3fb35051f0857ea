"""One step of any sampler, and the sums that guidance needs: the family `solve`."""

from __future__ import annotations

from ..reference.solve import denoised_quantile, output_products, solver_step

__all__ = ["denoised_quantile", "output_products", "solver_step"]
