"""Energy-based models: a number for every image, the lower the more probable, known up to a constant."""

from .composition import Composition
from .contrastive import contrastive_divergence, langevin
from .energy import EnergyModel
from .replay import ReplayBuffer

__all__ = ["Composition", "EnergyModel", "ReplayBuffer", "contrastive_divergence", "langevin"]
