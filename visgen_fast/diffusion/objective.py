"""The training objective of every diffusion and flow model: regress the target of a noised image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from visgen_fast import ops

from ..nn.conditions import AnyCondition, Null
from .guidance import drop_labels
from .predictions import SMALLEST_LEVEL, Prediction, as_prediction, coefficients, is_singular, log_error
from .schedules import Schedule, check_schedule, inside
from .times import TimeSampling, check_times
from .weights import Weight, check_weight

_MOST_LOG_WEIGHT = 80.0  # e⁸⁰ is a float32
_MOST_LOG_SNR = -2 * math.log(SMALLEST_LEVEL)


class DiffusionObjective(nn.Module):
    """weight·E‖model(x_t, t, label) − target‖², x_t = α·x + σ·ε, one loss per sample (Ho et al., 2020, equation 14).

    Time, noise and label drop come from the sample's seed, hence do not change with the batch around it. Schedule,
    times and weight that learn are sub-modules.

    Args:
        schedule, prediction, times: what the image becomes, what the network says of it, and when.
        label_drop: how often a label becomes `null_label`, in [0, 1]; what classifier-free guidance needs (0.1 is
            usual).
        weight: how much each level counts; without one the error counts as it is, in the space of `loss`.
        loss: the prediction whose error counts; by default the network's own. "x" with loss "velocity" is JiT (Li and
            He, "Back to basics: let denoising generative models denoise", 2025).
        smallest_time: times below it are weighed as it is: JiT's floor of 0.05 under t.
        scales, scale_weights, penalty, penalty_scale: as of `ops.denoising_loss`: the loss of averages over squares of
            pixels, and another penalty of the error than its square.
        conditioning: what the network is told, "time" or "log_snr", λ; with a learned or shifted schedule only λ keeps
            its meaning.

    Raises:
        ValueError: a prediction that says nothing where the schedule leaves nothing of the image, as ε at a signal of
            exactly 0; pseudo-Huber in another space than the network's; a label_drop outside [0, 1] or without its
            null_label; a smallest_time outside [0, 1); unknown names; a part that is none; what `ops.multiscale_loss`
            does not take.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: Prediction | str,
        times: TimeSampling,
        label_drop: float = 0.0,
        null_label: Null = None,
        *,
        weight: Weight | None = None,
        loss: Prediction | str | None = None,
        smallest_time: float = 0.0,
        scales: Sequence[int] = (1,),
        scale_weights: str | Sequence[float] = "mean",
        penalty: str = "l2",
        penalty_scale: float = 1.0,
        conditioning: Literal["time", "log_snr"] = "time",
    ) -> None:
        super().__init__()
        check_schedule(schedule)
        check_times(times)
        if weight is not None:
            check_weight(weight)
        self.prediction = as_prediction(prediction)
        self.loss = self.prediction if loss is None else as_prediction(loss)
        if not 0 <= label_drop <= 1:
            raise ValueError(f"label_drop must lie in [0, 1], got {label_drop}")
        if label_drop > 0 and null_label is None:
            raise ValueError(f"null_label must be given where label_drop is above 0, got label_drop {label_drop}")
        if not 0 <= smallest_time < 1:
            raise ValueError(f"smallest_time must lie in [0, 1), got {smallest_time}")
        if conditioning not in ("time", "log_snr"):
            raise ValueError(f"conditioning must be time or log_snr, got {conditioning!r}")
        if penalty == "pseudo_huber" and self.loss != self.prediction:
            raise ValueError(
                f"penalty pseudo_huber must be of the network's own error, in {self.prediction.name}: in "
                f"{self.loss.name} its scale would differ from level to level"
            )
        of_errors: dict[str, Any] = {"scales": scales, "scale_weights": scale_weights}
        of_errors |= {"penalty": penalty, "penalty_scale": penalty_scale}
        nothing = torch.zeros(0, 1, 1, 1, device="cpu")
        ops.multiscale_loss(nothing, nothing, **of_errors)  # which says what is wrong with them
        if is_singular(schedule, self.prediction):
            raise ValueError(
                f"prediction {self.prediction.name!r} says nothing of the image at t = 1, where {schedule} leaves none "
                "of it: expected 'x', 'v' or 'velocity'"
            )
        self.schedule, self.times, self.weight = schedule, times, weight
        self.label_drop, self.null_label, self.smallest_time = label_drop, null_label, smallest_time
        self.scales, self.scale_weights = scales, scale_weights
        self.penalty, self.penalty_scale, self.conditioning = penalty, penalty_scale, conditioning

    def forward(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        labels: AnyCondition,
        seeds: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """The loss of each sample, float32 [B].

        x: images [B, ...] in [−1, 1], or uint8 pixels; labels: int64 [B], or any condition (`nn.conditions`);
        seeds: int64 [B]; model(x_t [B, ...], t or λ [B], labels) → [B, ...]. positions: the samples' places in the run,
        int64 [B], for times that go by them.
        """
        if self.null_label is not None:
            labels = drop_labels(labels, seeds, self.label_drop, self.null_label)
        t = self.times(seeds, positions)
        losses = self.losses_at(model, x, labels, seeds, t)
        correction = self.times.correction(t)
        if self.training:
            self.times.observe(t, losses if correction is None else losses / correction)
        offset = None if self.weight is None else self.weight.offset(self._level(t))
        if offset is None:
            return losses
        return losses + (offset if correction is None else offset * correction)

    def losses_at(
        self, model: Callable[..., Tensor], x: Tensor, labels: AnyCondition, seeds: Tensor, t: Tensor
    ) -> Tensor:
        """The loss of each sample at times t [B], float32 [B]; all else as of `forward`.

        For clips [B, C, T, …] t may be [B, T], a time for each frame, and this is what the model is told then. No label
        is dropped, and the offset of a weight that learns is left out.
        """
        rows, weight = coefficients(self.schedule, self.prediction, t), self._weight(t)
        if t.dim() == 2:  # of frames
            later = [1] * (x.dim() - 3)
            rows = rows.view(len(t), 1, -1, *later, 4)
            weight = None if weight is None else weight.view(len(t), 1, -1, *later)
        output = self.network(model)(ops.add_noise(x, rows, seeds), t, labels)
        losses = ops.denoising_loss(
            output,
            x,
            rows,
            seeds,
            scales=self.scales,
            scale_weights=self.scale_weights,
            weight=weight,
            penalty=self.penalty,
            penalty_scale=self.penalty_scale,
            reduction="none",
        )
        assert isinstance(losses, Tensor)  # without `terms`
        return losses

    def network(self, model: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """model as a function of (x_t, t, labels), as sampling and likelihood call it, whatever it is told."""
        if self.conditioning == "time":
            return model
        return lambda x_t, t, labels: model(x_t, self.schedule.log_snr(t), labels)

    def after_step(self) -> None:
        """For times that adapt: call it after every optimizer step, on every rank."""
        self.times.after_step()

    def sample_weights(self, t: Tensor) -> Tensor:
        """What multiplies the squared error, or its other penalty, of the network's output at times t [...]."""
        weight = self._weight(t)
        return torch.ones_like(t) if weight is None else weight

    def _weight(self, t: Tensor) -> Tensor | None:
        """`sample_weights`, or None where all are 1."""
        correction = self.times.correction(t)
        if self.weight is None and self.loss == self.prediction:
            return correction
        late = t.clamp_min(self.smallest_time)
        alpha, sigma = self.schedule.alpha(late), self.schedule.sigma(late)
        of_loss, of_output = (log_error(kind, alpha, sigma) for kind in (self.loss, self.prediction))
        log = self._power * (of_loss - of_output)
        if self.weight is not None:
            log = log + self.weight.log(self._level(late)) - 2 * of_loss
            if self.weight.divides:
                log = log - self._meant_density(late).clamp_min(torch.finfo(t.dtype).tiny).log()
        weight = log.clamp_max(_MOST_LOG_WEIGHT).exp()
        return weight if correction is None else weight * correction

    @property
    def _power(self) -> int:
        """Of the error, that the penalty is."""
        return 1 if self.penalty == "l1" else 2

    def _level(self, t: Tensor) -> Tensor:
        """λ for the weights: within what `log_error` tells apart."""
        return self.schedule.log_snr(t).clamp(-_MOST_LOG_SNR, _MOST_LOG_SNR)

    def _density(self, t: Tensor) -> Tensor:
        """p(λ) at times t; next to an end, where it may be 0, for times that are rounded to it."""
        t = inside(t)
        return self.times.density(t) / -self.schedule.slope(t)

    def _meant_density(self, t: Tensor) -> Tensor:
        """p(λ) at times t, as it would be without adaptive times."""
        density, correction = self._density(t), self.times.correction(t)
        return density if correction is None else density * correction

    @torch.no_grad()
    def level_density(self, log_snr: Tensor) -> Tensor:
        """p(λ): how often levels near λ are drawn; 0 beyond the schedule's ends."""
        t = self.schedule.time(log_snr).clamp(0, 1)
        low, high = self.ends()
        return torch.where((log_snr >= low) & (log_snr <= high), self._density(t), 0)

    @torch.no_grad()
    def implied_weight(self, log_snr: Tensor) -> Tensor:
        """w(λ), by which objectives can be compared, up to a factor: training minimizes ∫ w(λ)·E‖ε − ε̂‖² dλ.

        It is p(λ)·`sample_weights`, converted to ε; for an l1 penalty the power of the error is 1, and pseudo-Huber
        counts as its square. Kingma and Gao, "Understanding diffusion objectives as the ELBO", 2023, section 3.
        """
        t = self.schedule.time(log_snr).clamp(0, 1)
        of_output = log_error(self.prediction, self.schedule.alpha(t), self.schedule.sigma(t))
        return self.level_density(log_snr) * self.sample_weights(t) * (self._power * of_output).exp()

    @torch.no_grad()
    def is_monotone(self) -> bool:
        """Whether w(λ) never rises with λ, where the schedule is within [−20, 20], or between its ends.

        A rise by less than a hundredth is none: at the entries of a table w jumps a little.

        Then training maximizes likelihood: the objective is the variational bound of data with Gaussian noise added, of
        a mixture of strengths (Kingma and Gao, 2023, theorem 1).
        """
        low, high = self.ends()
        if low < 20 and high > -20:
            low, high = max(low, -20.0), min(high, 20.0)
        even = torch.linspace(0, 1, 401, dtype=torch.float64)[1:-1]
        drawn = self.schedule.log_snr(self.times.quantile(even))  # among which no peak is too narrow to be seen
        grid = torch.cat((low + (high - low) * even, drawn[(drawn > low) & (drawn < high)])).sort().values
        weights = self.implied_weight(grid)
        return bool((weights[1:] <= 1.01 * weights.cummin(0).values[:-1]).all())

    def ends(self) -> tuple[float, float]:
        """λ(1) and λ(0)."""
        high, low = self.schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")).tolist()
        return low, high
