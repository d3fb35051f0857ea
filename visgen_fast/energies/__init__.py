"""Energy-based models: a number for every image, the lower the more probable, known up to a constant."""

from .composition import Composition
from .contrastive import contrastive_divergence, langevin
from .energy import EnergyModel

__all__ = ["Composition", "EnergyModel", "contrastive_divergence", "langevin"]
