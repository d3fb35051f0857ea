"""Schedules and weights by name, with options: `cosine`, `laplace:scale=0.5`, `cosine:reference=16,resolution=64`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from .densities import Cauchy, Density, HyperbolicSecant, Laplace, Normal
from .derived_schedules import FromDensity, Interpolated, Shifted
from .schedules import CosineVP, KarrasVE, RectifiedFlow, Schedule, SigmoidVP
from .table_schedules import DiscreteVP
from .times import LevelTimes, LogitNormalTimes, TimeSampling, UniformTimes
from .weights import ELBO, P2, EDMMonotonic, EDMWeight, MinSNR, Sigmoid, SoftMinSNR, TruncatedSNR, Weight

T = TypeVar("T")


def _from(density: Callable[..., Density]) -> Callable[..., Schedule]:
    def make(**options: float) -> Schedule:
        cut = {name: options.pop(name) for name in ("log_snr_min", "log_snr_max") if name in options}
        return FromDensity(density(**options), **cut)

    own = list(inspect.signature(density).parameters.values())
    ends = [inspect.signature(FromDensity).parameters[name] for name in ("log_snr_min", "log_snr_max")]
    make.__signature__ = inspect.Signature([*own, *ends])  # type: ignore[attr-defined]
    return make


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "rectified-flow": RectifiedFlow,
    "cosine": CosineVP,
    "sigmoid": SigmoidVP,
    "karras": KarrasVE,
    "ddpm-linear": DiscreteVP.linear,
    "ddpm-scaled-linear": DiscreteVP.scaled_linear,
    "ddpm-cosine": DiscreteVP.cosine,
    "ddpm-sigmoid": DiscreteVP.sigmoid,
    "normal": _from(Normal),
    "laplace": _from(Laplace),
    "cauchy": _from(Cauchy),
    "hyperbolic-secant": _from(HyperbolicSecant),
}
"""Schedules that have names, under uniform times; options are the arguments."""

TIMES: dict[str, tuple[Callable[[], Schedule], Callable[..., Callable[[Schedule], TimeSampling]]]] = {
    "logit-normal": (RectifiedFlow, lambda mean=0.0, std=1.0: lambda schedule: LogitNormalTimes(mean, std)),
    "edm": (KarrasVE, lambda mean=-1.2, std=1.2: lambda schedule: LevelTimes(schedule, Normal(-2 * mean, 2 * std))),
}
"""Schedules with times of their own: rectified flow as in Stable Diffusion 3, and ln σ ~ N(mean, std²) as in EDM."""

WEIGHTS: dict[str, Callable[..., Weight]] = {
    "min-snr": MinSNR,
    "soft-min-snr": SoftMinSNR,
    "p2": P2,
    "truncated-snr": TruncatedSNR,
    "edm": EDMWeight,
    "sigmoid": Sigmoid,
    "edm-monotonic": EDMMonotonic,
    "elbo": ELBO,
}
"""Weights that have names; options are the arguments."""

_OF_MOVES = ("reference", "resolution", "ends", "low", "high")


def named_schedule(text: str) -> tuple[Schedule, TimeSampling]:
    """The schedule of this name, and the times that it is trained at.

    Any takes the options of `Shifted` (reference, resolution, ends) or `Interpolated` (low, high, resolution) besides
    its own. ValueError, which lists what there is, for a name or an option that there is not, or a value that is none.
    """
    name, options = _parsed(text)
    if name not in SCHEDULES and name not in TIMES:
        raise ValueError(f"schedule must be one of {', '.join([*SCHEDULES, *TIMES])}; got {name!r}")
    moved = {key: options.pop(key) for key in _OF_MOVES if key in options}
    if name in SCHEDULES:
        schedule = _moved(name, _called(name, SCHEDULES[name], options, _OF_MOVES), moved)
        return schedule, UniformTimes()
    make, of_times = TIMES[name]
    times, schedule = _called(name, of_times, options, _OF_MOVES), _moved(name, make(), moved)
    return schedule, times(schedule)


def _moved(name: str, plain: Schedule, options: dict[str, Any]) -> Schedule:
    if options.keys() & {"low", "high"}:
        return _called(name, lambda low, high, resolution: Interpolated(plain, low, high, resolution), options)
    if options:
        return _called(
            name, lambda reference, resolution, ends="move": Shifted(plain, reference, resolution, ends), options
        )
    return plain


def named_weight(text: str) -> Weight:
    """The weight of this name; ValueError as of `named_schedule`."""
    name, options = _parsed(text)
    if name not in WEIGHTS:
        raise ValueError(f"weight must be one of {', '.join(WEIGHTS)}; got {name!r}")
    return _called(name, WEIGHTS[name], options)


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for option in filter(None, rest.split(",")):
        key, equals, value = option.partition("=")
        argument = key.strip().replace("-", "_")
        if not equals or not argument:
            raise ValueError(f"an option must be like name=value, got {option!r} in {text!r}")
        if argument in options:
            raise ValueError(f"{argument.replace('_', '-')} must be given once, got {text!r}")
        options[argument] = _value(key, value.strip())
    return name.strip(), options


def _value(key: str, value: str) -> Any:
    if key.strip() == "ends":
        return value
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{key} must be a number, got {value!r}") from None
    return int(number) if number.is_integer() and abs(number) < 2**63 else number  # tensors take no larger integer


def _called(name: str, make: Callable[..., T], options: dict[str, Any], more: tuple[str, ...] = ()) -> T:
    """What it makes of the options; ValueError where one is unknown or missing."""
    parameters = inspect.signature(make).parameters
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        known = ", ".join((*parameters, *more)).replace("_", "-")
        has = f"the options {known}" if known else "no options"
        raise ValueError(f"{name} has {has}; got {', '.join(unknown)}")
    missing = [key for key, one in parameters.items() if one.default is one.empty and key not in options]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)} as well, got {', '.join(options)}")
    return make(**options)
