"""The variants that the study of noise levels compares, as objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from visgen_fast.diffusion import (
    CosineVP,
    DiffusionObjective,
    Laplace,
    LevelTimes,
    MinSNR,
    Schedule,
    Shifted,
    Sigmoid,
    TimeSampling,
    UniformTimes,
    Weight,
)

RATIO = 4
"""An image's side over that at which the cosine schedule is at home."""
SHIFT = -2 * math.log(RATIO)
"""Of λ: an average over RATIO×RATIO pixels has at λ + SHIFT the signal-to-noise ratio that a pixel has at λ."""


@dataclass(frozen=True)
class Variant:
    """What distinguishes a variant in training; it is compared with the variant `baseline`.

    large_patches: a token is a square of twice the side, with more numbers than the token has features.
    """

    description: str
    schedule: Callable[[], Schedule] = CosineVP
    times: Callable[[Schedule], TimeSampling] = lambda schedule: UniformTimes()
    prediction: str = "v"
    weight: Weight | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    large_patches: bool = False
    baseline: str = "cosine"

    def objective(self) -> DiffusionObjective:
        """The objective. Networks are told λ, which means the same under every schedule; no label is dropped."""
        schedule = self.schedule()
        options = {"weight": self.weight, "conditioning": "log_snr", **self.options}
        return DiffusionObjective(schedule, self.prediction, self.times(schedule), **options)


def _shifted() -> Schedule:
    return Shifted(CosineVP(), 1, RATIO)


_SCALES = {"scales": (1, 2, 4, 8), "scale_weights": "paper"}
_LARGE: dict[str, Any] = {"weight": MinSNR(), "large_patches": True, "baseline": "v, large patches"}
VARIANTS = {
    "cosine": Variant("the cosine schedule, v-prediction, uniform times"),
    "shifted": Variant(f"its shift by {-SHIFT:.2f} in λ towards noise (simple diffusion)", _shifted),
    "multiscale": Variant("the errors of averages over 1, 2, 4 and 8 pixels (simple diffusion)", options=_SCALES),
    "shifted multiscale": Variant("both", _shifted, options=_SCALES),
    "min-snr": Variant("the weight Min-SNR, γ = 5", weight=MinSNR()),
    "laplace": Variant(
        "λ drawn from a Laplace density of mean 0 and scale ½ (Hang et al., 2024)",
        times=lambda schedule: LevelTimes(schedule, Laplace(0.0, 0.5)),
    ),
    "sigmoid": Variant("the weight sigmoid(−1 − λ) of the error of ε (SiD2)", weight=Sigmoid(-1.0)),
    "x-prediction": Variant(
        "the network predicts x, the error of v counts, with JiT's floor under t",
        prediction="x",
        options={"loss": "v", "smallest_time": 0.05},
    ),
    "v, large patches": Variant(
        "patches with more numbers than a token has features; v-prediction, the weight Min-SNR", **_LARGE
    ),
    "x, large patches": Variant("the same with x-prediction", prediction="x", **_LARGE),
    "epsilon, large patches": Variant("the same with ε-prediction", prediction="epsilon", **_LARGE),
}
BASELINE = "cosine"
FIRST_FOUR = ("cosine", "shifted", "multiscale", "shifted multiscale")
LARGE_PATCHES = ("v, large patches", "x, large patches", "epsilon, large patches")


def file_name(variant: str, seed: int) -> str:
    """Of a run's files, without the ending."""
    return f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
