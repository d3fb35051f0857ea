"""Ratings of sets of pictures from people's votes between two of them at a time.

Bradley and Terry's model ("Rank analysis of incomplete block designs", 1952): A wins against B with probability
1 / (1 + exp(θ_B − θ_A)); a tie is half a win of each. Elo's scale is 400 / ln 10 of θ, with mean 1500.

The votes of one rater are not independent: raters differ in taste. Intervals are therefore clustered by rater: the
scores of all votes of a rater are summed before they are squared (Liang and Zeger, "Longitudinal data analysis using
generalized linear models", 1986), with Student's t for as many raters.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ELO = 400 / math.log(10)
_MEAN = 1500.0
_MOST_STEPS = 1000
_POINTS = {"left": 1.0, "tie": 0.5, "right": 0.0}


@dataclass(frozen=True)
class Vote:
    """One choice between two sets, by where their pictures stood.

    outcome: "left", "right" or "tie". rater: whose. pair: what the pictures have in common, such as their name; votes
    on the same sets and pair are compared for agreement.

    ValueError for another outcome, and for a set against itself.
    """

    left: str
    right: str
    outcome: str
    rater: str = ""
    pair: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in _POINTS:
            raise ValueError(f"outcome must be one of {', '.join(_POINTS)}, got {self.outcome!r}")
        if self.left == self.right:
            raise ValueError(f"left and right must be different sets, got {self.left!r} twice")

    @property
    def points(self) -> float:
        """Of the left one: 1, ½ or 0."""
        return _POINTS[self.outcome]


@dataclass(frozen=True)
class Ratings:
    """What votes say about sets.

    Attributes:
        elo: of each set, NaN where votes tell none; the mean of those told is 1500.
        intervals: of each rating against that mean, 95%.
        ranks: the best and the worst rank, from 1, that the differences allow at 95%; all ranks where none is told.
        left_share: the share of points that went to the left: ½ without side bias. left_interval: 95%, by rater.
        notes: sentences about what the votes do not tell.
    """

    elo: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    ranks: dict[str, tuple[int, int]]
    left_share: float
    left_interval: tuple[float, float]
    notes: tuple[str, ...]


def bradley_terry(votes: Iterable[Vote]) -> Ratings:
    """Rates the sets by all votes at once, by maximum likelihood.

    A finite rating needs wins and losses that lead from each set to each other, ties count as both. Sets that no votes
    connect with the others, that never win, or never lose, have none: they are named in `notes`, and their votes do not
    count. ValueError for no votes.
    """
    votes = list(votes)
    if not votes:
        raise ValueError("there must be at least 1 vote, got none")
    names = sorted({name for vote in votes for name in (vote.left, vote.right)})
    rated, notes = _rated(names, votes)
    counted = [vote for vote in votes if vote.left in rated and vote.right in rated]
    elo = dict.fromkeys(names, math.nan)
    intervals = dict.fromkeys(names, (math.nan, math.nan))
    ranks = dict.fromkeys(names, (1, len(names)))
    if rated:
        if len({vote.rater for vote in counted}) == 1:
            notes.append("all votes are of one rater: the intervals say nothing about other people")
        theta, covariance, quantile = _fit(rated, counted)
        for place, name in enumerate(rated):
            elo[name] = _MEAN + _ELO * float(theta[place])
            reach = _ELO * quantile * math.sqrt(max(float(covariance[place, place]), 0.0))
            intervals[name] = (elo[name] - reach, elo[name] + reach)
        if len(rated) == len(names):
            ranks = _ranks(rated, theta, covariance, quantile)
    share, reach = _clustered_mean([(vote.rater, vote.points) for vote in votes])
    return Ratings(elo, intervals, ranks, share, (share - reach, share + reach), tuple(notes))


@dataclass(frozen=True)
class Agreement:
    """How often two votes on the same two pictures choose the same one; NaN where there are none.

    between: votes of different raters, in the mean over all such pairs of votes; a tie agrees with a tie alone. within:
    votes of one rater, on a pair that was shown again, mirrored.
    """

    between: float
    within: float


def agreement(votes: Iterable[Vote]) -> Agreement:
    """How far raters agree with each other and with themselves."""
    seen: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    for vote in votes:
        first, second = sorted((vote.left, vote.right))
        chosen = "" if vote.outcome == "tie" else getattr(vote, vote.outcome)
        seen[first, second, vote.pair].append((vote.rater, chosen))
    counts = {kind: [0, 0] for kind in ("between", "within")}  # equal, all
    for found in seen.values():
        everyone, own = _equal_pairs([choice for _, choice in found]), [0, 0]
        for rater in {rater for rater, _ in found}:
            own = _sum(own, _equal_pairs([choice for name, choice in found if name == rater]))
        counts["within"] = _sum(counts["within"], own)
        counts["between"] = _sum(counts["between"], [everyone[0] - own[0], everyone[1] - own[1]])
    return Agreement(*(equal / total if total else math.nan for equal, total in counts.values()))


def cycles(votes: Iterable[Vote]) -> list[tuple[str, ...]]:
    """Sets that beat each other in a circle, each by more than its 95% interval, clustered by rater.

    One circle, the shortest, for each group of sets that such wins hold together; each beats the next, and the last one
    the first. No order of the sets can show that.
    """
    votes = list(votes)
    names = sorted({name for vote in votes for name in (vote.left, vote.right)})
    place = {name: number for number, name in enumerate(names)}
    beats = torch.zeros(len(names), len(names), dtype=torch.bool)
    points: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for vote in votes:
        points[vote.left, vote.right].append((vote.rater, vote.points))
        points[vote.right, vote.left].append((vote.rater, 1 - vote.points))
    for (winner, loser), given in points.items():
        mean, reach = _clustered_mean(given)
        beats[place[winner], place[loser]] = mean - reach > 0.5
    found = []
    for group in _groups(_mutual(beats)):
        if len(group) > 1:
            circle = min((_circle(beats, start) for start in group), key=len)
            found.append(tuple(names[number] for number in circle))
    return found


def _rated(names: Sequence[str], votes: Sequence[Vote]) -> tuple[list[str], list[str]]:
    """The sets with finite ratings, and sentences about the others."""
    place = {name: number for number, name in enumerate(names)}
    beats = torch.zeros(len(names), len(names), dtype=torch.bool)
    for vote in votes:
        left, right = place[vote.left], place[vote.right]
        beats[left, right] |= vote.points > 0
        beats[right, left] |= vote.points < 1
    strong, joined = _groups(_mutual(beats)), _mutual(beats | beats.T)
    weight = Counter(name for vote in votes for name in (vote.left, vote.right))
    best = max(strong, key=lambda group: (len(group), sum(weight[names[number]] for number in group)))
    notes = []
    for number, name in enumerate(names):
        if number in best and len(best) > 1:
            continue
        if not beats[number].any():
            notes.append(f"{name} never won a vote, and so has no finite rating")
        elif not beats[:, number].any():
            notes.append(f"{name} never lost a vote, and so has no finite rating")
        elif not joined[number, best[0]]:
            notes.append(f"no votes connect {name} with {', '.join(names[other] for other in best)}")
        else:
            rest = ", ".join(names[other] for other in best)
            notes.append(f"no wins and losses lead both from {name} to {rest} and back, so it has no finite rating")
    return ([names[number] for number in best] if len(best) > 1 else []), notes


def _fit(names: Sequence[str], votes: Sequence[Vote]) -> tuple[Tensor, Tensor, float]:
    """θ with mean 0, its covariance clustered by rater, and Student's t; votes of a single rater are clusters each."""
    place = {name: number for number, name in enumerate(names)}
    left = torch.tensor([place[vote.left] for vote in votes])
    right = torch.tensor([place[vote.right] for vote in votes])
    points = torch.tensor([vote.points for vote in votes], dtype=torch.float64)
    theta, mean = torch.zeros(len(names), dtype=torch.float64), 1 / len(names)
    for _ in range(_MOST_STEPS):  # Newton's, cut to 1, for a concave likelihood that has its maximum
        expected = (theta[left] - theta[right]).sigmoid()
        gradient = torch.zeros_like(theta).index_add_(0, left, points - expected)
        gradient.index_add_(0, right, expected - points)
        information = _laplacian(left, right, expected * (1 - expected), len(names))
        step = torch.linalg.solve(information + mean, gradient)  # the constant makes it regular, and keeps the mean 0
        theta = theta + step / max(1.0, float(step.abs().max()))
        if step.abs().max() < 1e-10:
            break
    clusters = _clusters([vote.rater for vote in votes])
    count = int(clusters.max()) + 1
    scores = torch.zeros(count, len(names), dtype=torch.float64)
    scores.index_put_((clusters, left), points - expected, accumulate=True)
    scores.index_put_((clusters, right), expected - points, accumulate=True)
    inverse = torch.linalg.inv(information + mean) - mean
    covariance = inverse @ scores.T @ scores @ inverse * (count / max(count - 1, 1))
    return theta, covariance, _quantile(count - 1)


