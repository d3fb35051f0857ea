"""Which of k-diffusion's samplers is which table."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...diffusion.path import Path
from ...diffusion.plan import Plan, plan
from ...diffusion.schedules import Schedule
from ...diffusion.solvers.dpm_multi import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde
from ...diffusion.solvers.dpm_single import dpmpp_2s, dpmpp_sde
from ...diffusion.solvers.euler import euler, euler_ancestral
from ...diffusion.solvers.rows import Row
from ...diffusion.solvers.slopes import adams_bashforth, heun
from .rows import dpm_2, dpm_2_ancestral, dpm_fast

_NONE: Mapping[str, Any] = MappingProxyType({})
_CHURN = MappingProxyType({"s_churn": "churn", "s_tmin": "churn_min", "s_tmax": "churn_max"})
_ETA = MappingProxyType({"eta": "eta"})


class Sampler(NamedTuple):
    """options: k-diffusion's names of the solver's options; fixed: what it has no name for; brownian: whether its noise
    is by default that of a Brownian path; slopes: after which steps the state has the type of `sigmas` too, since
    k-diffusion divides by one of them as a tensor: those of one network call, or all."""

    solver: Callable[..., Iterator[Row]]
    options: Mapping[str, str] = _NONE
    fixed: Mapping[str, Any] = _NONE
    brownian: bool = False
    slopes: Literal["all", "one call", "none"] = "none"

    @property
    def churns(self) -> bool:
        return self.options is _CHURN

    @property
    def parameters(self) -> set[str]:
        """Those that its function may have."""
        common = {"model", "x", "extra_args", "callback", "disable", "s_noise", "noise_sampler", *self.options}
        return common | ({"sigma_min", "sigma_max", "n"} if self.solver is dpm_fast else {"sigmas"})


SAMPLERS = {
    "sample_euler": Sampler(euler, _CHURN, slopes="all"),
    "sample_euler_ancestral": Sampler(euler_ancestral, _ETA, slopes="all"),
    "sample_heun": Sampler(heun, _CHURN, slopes="all"),
    "sample_dpm_2": Sampler(dpm_2, _CHURN, slopes="all"),
    "sample_dpm_2_ancestral": Sampler(dpm_2_ancestral, _ETA, slopes="all"),
    "sample_lms": Sampler(adams_bashforth, {"order": "order"}, slopes="all"),
    "sample_dpm_fast": Sampler(dpm_fast, _ETA),
    "sample_dpmpp_2s_ancestral": Sampler(dpmpp_2s, _ETA, slopes="one call"),
    "sample_dpmpp_sde": Sampler(dpmpp_sde, {"eta": "eta", "r": "fraction"}, brownian=True, slopes="one call"),
    "sample_dpmpp_2m": Sampler(dpmpp_2m, fixed={"lower_order_final": False}),
    "sample_dpmpp_2m_sde": Sampler(dpmpp_2m_sde, {"eta": "eta", "solver_type": "variant"}, brownian=True),
    "sample_dpmpp_3m_sde": Sampler(dpmpp_3m_sde, _ETA, brownian=True),
}


@dataclass(frozen=True)
class VarianceExploding(Schedule):
    """x + σ·ε with σ = scale·t. A power of two as `scale` keeps every σ what it is, to the last bit."""

    scale: float

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.scale * t

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2) / self.scale


@functools.lru_cache(maxsize=64)
def planned(solver: Callable[[Path], Iterator[Row]], sigmas: tuple[float, ...], options: tuple[Any, ...]) -> Plan:
    """The table through these levels. ValueError, in words, where there is none."""
    falls = all(high > low for high, low in zip(sigmas, sigmas[1:], strict=False))
    if len(sigmas) < 2 or not falls or not 0 <= sigmas[-1] <= sigmas[0] < math.inf:
        raise ValueError("its sigmas are not two or more numbers that fall throughout, to 0 at the lowest")
    scale = 2.0 ** math.ceil(math.log2(sigmas[0]))
    times = [sigma / scale for sigma in sigmas]
    return plan(solver, VarianceExploding(scale), "x", times=times, **dict(options))
