"""Scaling laws: how the loss falls with the size of the model and with what it has seen, with intervals.

Hoffmann et al.'s law and estimator ("Training compute-optimal large language models", 2022, approaches 2 and 3). Their
published fit had stopped early: Huber's losses were averaged, and so fell below the optimiser's tolerance (Besiroglu
et al., "Chinchilla scaling: a replication attempt", 2024). Here they are summed, and the fit ends where nothing moves.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .scaling_fit import log_loss, minimize, starts

Numbers = Tensor | Sequence[float]

_EXACT, _BOOTSTRAP = 1e-13, 1e-5  # tolerances: a resampled fit needs to be nearer than the interval is wide
_LEVELS = torch.tensor([0.025, 0.975], dtype=torch.float64)
_SAME_COMPUTE = 0.05  # of the logarithm


@dataclass(frozen=True)
class Term:
    """A·x^−α: `coefficient` A in the units of the sizes given, `exponent` α with its 95% `interval`."""

    coefficient: float
    exponent: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Prediction:
    """Losses that a law predicts, with the 95% band of the law; float64, of the shape of the sizes."""

    loss: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Optimum:
    """The model and the number of samples with the least loss for a compute, and that loss."""

    parameters: float
    samples: float
    loss: float


@dataclass(frozen=True)
class LeftOut:
    """The largest run, `predicted` by the law of all others with its 95% band, and as it was `measured`."""

    predicted: float
    low: float
    high: float
    measured: float


@dataclass(frozen=True)
class ScalingLaw:
    """L = E + Σ A·x^−α, over `parameters`, `samples` or both.

    Attributes:
        irreducible: E, in the losses' unit, and its 95% `irreducible_interval`.
        terms: by name.
        warning: what the numbers do not bear, in a sentence; None where they do.
    """

    irreducible: float
    irreducible_interval: tuple[float, float]
    terms: dict[str, Term]
    warning: str | None
    _runs: _Runs = field(repr=False)
    _resampled: Tensor = field(repr=False)

    def predict(
        self, *, parameters: float | Numbers | None = None, samples: float | Numbers | None = None
    ) -> Prediction:
        """The loss at these sizes, which broadcast; ValueError unless exactly the law's own are given, positive."""
        given = {"parameters": parameters, "samples": samples}
        for name, value in given.items():
            if (value is None) == (name in self.terms):
                raise ValueError(
                    f"predict needs {' and '.join(self.terms)}, and {name} was {'not ' * (value is None)}given"
                )
        sizes = [_positive(name, value, scalars=True) for name, value in given.items() if value is not None]
        sizes = list(torch.broadcast_tensors(*sizes))
        logs = torch.stack([size.flatten().log() for size in sizes]) - self._runs.centre[:, None]
        every = (log_loss(self._resampled, logs)[0] + self._runs.level).exp()
        low, high = (
            every[1:].quantile(_LEVELS, 0) if len(every) > 1 else torch.full_like(every, torch.nan).expand(2, -1)
        )
        return Prediction(*(values.view(sizes[0].shape) for values in (every[0], low, high)))

    def optimum(self, compute: float, flops_per: float = 6.0) -> Optimum:
        """The best use of `compute` = flops_per·parameters·samples; ValueError for a law that lacks one of the two.

        Hoffmann et al., equation 4.
        """
        if len(self.terms) < 2:
            raise ValueError(
                f"an optimum needs a law of parameters and samples, and this one has {', '.join(self.terms)}"
            )
        if not (compute > 0 and flops_per > 0):
            raise ValueError(f"compute and flops_per must be positive, got {compute} and {flops_per}")
        of_parameters, of_samples = self.terms["parameters"], self.terms["samples"]
        a, b = of_parameters.exponent, of_samples.exponent
        if not (a > 0 and b > 0):
            raise ValueError(f"an optimum needs exponents above 0, and they are {a:.4g} and {b:.4g}")
        ratio = (math.log(a * of_parameters.coefficient) - math.log(b * of_samples.coefficient)) / (a + b)
        parameters = math.exp(ratio + math.log(compute / flops_per) * b / (a + b))
        samples = compute / flops_per / parameters
        return Optimum(parameters, samples, float(self.predict(parameters=parameters, samples=samples).loss))

    def left_out(self) -> LeftOut:
        """How well the other runs predict the largest, by the product of its sizes; runs as large are left out too.

        `measured` is the mean of theirs. ValueError where too few runs remain.
        """
        volume = self._runs.log_sizes.sum(0)
        largest = volume >= volume.max() - 1e-9
        runs = self._runs.at(~largest)
        law = _law(runs)
        sizes = (self._runs.log_sizes[:, largest][:, 0] + self._runs.centre).exp().tolist()
        found = law.predict(**dict(zip(self.terms, sizes, strict=True)))
        measured = (self._runs.log_losses[largest] + self._runs.level).exp().mean()
        return LeftOut(*(float(value) for value in (found.loss, found.low, found.high, measured)))