def _clusters(raters: Sequence[str]) -> Tensor:
    """A number for each vote, the same for those of a rater; all different where there is one rater."""
    number = {name: place for place, name in enumerate(dict.fromkeys(raters))}
    return torch.tensor([number[name] for name in raters]) if len(number) > 1 else torch.arange(len(raters))


def _laplacian(left: Tensor, right: Tensor, weights: Tensor, size: int) -> Tensor:
    pairs = torch.zeros(size, size, dtype=torch.float64)
    pairs.index_put_((left, right), weights, accumulate=True)
    pairs = pairs + pairs.T
    return torch.diag(pairs.sum(0)) - pairs


def _ranks(names: Sequence[str], theta: Tensor, covariance: Tensor, quantile: float) -> dict[str, tuple[int, int]]:
    variances = covariance.diagonal()
    spread = (variances[:, None] + variances - 2 * covariance).clamp_min(0).sqrt() * quantile
    better = (theta[:, None] - theta > spread).sum(0)  # how many are surely better than this one
    worse = (theta - theta[:, None] > spread).sum(0)
    return {name: (1 + int(better[place]), len(names) - int(worse[place])) for place, name in enumerate(names)}


def _clustered_mean(given: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """The mean of raters' numbers, and how far its 95% interval reaches to each side; infinitely far for one number."""
    points = torch.tensor([points for _, points in given], dtype=torch.float64)
    clusters = _clusters([rater for rater, _ in given])
    count = int(clusters.max()) + 1
    if count < 2:
        return float(points.mean()), math.inf
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, clusters, points - points.mean())
    error = float(sums.square().sum() * count / (count - 1)) ** 0.5 / len(given)
    return float(points.mean()), _quantile(count - 1) * error


