"""Normalizing flows: invertible networks from images to noise, whose likelihood is exact."""

from .dequantization import Dequantization
from .flow import Flow, cleaned
from .real_nvp import RealNVP
from .tar_flow import TarFlow

__all__ = ["Dequantization", "Flow", "RealNVP", "TarFlow", "cleaned"]
