"""The public operations."""

from ..reference import Purpose, add_noise, derive_seeds, diffuse, gaussian, uniform

__all__ = ["Purpose", "add_noise", "derive_seeds", "diffuse", "gaussian", "uniform"]
