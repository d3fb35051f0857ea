"""Measuring what was trained: distances between sets of images, reconstruction, invalid codes."""

from .fid import FeatureMoments, frechet_distance, kernel_distance
from .invalid_codes import InvalidCodes, PrefixErrors, expected_errors, invalid_codes, minimizer_weights, prefix_errors
from .metrics import pixel_errors, psnr
from .tokenizer import TokenizerEvaluation, evaluate_tokenizer

__all__ = [
    "FeatureMoments",
    "InvalidCodes",
    "PrefixErrors",
    "TokenizerEvaluation",
    "evaluate_tokenizer",
    "expected_errors",
    "frechet_distance",
    "invalid_codes",
    "kernel_distance",
    "minimizer_weights",
    "pixel_errors",
    "prefix_errors",
    "psnr",
]