def fit_scaling_law(
    loss: Numbers,
    *,
    parameters: Numbers | None = None,
    samples: Numbers | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ScalingLaw:
    """Fits L = E + A·N^−α + B·D^−β to runs: Huber's loss of the logarithms' differences, summed, from many starts.

    Intervals are of Rubin's bootstrap ("The Bayesian bootstrap", 1981): each run weighs a random amount, so that no
    sample lacks what the law needs. Units are the caller's; they change neither exponents nor E's share of the loss.

    Args:
        loss: of each run, in any unit, [R]. parameters, samples: its sizes, [R]; one of them, or both. Two terms need
            runs that do not lie on one line.
        bootstrap: how many samples the intervals are made from; 0 leaves them NaN. seed: of these samples.

    Raises:
        ValueError: numbers that are not positive, not as many as losses, fewer runs than unknowns, or fewer than three
            different sizes, from which E cannot be known.

    Warns:
        UserWarning: where E's interval is wider than half of the least loss: the runs do not tell E and the exponents
            apart. With as many runs as unknowns, which leave no interval.
    """
    losses = _positive("loss", loss)
    given = {name: value for name, value in (("parameters", parameters), ("samples", samples)) if value is not None}
    if not given:
        raise ValueError("a scaling law needs parameters, samples or both, got neither")
    if bootstrap < 0:
        raise ValueError(f"bootstrap must be at least 0, got {bootstrap}")
    sizes = [_sizes(name, value, losses) for name, value in given.items()]
    return _law(_runs(tuple(given), losses.log(), torch.stack(sizes).log(), bootstrap, seed))


@dataclass(frozen=True)
class Isoflop:
    """How the best model grows with compute: N ∝ C^`parameters_exponent`, with its 95% `interval`.

    compute: parameters·samples of each budget, rising; best_parameters: where its parabola is least. left_out: budgets
    whose least loss lies outside their runs, and which do not count.
    """

    parameters_exponent: float
    interval: tuple[float, float]
    compute: tuple[float, ...]
    best_parameters: tuple[float, ...]
    left_out: tuple[float, ...]


def isoflop(loss: Numbers, parameters: Numbers, samples: Numbers, *, bootstrap: int = 1000, seed: int = 0) -> Isoflop:
    """For runs at several budgets: a parabola in ln N at each, and a line through their lowest points.

    Runs whose products parameters·samples differ by under 5% are of one budget. Intervals are of Rubin's bootstrap.

    Raises:
        ValueError: as `fit_scaling_law` does, and unless two budgets have their lowest points between their runs.

    Source: Hoffmann et al., 2022, approach 2.
    """
    losses = _positive("loss", loss)
    log_parameters, log_samples = (
        _sizes(name, value, losses).log() for name, value in (("parameters", parameters), ("samples", samples))
    )
    order = (log_parameters + log_samples).argsort()
    volume = (log_parameters + log_samples)[order]
    groups = [order[part] for part in _groups(volume)]
    generator = torch.Generator().manual_seed(seed)
    computes, lowest, dropped = [], [], []
    for group in groups:
        compute = float((log_parameters + log_samples)[group].mean())
        weights = _weights(bootstrap, len(group), generator)
        points = _lowest(log_parameters[group], losses[group], weights)
        if points is None or not log_parameters[group].min() <= points[0] <= log_parameters[group].max():
            dropped.append(math.exp(compute))
        else:
            computes.append(compute)
            lowest.append(points)
    if len(lowest) < 2:
        raise ValueError(
            "isoflop needs at least 2 budgets parameters·samples, each with a least loss between its runs, got "
            f"{len(lowest)} of {len(groups)}"
        )
    x, points = torch.tensor(computes, dtype=torch.float64), torch.stack(lowest)
    x = x - x.mean()
    slopes = (points * x[:, None]).sum(0) / x.square().sum()
    return Isoflop(
        float(slopes[0]),
        _interval(slopes),
        tuple(math.exp(compute) for compute in computes),
        tuple(points[:, 0].exp().tolist()),
        tuple(dropped),
    )


@dataclass(frozen=True)
class _Runs:
    """Logarithms of losses [R] and sizes [terms, R], less their means `level` and `centre`: units are gone."""

    names: tuple[str, ...]
    log_losses: Tensor
    log_sizes: Tensor
    level: Tensor
    centre: Tensor
    bootstrap: int
    seed: int

    def at(self, which: Tensor) -> _Runs:
        losses, sizes = self.log_losses[which] + self.level, self.log_sizes[:, which] + self.centre[:, None]
        return _runs(self.names, losses, sizes, self.bootstrap, self.seed)


def _runs(names: tuple[str, ...], log_losses: Tensor, log_sizes: Tensor, bootstrap: int, seed: int) -> _Runs:
    unknowns = 1 + 2 * len(names)
    if len(log_losses) < unknowns:
        raise ValueError(
            f"loss must be of at least {unknowns} runs, as many as the law has unknowns, got {len(log_losses)}"
        )
    for name, logs in zip(names, log_sizes, strict=True):
        if len(_groups(logs.sort().values, 1e-9)) < 3:
            raise ValueError(f"{name} must have at least 3 different sizes, got {logs.exp().unique().tolist()}")
    level, centre = log_losses.mean(), log_sizes.mean(1)
    return _Runs(names, log_losses - level, log_sizes - centre[:, None], level, centre, bootstrap, seed)


def _law(runs: _Runs) -> ScalingLaw:
    count, terms = len(runs.log_losses), len(runs.names)
    begin = starts(terms)
    tried, sums = minimize(
        begin, runs.log_sizes, runs.log_losses, torch.ones(len(begin), count, dtype=torch.float64), _EXACT
    )
    best = tried[sums.argmin()][None]
    resampled = best
    if count > 1 + 2 * terms:  # as many runs as unknowns leave no error to tell an interval from
        weights = _weights(runs.bootstrap, count, torch.Generator().manual_seed(runs.seed))[1:]
        again, _ = minimize(best.expand(len(weights), -1), runs.log_sizes, runs.log_losses, weights, _BOOTSTRAP)
        resampled = torch.cat((best, again))
    irreducible = (resampled[:, 0] + runs.level).exp()
    found = {}
    for place, name in enumerate(runs.names):
        exponents = resampled[:, 1 + terms + place]
        coefficient = (resampled[0, 1 + place] + exponents[0] * runs.centre[place] + runs.level).exp()
        found[name] = Term(float(coefficient), float(exponents[0]), _interval(exponents))
    interval = _interval(irreducible)
    warning = _warning(interval, float((runs.log_losses.min() + runs.level).exp()), count > 1 + 2 * terms)
    if warning is not None:
        warnings.warn(warning, stacklevel=3)
    return ScalingLaw(float(irreducible[0]), interval, found, warning, runs, resampled)


def _warning(irreducible: tuple[float, float], least: float, errors: bool) -> str | None:
    if not errors:
        return "there are as many runs as unknowns: no interval can be told"
    if irreducible[1] - irreducible[0] > least / 2:
        return (
            "the runs do not tell the irreducible loss and the exponents apart: its interval is "
            f"[{irreducible[0]:.3g}, {irreducible[1]:.3g}], and the least loss {least:.3g}"
        )
    return None


def _weights(bootstrap: int, count: int, generator: torch.Generator) -> Tensor:
    """Weights of `count` runs, float64 [1 + bootstrap, count]: all equal, then random ones."""
    drawn = torch.empty(bootstrap, count, dtype=torch.float64).exponential_(generator=generator)
    return torch.cat((torch.ones(1, count, dtype=torch.float64), drawn * (count / drawn.sum(1, keepdim=True))))


def _interval(values: Tensor) -> tuple[float, float]:
    """The 95% interval of an estimate from its resampled values, which follow it in `values`."""
    if len(values) < 2:
        return math.nan, math.nan
    low, high = values[1:].quantile(_LEVELS).tolist()
    return low, high


def _groups(rising: Tensor, apart: float = _SAME_COMPUTE) -> list[Tensor]:
    """Places of numbers that rise, cut where the next one is more than this away."""
    cuts = (rising.diff() > apart).nonzero().flatten() + 1
    return list(torch.arange(len(rising)).tensor_split(cuts.tolist()))


def _lowest(x: Tensor, y: Tensor, weights: Tensor) -> Tensor | None:
    """Where the parabola through points is least, for each row of weights; None unless the first one opens upwards."""
    if len(_groups(x.sort().values, 1e-9)) < 3:
        return None
    centre = x.mean()
    powers = torch.stack([(x - centre) ** power for power in range(3)], 1)
    weighted = powers.mT * weights[:, None]
    _, slope, bend = torch.linalg.solve(weighted @ powers, (weighted @ y)[..., None])[..., 0].unbind(1)
    return None if bend[0] <= 0 else centre - slope / (2 * bend)


def _positive(name: str, value: float | Numbers, *, scalars: bool = False) -> Tensor:
    numbers = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    if numbers.dim() != 1 and not scalars:
        raise ValueError(f"{name} must be a list of numbers, one a run, got shape {list(numbers.shape)}")
    wrong = ~(numbers.isfinite() & (numbers > 0))
    if wrong.any():
        raise ValueError(f"{name} must be positive and finite, got {float(numbers[wrong].flatten()[0])}")
    return numbers


def _sizes(name: str, value: Numbers, losses: Tensor) -> Tensor:
    sizes = _positive(name, value)
    if len(sizes) != len(losses):
        raise ValueError(f"{name} must be as many as losses, {len(losses)}, got {len(sizes)}")
    return sizes
