"""The objective of few-step models that learn from trajectories: an identity of the exact flow map, as a regression."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from visgen_fast import ops

from .. import _check as check
from ..nn.conditions import AnyCondition, Null, drop, null_like
from .flow_map import FlowMap, combined, flow, jump, motion, without_gradient
from .predictions import Prediction, as_prediction
from .schedules import Schedule
from .times import TimeSampling, UniformTimes
from .trajectory_rules import PENALTIES, RULES, Span


class Target(NamedTuple):
    """What a prediction should be: c·x + d·z + f·y, with c, d, f float64 [B] and one tensor y that a network made."""

    c: Tensor
    d: Tensor
    f: Tensor
    y: Tensor | None


class _Sample(NamedTuple):
    """A batch at its times, and the levels there, float64 [B]. guidance: each sample's scale, [B], None for 1."""

    x: Tensor
    labels: AnyCondition
    seeds: Tensor
    guidance: Tensor | None
    t: Tensor
    s: Tensor
    alpha: Tensor
    sigma: Tensor
    x_t: Tensor

    def along_path(self, a: Tensor, b: Tensor, f: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """a·x + b·z + f·y."""
        rows = _rows(self.x_t, a, b, f if y is not None else None)
        return ops.add_noise(self.x, rows, self.seeds, endpoint=y, out_dtype=self.x_t.dtype)


class TrajectoryObjective(nn.Module):
    """weight·penalty(F(x_t, t→s) − target), one loss a sample; the target is stopped, and makes a rule's identity true.

    A loss says little of how well a few-step model draws, since its target moves with it: measure what it draws
    (`evaluation.few_steps`). Times, noise and label drop come from a sample's seed.

    Args:
        rule: a name in `RULES`: progressive, shortcut, consistency, consistency_training, scm, mean_flow, lagrangian.
        schedule, prediction: of the student, and of its teacher.
        times: at which it learns; two draws for rules that go from any time to any other.
        teacher: a diffusion model (x, t, labels), or a `FlowMap`, whose path is followed; without one the data's is.
        guidance: scale of classifier-free guidance of the path, which the student then has in it, its labels' null
            among `null_label`; or a range (low, high) of scales, from which one is drawn for each sample and told to
            the student as its argument `guidance`. 1 is none.
        label_drop, null_label: as of `DiffusionObjective`.
        boundary: share of samples with s = t, where every rule is flow matching.
        steps: of the grid, for rules on one: the student's own for progressive, a power of two for shortcut.
        tangent: of rules that differentiate time: along the data's or the teacher's "path", or the direction that the
            student itself has "predicted" (Geng et al., "Improved mean flows", 2025).
        penalty: of a sample's summed square: "square", "pseudo_huber", "adaptive" (MeanFlow's weight) or "normalized"
            (sCM's). All but the first lead to medians rather than means.

    `warmup`, in [0, 1], is the share of the derivative that counts: sCM raises it from 0 in its first steps. It and
    `steps` may be set between optimizer steps.

    Raises:
        ValueError: unknown names; a rule without the teacher that it needs; a teacher of another schedule or
            prediction; guidance without a null label; shares outside [0, 1]; a grid that does not halve.
    """

    def __init__(
        self,
        rule: str,
        schedule: Schedule,
        prediction: Prediction | str,
        times: TimeSampling | None = None,
        *,
        teacher: FlowMap | Callable[..., Tensor] | None = None,
        guidance: float | tuple[float, float] = 1.0,
        label_drop: float = 0.0,
        null_label: Null = None,
        boundary: float = 0.5,
        steps: int | None = None,
        tangent: Literal["path", "predicted"] = "path",
        penalty: str = "square",
    ) -> None:
        super().__init__()
        check.one_of(rule, "rule", tuple(RULES))
        check.one_of(tangent, "tangent", ("path", "predicted"))
        check.one_of(penalty, "penalty", tuple(PENALTIES))
        check.real(boundary, "boundary", 0, 1)
        check.real(label_drop, "label_drop", 0, 1)
        self.name, self.rule, self.schedule, self.prediction = rule, RULES[rule], schedule, as_prediction(prediction)
        self.times = UniformTimes() if times is None else times
        self.teacher = None if teacher is None else self._teacher(teacher)
        self.guidance, self.label_drop, self.null_label = _scales(guidance), label_drop, null_label
        self.boundary, self.tangent, self.penalty, self.warmup = boundary, tangent, penalty, 1.0
        self.steps = self.rule.steps if steps is None else steps
        if self.rule.needs_teacher and teacher is None:
            raise ValueError(f"the rule {rule} needs a teacher")
        if (self.guided or label_drop > 0) and null_label is None:
            raise ValueError(f"null_label must be given for guidance {guidance} and label_drop {label_drop:g}")
        if self.rule.steps:
            check.integer(self.steps, "steps", 1)
        elif steps is not None:
            raise ValueError(f"steps is of rules on a grid, which {rule} is not, got {steps}")
        if rule == "shortcut" and (self.steps < 2 or self.steps & (self.steps - 1)):
            raise ValueError(f"steps must be a power of two, for steps that halve down to the grid's, got {self.steps}")

    @property
    def guided(self) -> bool:
        """Whether the path is guided."""
        return self.guidance != (1.0, 1.0)

    @property
    def tells_guidance(self) -> bool:
        """Whether the student is told the scale."""
        return self.guidance[0] != self.guidance[1]

    def forward(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        labels: AnyCondition,
        seeds: Tensor,
        positions: Tensor | None = None,
        *,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The loss of each sample, float32 [B].

        x, labels, seeds: as of `DiffusionObjective`. model: (x, t, labels, destination) → [B, ...]. average: the same
        for the student's own part in the targets, by default the model itself.
        """
        output, target, sample = self._posed(model, average, x, labels, seeds)
        rows = _rows(sample.x_t, target.c, target.d, target.f, reads=False)
        losses = ops.denoising_loss(output, x, rows, seeds, endpoint=target.y, reduction="none")
        assert isinstance(losses, Tensor)  # without `terms`
        count = x[:1].numel()
        return self._weight(sample).to(losses.dtype) * PENALTIES[self.penalty](losses * count, count)

    def residual(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        labels: AnyCondition,
        seeds: Tensor,
        *,
        average: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Prediction − target [B, ...], unweighted: 0 for the exact map, or of mean 0 where the path is the data's."""
        output, target, sample = self._posed(model, average, x, labels, seeds)
        return output - sample.along_path(*target)

    def span(self, seeds: Tensor, dtype: torch.dtype = torch.float32) -> Span:
        """The times of samples, from their seeds int64 [B]."""
        shares = ops.uniform(seeds, (4,), stream=ops.Purpose.TIME.stream()).unbind(1)
        first, second = (self.times.quantile(share).to(dtype) for share in shares[:2])
        found = self.rule.span(first, second, shares[2].to(dtype), self.steps)
        at_rest = shares[3] <= self.boundary
        # Off the grid, and before any middle.
        t = torch.where(at_rest, first, found.t)
        return Span(t, *(torch.where(at_rest, first, time) for time in found[1:]))

    def _teacher(self, teacher: FlowMap | Callable[..., Tensor]) -> FlowMap:
        if not isinstance(teacher, FlowMap):
            return FlowMap.of_diffusion(teacher, self.schedule, self.prediction)
        for name in ("schedule", "prediction"):
            there, here = getattr(teacher, name), getattr(self, name)
            if there != here:
                raise ValueError(f"teacher must be of the student's {name}, {here}, got {there}")
        return teacher

    def _weight(self, sample: _Sample) -> Tensor:
        """sCM's prior weight 1/tan(angle), else 1."""
        return sample.alpha / sample.sigma if self.name == "scm" else torch.ones_like(sample.alpha)

    def _posed(
        self, model: Any, average: Any, x: Tensor, labels: AnyCondition, seeds: Tensor
    ) -> tuple[Tensor, Target, _Sample]:
        """The student's prediction, what it should be, and at what."""
        dtype = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float32
        shares = ops.uniform(seeds, (2,), stream=ops.Purpose.LABEL_DROP.stream()).unbind(1)
        guidance = None
        if self.guided:
            low, high = self.guidance
            guidance = low + (high - low) * shares[1].double()
        told = {"guidance": guidance.to(dtype)} if guidance is not None and self.tells_guidance else {}
        if self.label_drop > 0:
            dropped = shares[0] <= self.label_drop
            labels = drop(labels, dropped, self.null_label)
            guidance = None if guidance is None else torch.where(dropped, 1.0, guidance)
        student, own = (self._map(network, told) for network in (model, model if average is None else average))
        span = self.span(seeds, dtype)
        t = span.t.double()
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        x_t = ops.add_noise(x, _rows_of(dtype, alpha, sigma), seeds, out_dtype=dtype)
        sample = _Sample(x, labels, seeds, guidance, span.t, span.s, alpha, sigma, x_t)
        if self.rule.hops is not None:
            with without_gradient():
                target = self._of_hops(self.rule.hops, own, sample, span.middle)
            return student.predict(x_t, span.t, span.s, labels), target, sample
        of = self._of_time if self.rule.tangent == "time" else self._of_destination
        return *of(student, own, sample), sample

    def _map(self, network: Callable[..., Tensor], told: dict[str, Tensor]) -> FlowMap:
        return FlowMap(partial(network, **told) if told else network, self.schedule, self.prediction)

    def _guided(self, of: FlowMap, x: Tensor, t: Tensor, s: Tensor, sample: _Sample) -> list[tuple[Tensor, Tensor]]:
        """The terms, weight [B] times tensor, of the teacher's guided prediction."""
        conditional = of.predict(x, t, s, sample.labels)
        if sample.guidance is None:
            return [(torch.ones_like(sample.alpha), conditional)]
        without = of.predict(x, t, s, null_like(sample.labels, self.null_label))
        return [(sample.guidance, conditional), (1 - sample.guidance, without)]

    def _instant(self, own: FlowMap, sample: _Sample) -> Target:
        """The target at s = t: the velocity of the path, guided."""
        c, d = self.prediction.weights(sample.alpha, sample.sigma)
        zero, at = torch.zeros_like(c), (sample.x_t, sample.t, sample.t)
        if self.teacher is not None:
            return Target(zero, zero, zero + 1, _total(self._guided(self.teacher, *at, sample)))
        if sample.guidance is None:
            return Target(c, d, zero, None)
        without = own.predict(*at, null_like(sample.labels, self.null_label))
        return Target(sample.guidance * c, sample.guidance * d, 1 - sample.guidance, without)

    def _of_hops(self, hops: tuple[str, str], own: FlowMap, sample: _Sample, middle: Tensor) -> Target:
        """X(x_t, t→s) is where two hops lead."""
        state = sample.x_t
        for teller, start, end in zip(hops, (sample.t, middle), (middle, sample.s), strict=True):
            state = self._hop(teller, own, sample, state, start, end)
        p, q = jump(self.schedule, self.prediction, sample.t, sample.s)
        safe = torch.where(q == 0, 1.0, q)
        target = Target(-p * sample.alpha / safe, -p * sample.sigma / safe, 1 / safe, state)
        return self._with_instant(target, own, sample) if self.boundary > 0 else target

    def _hop(self, teller: str, own: FlowMap, sample: _Sample, state: Tensor, start: Tensor, end: Tensor) -> Tensor:
        if teller == "data":
            return sample.along_path(self.schedule.alpha(end.double()), self.schedule.sigma(end.double()))
        if teller == "student":
            return own(state, start, end, sample.labels)
        assert self.teacher is not None
        p, q = jump(self.schedule, self.prediction, start, end)
        terms = self._guided(self.teacher, state, start, end, sample)
        return combined((p, state), *((q * weight, output) for weight, output in terms))

    def _with_instant(self, target: Target, own: FlowMap, sample: _Sample) -> Target:
        """The target, or that of s = t where it is so."""
        instant, at_rest = self._instant(own, sample), sample.s == sample.t
        c, d, f = (torch.where(at_rest, *both) for both in zip(instant[:3], target[:3], strict=True))
        y = target.y
        if instant.y is not None and y is not None:
            y = torch.where(at_rest.view(-1, *[1] * (y.dim() - 1)), instant.y.to(y.dtype), y)
        return Target(c, d, f, y)

    def _of_time(self, student: FlowMap, own: FlowMap, sample: _Sample) -> tuple[Tensor, Target]:
        """dX/dt = P'·x_t + P·dx_t/dt + Q'·F + Q·dF/dt is 0 along the path."""
        a, b = flow(self.schedule, self.prediction, sample.t)
        with without_gradient():
            instant = self._instant(own, sample)
            if self.tangent == "predicted":
                at_once = own.predict(sample.x_t, sample.t, sample.t, sample.labels)
                moving = combined((a, sample.x_t), (b, at_once))
            else:
                by_path = a * sample.alpha + b * instant.c, a * sample.sigma + b * instant.d
                moving = sample.along_path(*by_path, b * instant.f, instant.y)
        one, zero = torch.ones_like(sample.t), torch.zeros_like(sample.t)
        at = sample.x_t, sample.t, sample.s, sample.labels
        output, rate = student.derivative(*at, tangents=(moving, one, zero))
        with without_gradient():
            ends = sample.t.double(), sample.s.double()
            (p, q), (of_p, of_q) = _varied(lambda t: jump(self.schedule, self.prediction, t, ends[1]), ends[0])
            gain = -1 / of_q
            if self.rule.damped:
                turning = motion(self.schedule, sample.t)
                gain = -of_q / (turning[1] * sample.alpha - turning[0] * sample.sigma).square()
            of_x_t = gain * (self.warmup * of_p + p * a)
            c, d = (
                of_x_t * level + gain * p * b * own_part
                for level, own_part in ((sample.alpha, instant.c), (sample.sigma, instant.d))
            )
            terms = [(1 + gain * of_q, output.detach()), (gain * self.warmup * q, rate)]
            if instant.y is not None:
                terms.append((gain * p * b * instant.f, instant.y))
            return output, Target(c, d, torch.ones_like(c), combined(*terms))

    def _of_destination(self, student: FlowMap, own: FlowMap, sample: _Sample) -> tuple[Tensor, Target]:
        """∂X/∂s = P_s·x_t + Q_s·F + Q·∂F/∂s is the velocity at X."""
        still = torch.zeros_like(sample.x_t), torch.zeros_like(sample.t), torch.ones_like(sample.s)
        at = sample.x_t, sample.t, sample.s, sample.labels
        output, rate = student.derivative(*at, tangents=still)
        with without_gradient():
            ends = sample.t.double(), sample.s.double()
            (p, q), (of_p, of_q) = _varied(lambda s: jump(self.schedule, self.prediction, ends[0], s), ends[1])
            there = combined((p, sample.x_t), (q, output.detach()))
            if self.teacher is None:
                arriving = own.predict(there, sample.s, sample.s, sample.labels)
            else:
                arriving = _total(self._guided(self.teacher, there, sample.s, sample.s, sample))
            a, b = flow(self.schedule, self.prediction, sample.s)
            of_x_t = (a * p - of_p) / of_q
            y = combined(
                (1 + (a * q - of_q) / of_q, output.detach()), (-self.warmup * q / of_q, rate), (b / of_q, arriving)
            )
            target = Target(of_x_t * sample.alpha, of_x_t * sample.sigma, torch.ones_like(a), y)
            if self.teacher is None and self.boundary > 0:
                target = self._with_instant(target, own, sample)
            return output, target


def _scales(guidance: Any) -> tuple[float, float]:
    low, high = guidance if isinstance(guidance, tuple) else (guidance, guidance)
    for value in (low, high):
        check.number(value, "guidance")
    if low > high:
        raise ValueError(f"guidance must be a number or a range (low, high), got {guidance}")
    return float(low), float(high)


def _varied(of: Callable[[Tensor], Any], at: Tensor) -> tuple[Any, Any]:
    """The values of a function of times, and their rates."""
    found: Any = torch.func.jvp(of, (at,), (torch.ones_like(at),))
    return found


def _total(terms: list[tuple[Tensor, Tensor]]) -> Tensor:
    return terms[0][1] if len(terms) == 1 else combined(*terms)


def _rows(x: Tensor, c: Tensor, d: Tensor, f: Tensor | None, *, reads: bool = True) -> Tensor:
    """Coefficients of what is read, a·x + b·z + e·y, or of a target, for operations in the precision of x."""
    zero = torch.zeros_like(c)
    first = [c, d, zero, zero] if reads else [zero, zero, c, d]
    last = [] if f is None else [f, zero] if reads else [zero, f]
    return torch.stack((*first, *last), -1).to(torch.promote_types(x.dtype, torch.float32))


def _rows_of(dtype: torch.dtype, alpha: Tensor, sigma: Tensor) -> Tensor:
    return _rows(torch.empty(0, dtype=dtype), alpha, sigma, None)
