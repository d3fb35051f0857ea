"""Samplers, each a function that writes the rows of its table; `SAMPLERS` has them by name.

A sampler of one's own is a function `(path, *, options) -> iterator of Row`; with its name in `SAMPLERS`, or given
itself, it works with every schedule, prediction and spacing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .consistency import consistency, tcd
from .ddpm import ddpm
from .deis import deis
from .dpm_multi import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde
from .dpm_single import dpmpp_2s, dpmpp_sde
from .euler import ddim, euler, euler_ancestral
from .rows import Row
from .sa_solver import sa_solver
from .slopes import adams_bashforth, dpm2, heun, midpoint, rk4
from .unipc import unipc

Sampler = Callable[..., Iterator[Row]]

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "euler-ancestral": euler_ancestral,
    "midpoint": midpoint,
    "rk4": rk4,
    "dpm2": dpm2,
    "dpm++2s": dpmpp_2s,
    "dpm++sde": dpmpp_sde,
    "dpm++2m": dpmpp_2m,
    "dpm++3m": dpmpp_3m,
    "dpm++2m-sde": dpmpp_2m_sde,
    "dpm++3m-sde": dpmpp_3m_sde,
    "unipc": unipc,
    "deis": deis,
    "adams-bashforth": adams_bashforth,
    "sa-solver": sa_solver,
    "consistency": consistency,
    "tcd": tcd,
}

__all__ = ["SAMPLERS", "Sampler"]
