"""Diffusion and flow models: schedules, predictions, time sampling, guidance, objective, sampling, likelihood.

Time runs from data, t = 0, to noise, t = 1. λ = ln(α²/σ²) is the logarithm of the signal-to-noise ratio.
"""

from .adaptive_guidance import DynamicThresholding, Projected, ZeroStar
from .adaptive_times import AdaptiveTimes
from .bridges import bridge_coefficients, sample_bridge
from .callbacks import Previews, ProgressBar
from .couplings import optimal
from .densities import Cauchy, Density, HyperbolicSecant, Laplace, Normal
from .derived_schedules import FromDensity, Interpolated, Shifted
from .flow_map import FlowMap
from .forcing import ForcingObjective, frame_plan, sample_frames
from .graphs import release_graphs
from .guidance import (
    Auto,
    Classifier,
    ClassifierFree,
    PlusPlus,
    TwoConditions,
    drop_labels,
)
from .guiding import Guidance, Unguided
from .inversion import invert, slerp
from .learned_schedule import LearnedVP
from .likelihood import elbo, ends_of_bound, likelihood
from .low_discrepancy_times import LowDiscrepancyTimes
from .matching import critic_loss, distillation_loss, matching_direction, matching_loss
from .objective import DiffusionObjective
from .plan import Plan, plan
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
from .sampling import sample
from .schedules import CosineVP, KarrasVE, RectifiedFlow, Schedule, SigmoidVP, VariancePreserving
from .schrodinger import drift_to, reversed_target
from .solvers import SAMPLERS
from .solvers.langevin import annealed_langevin
from .spacings import SPACINGS
from .table_schedules import DiscreteVP, Table
from .times import (
    CosMapTimes,
    DiscreteTimes,
    LevelTimes,
    LogitNormalTimes,
    ModeTimes,
    TimeSampling,
    UniformTimes,
)
from .trajectory import TrajectoryObjective
from .trajectory_rules import RULES
from .uncertainty import Uncertainty
from .upsampling import Upsample
from .weights import ELBO, P2, EDMMonotonic, EDMWeight, MinSNR, Sigmoid, SoftMinSNR, TruncatedSNR, Weight

__all__ = [
    "ELBO",
    "P2",
    "PREDICTIONS",
    "RULES",
    "SAMPLERS",
    "SPACINGS",
    "AdaptiveTimes",
    "Auto",
    "Cauchy",
    "Classifier",
    "ClassifierFree",
    "CosMapTimes",
    "CosineVP",
    "Density",
    "DiffusionObjective",
    "DiscreteTimes",
    "DiscreteVP",
    "DynamicThresholding",
    "EDMMonotonic",
    "EDMWeight",
    "FlowMap",
    "ForcingObjective",
    "FromDensity",
    "Guidance",
    "HyperbolicSecant",
    "Interpolated",
    "KarrasVE",
    "Laplace",
    "LearnedVP",
    "LevelTimes",
    "LogitNormalTimes",
    "LowDiscrepancyTimes",
    "MinSNR",
    "ModeTimes",
    "Normal",
    "Plan",
    "PlusPlus",
    "Prediction",
    "Previews",
    "ProgressBar",
    "Projected",
    "RectifiedFlow",
    "Schedule",
    "Shifted",
    "Sigmoid",
    "SigmoidVP",
    "SoftMinSNR",
    "Table",
    "TimeSampling",
    "TrajectoryObjective",
    "TruncatedSNR",
    "TwoConditions",
    "Uncertainty",
    "Unguided",
    "UniformTimes",
    "Upsample",
    "VariancePreserving",
    "Weight",
    "ZeroStar",
    "annealed_langevin",
    "as_prediction",
    "bridge_coefficients",
    "check_samplable",
    "coefficients",
    "convert",
    "critic_loss",
    "distillation_loss",
    "drift_to",
    "drop_labels",
    "edm",
    "elbo",
    "ends_of_bound",
    "frame_plan",
    "invert",
    "likelihood",
    "matching_direction",
    "matching_loss",
    "optimal",
    "plan",
    "release_graphs",
    "reversed_target",
    "sample",
    "sample_bridge",
    "sample_frames",
    "slerp",
    "to_noise",
    "to_x",
]
