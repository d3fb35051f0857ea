"""Measuring what was trained: distances between sets of pictures, reconstruction, invalid codes."""

from .fid import FeatureMoments, frechet_distance, kernel_distance
from .invalid_codes import InvalidCodes, expected_errors, invalid_codes, minimizer_weights
from .metrics import pixel_errors, psnr

__all__ = [
    "FeatureMoments",
    "InvalidCodes",
    "expected_errors",
    "frechet_distance",
    "invalid_codes",
    "kernel_distance",
    "minimizer_weights",
    "pixel_errors",
    "psnr",
]
