"""Every operation, defined in plain PyTorch: names and signatures of `visgen_fast.ops`, readable next to the paper."""

from .diffuse import add_noise, diffuse
from .noise import Purpose, derive_seeds, gaussian, uniform

__all__ = ["Purpose", "add_noise", "derive_seeds", "diffuse", "gaussian", "uniform"]
