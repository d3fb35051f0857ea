"""Measuring what was trained: distances between sets of images, reconstruction, invalid codes, noise levels."""

from .codes import CodeEvaluation, evaluate_codes
from .conflict import GradientCosines, Transfer, gradient_cosines, transfer
from .equivariance import Equivariance, equivariance
from .features import Features, FeatureSet, SetDistances, compare_sets
from .few_steps import FewSteps, StepsMeasure, evaluate_few_steps
from .fid import FeatureMoments, frechet_distance, frechet_distance_at_infinity, kernel_distance
from .intervals import bootstrap_interval
from .invalid_codes import InvalidCodes, PrefixErrors, expected_errors, invalid_codes, minimizer_weights, prefix_errors
from .metrics import pixel_errors, psnr
from .min_norm import min_norm_weights
from .neighbours import Copies, Prdc, copies, prdc
from .noise_levels import LossByLevel, importance_weighted_loss, loss_by_level
from .ratings import Ratings, Vote, agreement, bradley_terry, cycles
from .scaling import Isoflop, ScalingLaw, fit_scaling_law, isoflop
from .subtasks import CodeParts, NoiseLevels, RandomParts, Subtasks, Times
from .tokenizer import TokenizerEvaluation, evaluate_tokenizer

__all__ = [
    "CodeEvaluation",
    "CodeParts",
    "Copies",
    "Equivariance",
    "FeatureMoments",
    "FewSteps",
    "FeatureSet",
    "Features",
    "GradientCosines",
    "InvalidCodes",
    "Isoflop",
    "LossByLevel",
    "NoiseLevels",
    "Prdc",
    "PrefixErrors",
    "RandomParts",
    "Ratings",
    "ScalingLaw",
    "SetDistances",
    "StepsMeasure",
    "Subtasks",
    "Times",
    "TokenizerEvaluation",
    "Transfer",
    "Vote",
    "agreement",
    "bradley_terry",
    "bootstrap_interval",
    "compare_sets",
    "copies",
    "cycles",
    "equivariance",
    "evaluate_codes",
    "evaluate_few_steps",
    "evaluate_tokenizer",
    "expected_errors",
    "fit_scaling_law",
    "frechet_distance",
    "frechet_distance_at_infinity",
    "gradient_cosines",
    "importance_weighted_loss",
    "invalid_codes",
    "isoflop",
    "kernel_distance",
    "loss_by_level",
    "min_norm_weights",
    "minimizer_weights",
    "pixel_errors",
    "prdc",
    "prefix_errors",
    "psnr",
    "transfer",
]
