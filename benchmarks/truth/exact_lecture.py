"""Exact claims of the lecture: predictions, paths, guidance, and the loop that draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from visgen_fast.diffusion import (
    CosineVP,
    DiscreteVP,
    FromDensity,
    Laplace,
    RectifiedFlow,
    Schedule,
    SigmoidVP,
    as_prediction,
    convert,
)

from .claim import Claim, Row
from .mixture import TWO, Mixture

_EQUAL = ("below", 1e-6)


def ends_of_velocity(swapped: bool) -> Sequence[Row]:
    """The optimal velocity just inside both ends, against E[z] − x at t = 0 and z − E[x] at t = 1."""
    points, _ = TWO.sample(200, 0)
    noise = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean = TWO.weights @ TWO.means
    at_data, at_noise = -points, noise - mean
    if swapped:
        at_data, at_noise = points - mean, -noise
    near = 1e-6
    start = (TWO.velocity((1 - near) * points, near) - at_data).abs().max()
    end = (TWO.velocity(noise, 1 - near) - at_noise).abs().max()
    return [
        Row("largest difference at t = 0", [float(start)], "below", 1e-3),
        Row("largest difference at t = 1", [float(end)], "below", 1e-3),
    ]


def last_signal(repaired: bool) -> Sequence[Row]:
    """ᾱ at the last step of DDPM's and of Stable Diffusion's schedule."""
    ddpm, stable = DiscreteVP.linear(), DiscreteVP.scaled_linear()
    if repaired:
        stable = stable.with_zero_terminal_snr()
    last = torch.ones((), dtype=torch.float64)
    of_ddpm, of_stable = (float(schedule.alpha(last)) ** 2 for schedule in (ddpm, stable))
    return [
        Row("DDPM's last ᾱ", [of_ddpm], "below", 1e-4),
        Row("Stable Diffusion's over DDPM's", [of_stable / of_ddpm], "above", 100),
        Row("DDPM's over 4.0e-5", [of_ddpm / 4.0e-5], "below", 1.05, "size"),
        Row("Stable Diffusion's over 4.7e-3", [of_stable / 4.7e-3], "above", 0.95, "size"),
    ]


def scores_add_up(with_classifier: bool) -> Sequence[Row]:
    """∇ ln p(x) + ∇ ln p(y | x) against ∇ ln p(x | y), by automatic differentiation of the densities."""
    x = TWO.sample(100, 0)[0].requires_grad_()
    joint = TWO.log_joint(x)
    marginal, worst = joint.logsumexp(1), 0.0
    (prior,) = torch.autograd.grad(marginal.sum(), x, retain_graph=True)
    for label in range(2):
        parts = joint[:, label] - marginal if with_classifier else 0 * marginal
        (classifier,) = torch.autograd.grad(parts.sum(), x, retain_graph=True)
        conditional = -(x.detach() - TWO.means[label]) / TWO.std**2
        worst = max(worst, float((prior + classifier - conditional).abs().max()))
    return [Row("largest difference of the scores", [worst], "below", 1e-10)]


def optimal_game(answer: Callable[[Tensor, Tensor], Tensor]) -> Sequence[Row]:
    """The discriminator that is best against a generator of density q, point by point, and what the best leaves q."""
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    p, q = (torch.exp(-0.5 * (x - mean) ** 2) / math.sqrt(2 * math.pi) for mean in (0.0, 1.0))
    logits = torch.zeros_like(x)
    for _ in range(50):  # Newton's method on p·ln D + q·ln(1 − D), concave in the logit
        d = torch.sigmoid(logits)
        logits = logits + ((p - (p + q) * d) / ((p + q) * d * (1 - d))).clamp(-2, 2)
    found = torch.sigmoid(logits)

    def value(q: Tensor) -> float:
        d = answer(p, q)
        game = torch.special.xlogy(p, d) + torch.special.xlogy(q, 1 - d)
        return float(torch.trapezoid(game, x))

    return [
        Row("largest error of D = p/(p + q)", [float((answer(p, q) - found).abs().max())], "below", 1e-8),
        Row("the game's value at q = p, less −ln 4", [abs(value(p) + math.log(4))], "below", 1e-6),
        Row("its value at another q, less −ln 4", [value(q) + math.log(4)], "above", 0.01),
    ]


def _right(p: Tensor, q: Tensor) -> Tensor:
    return p / (p + q)


def _turned(p: Tensor, q: Tensor) -> Tensor:
    return q / (p + q)


def _ended(times: Tensor, spread: float) -> tuple[float, float]:
    """Standard deviation and mean that Euler steps of 1/T at these times end with, on data N(1, s²)."""
    scale, mean = 1.0, 0.0
    for t in times.tolist():
        slope = (t - (1 - t) * spread**2) / ((1 - t) ** 2 * spread**2 + t**2)
        mean = mean - (-1 + slope * (mean - (1 - t))) / len(times)
        scale = scale - slope * scale / len(times)
    return abs(scale), mean


def printed_loop(late: float) -> Sequence[Row]:
    """Where the loop at `linspace(1, 0, T)` ends, and that at t = 1 − i/T, on Gaussians of three spreads with mean 1.

    late: of the second loop's times. The printed loop misses the mean, by an error of first order in 1/T that the other
    one has not; the error of its standard deviation may be the smaller one.
    """
    steps, of_mean, meant_mean, orders, ratios = 100, [], [], [], []
    for spread in (0.3, 0.5, 2.0):
        ends = []
        for count in (steps, 2 * steps):
            meant = 1 - torch.arange(count, dtype=torch.float64) / count - late
            ends.append([_ended(times, spread) for times in (torch.linspace(1, 0, count).double(), meant)])
        (printed, right), (finer, _) = ends
        of_mean.append(abs(printed[1] - 1))
        meant_mean.append(abs(right[1] - 1))
        orders.append(math.log2(of_mean[-1] / abs(finer[1] - 1)))
        whole = [math.hypot(scale - spread, mean - 1) for scale, mean in (printed, right)]
        ratios.append(whole[0] / whole[1])
    return [
        Row("least error of the printed loop's mean", [min(of_mean)], "below", 1e-6, "printed"),
        Row("largest error of the mean at t = 1 − i/T", [max(meant_mean)], "below", 1e-6, "evident"),
        Row("least order of the printed loop's error in 1/T", [min(orders)], "above", 0.9, "evident"),
        Row("least ratio of the whole end errors, printed to meant", [min(ratios)], "above", 1.0, "size"),
    ]


def mean_of_pairs(mode: bool) -> Sequence[Row]:
    """The velocity E[z − x | x_t] against the mean over all pairs (x, z) that give the same x_t, by quadrature."""
    line = Mixture(torch.tensor([[-1.0], [1.5]], dtype=torch.float64), 0.4, torch.tensor([0.3, 0.7]).double())
    x = torch.linspace(-6, 6, 24001, dtype=torch.float64)
    prior, worst = line.log_density(x[:, None]), 0.0
    for t in (0.2, 0.5, 0.8):
        for x_t in (-1.0, 0.0, 0.7):
            z = (x_t - (1 - t) * x) / t
            pairs = (prior - 0.5 * z**2).softmax(0)
            mean = (z - x)[pairs.argmax()] if mode else pairs @ (z - x)
            exact = line.velocity(torch.tensor([[x_t]], dtype=torch.float64), t)[0, 0]
            worst = max(worst, float((mean - exact).abs()))
    return [Row("largest difference from the velocity", [worst], "below", 1e-3)]


def kept_variance(schedules: tuple[Schedule, ...]) -> Sequence[Row]:
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    worst = max(float((one.alpha(t) ** 2 + one.sigma(t) ** 2 - 1).abs().max()) for one in schedules)
    return [Row("largest difference of the variance from 1", [worst], "below", 1e-6)]


_VP = (CosineVP(), SigmoidVP(), DiscreteVP.linear(), DiscreteVP.scaled_linear(), FromDensity(Laplace(0.0, 0.5)))


def drowned(excess: float) -> Sequence[Row]:
    """The end error of data N(0, s²) drawn from N(0, σ_max²) along the exact path, as σ_max grows.

    The path scales by s/√(s² + σ_max²). excess: of the standard deviation that is drawn from.
    """
    spread, largest = 0.5, torch.tensor([10.0, 20.0, 40.0, 80.0], dtype=torch.float64)
    ended = (1 + excess) * largest / (spread**2 + largest**2).sqrt()
    errors = (1 - ended).abs()
    orders = (errors[:-1] / errors[1:]).log2()
    return [
        Row("least order of the end error in s/σ_max", [float(orders.min())], "above", 1.99),
        Row("largest order", [float(orders.max())], "below", 2.01),
    ]


def printed_rows(honest: bool) -> Sequence[Row]:
    """What the printed (c, d) of ε and v give, and what the library's do: errors of x and ε read back from targets.

    honest: whether a target is read as what it is, and not as a velocity.
    """
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 20, 3, dtype=torch.float64, generator=generator)
    t = torch.linspace(0.05, 0.95, 20, dtype=torch.float64)
    alpha, sigma = CosineVP().alpha(t), CosineVP().sigma(t)
    x_t = alpha[:, None] * x + sigma[:, None] * z
    # b·z − a·x: the determinant of its inverse, a·d − b·c = 2ab, is 0 at both ends; that of α·ε − σ·x is 1.
    determinant = 2 * torch.tensor([0.0, 1.0]) * torch.tensor([1.0, 0.0])
    worst = 0.0
    for name in ("epsilon", "v"):
        c, d = (one[:, None] for one in as_prediction(name).weights(alpha, sigma))
        for target, truth in (("x", x), ("epsilon", z)):
            read = convert(c * x + d * z, x_t, alpha, sigma, name if honest else "velocity", target)
            worst = max(worst, float((read - truth).abs().max()))
    return [
        Row("difference of the printed ε, 1·x + 0·z, from the noise", [float((x - z).abs().max())], *_EQUAL, "printed"),
        Row("least determinant of the printed v's inverse", [float(determinant.min())], "above", 1e-6, "printed"),
        Row("largest error of the library's ε and v, read back", [worst], *_EQUAL, "evident"),
    ]


def same_score(scaled: bool) -> Sequence[Row]:
    """−ε̂/σ of the exact denoiser against ∇ ln p_t, at several noise levels."""
    worst = 0.0
    for t in (0.1, 0.5, 0.9):
        alpha, sigma = math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)
        noised = alpha * TWO.sample(100, 0)[0] + sigma * TWO.sample(100, 1)[0]  # any points
        x_t = noised.requires_grad_()
        (score,) = torch.autograd.grad(TWO.log_density(x_t, alpha, sigma).sum(), x_t)
        noise = (x_t - alpha * TWO.denoised(x_t, alpha, sigma)) / sigma
        found = -noise / sigma if scaled else -noise
        worst = max(worst, float((found - score).abs().max().detach()))
    return [Row("largest difference from the score", [worst], "below", 1e-8)]


def _exact(
    number: int,
    source: str,
    text: str,
    refuted_if: str,
    measure: Callable[[], Sequence[Row]],
    planted: Callable[[], Sequence[Row]],
) -> Claim:
    return Claim(number, source, text, "exact", refuted_if, measure=measure, planted=planted)


CLAIMS = (
    _exact(
        *(35, "002:444", "both ends are easy: the optimum is E[z] − x at t = 0, z − E[x] at t = 1", "not"),
        *(partial(ends_of_velocity, False), partial(ends_of_velocity, True)),
    ),
    _exact(
        *(57, "001:110", "DDPM's last ᾱ is practically 0; Stable Diffusion's isn't", "Stable Diffusion's is as small"),
        *(partial(last_signal, False), partial(last_signal, True)),
    ),
    _exact(
        *(60, "002:28", "p(x|y) from a classifier and p(x)", "scores differ"),
        *(partial(scores_add_up, True), partial(scores_add_up, False)),
    ),
    _exact(
        *(66, "002:279", "the optimal D is p/(p + q); the optimum of G is p", "not"),
        *(partial(optimal_game, _right), partial(optimal_game, _turned)),
    ),
    _exact(
        *(70, "002:378", "the printed loop `linspace(1, 0, T)` draws the data", "it ends where t = 1 − i/T does"),
        *(partial(printed_loop, 0.0), partial(printed_loop, 0.1)),
    ),
    _exact(
        *(73, "002:442", "many (x, z) give one x_t: the optimum is the mean", "not the mean"),
        *(partial(mean_of_pairs, False), partial(mean_of_pairs, True)),
    ),
    _exact(
        *(78, "002:535", "variance preserving schedules keep the variance 1", "not 1"),
        *(partial(kept_variance, _VP), partial(kept_variance, (RectifiedFlow(),))),
    ),
    _exact(
        *(
            79,
            "002:540",
            "variance exploding: the largest σ must drown the picture",
            "its error is not (s/σ)²",
        ),
        *(partial(drowned, 0.0), partial(drowned, 0.05)),
    ),
    _exact(
        *(80, "002:545", "the printed rows (c, d) of ε and v", "they give what they say"),
        *(partial(printed_rows, True), partial(printed_rows, False)),
    ),
    _exact(
        *(81, "002:555", "latent-variable, score and SDE views agree: −ε̂/σ = ∇ ln p_t", "differ"),
        *(partial(same_score, True), partial(same_score, False)),
    ),
)
