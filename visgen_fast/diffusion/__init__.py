"""Diffusion and flow models: schedules, predictions, time sampling, guidance, objective and sampling.

Time runs from data, t = 0, to noise, t = 1. λ = ln(α²/σ²) is the logarithm of the signal-to-noise ratio.
"""

from .guidance import drop_labels, guided
from .objective import DiffusionObjective
from .predictions import (
    PREDICTIONS,
    Prediction,
    as_prediction,
    check_samplable,
    coefficients,
    convert,
    edm,
    to_noise,
    to_x,
)
from .schedules import CosineVP, RectifiedFlow, Schedule
from .solvers import euler_table, execute, sample, step_times
from .times import LogitNormalTimes, TimeSampling, UniformTimes

__all__ = [
    "PREDICTIONS",
    "CosineVP",
    "DiffusionObjective",
    "LogitNormalTimes",
    "Prediction",
    "RectifiedFlow",
    "Schedule",
    "TimeSampling",
    "UniformTimes",
    "as_prediction",
    "check_samplable",
    "coefficients",
    "convert",
    "drop_labels",
    "edm",
    "euler_table",
    "execute",
    "guided",
    "sample",
    "step_times",
    "to_noise",
    "to_x",
]