def _mutual(arrows: Tensor) -> Tensor:
    """[N, N]: whether arrows lead both there and back."""
    reach = arrows | torch.eye(len(arrows), dtype=torch.bool)
    for _ in range(max(1, math.ceil(math.log2(len(arrows))))):
        reach = (reach.double() @ reach.double()) > 0
    return reach & reach.T


def _groups(mutual: Tensor) -> list[list[int]]:
    return [list(group) for group in sorted({tuple(row.nonzero().flatten().tolist()) for row in mutual})]


def _circle(beats: Tensor, start: int) -> list[int]:
    """The shortest way from a set back to itself, along wins; there is one."""
    paths, seen = [[start]], {start}
    while True:
        longer: list[list[int]] = []
        for path in paths:
            if beats[path[-1], start]:
                return path
            for number in beats[path[-1]].nonzero().flatten().tolist():
                if number not in seen:
                    seen.add(number)
                    longer.append([*path, number])
        paths = longer


def _quantile(freedom: int) -> float:
    """Of Student's t, for an interval of 95%."""
    from scipy.stats import t

    return float(t.ppf(0.975, max(freedom, 1)))


def _equal_pairs(choices: Sequence[str]) -> list[int]:
    """How many pairs of choices are equal, and how many there are."""
    equal = sum(count * (count - 1) // 2 for count in Counter(choices).values())
    return [equal, len(choices) * (len(choices) - 1) // 2]


def _sum(a: Sequence[int], b: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(a, b, strict=True)]
