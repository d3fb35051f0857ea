"""What is trained when a few-step model is, by the distribution of what it draws: against a critic, or heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..data.images import to_range
from ..data.order import Batch
from ..diffusion.flow_map import combined
from ..diffusion.matching import (
    Matching,
    critic_loss,
    distillation_loss,
    matching_direction,
    matching_loss,
    own_states,
)
from ..diffusion.predictions import to_x
from ..models.classifier import Classifier
from ..models.dit import DiT
from ..models.feature_heads import FeatureHeads
from ..nn.adversarial import discriminator_loss, generator_loss, gradient_penalty
from ..training.system import Player
from .student import StudentSystem, Teacher, null_label_of

_EARLIEST, _LATEST = 0.02, 0.98  # times at which a sample is looked at again
_PLACES = ops.Purpose.TIME.stream(1)
_AGAIN = ops.Purpose.NOISE.stream(1)


class _Noised(NamedTuple):
    """Samples noised again; alpha, sigma: float64 [B]."""

    x_t: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor


class DrawingStudent(StudentSystem):
    """A student that is judged by what it draws, in turns with who judges it.

    It draws as it will: to the image from a state that its own earlier steps made, one of `drawing.steps`. All is by
    the batch's seeds; of its images, most need the labels alone. scale: of the teacher's guidance.
    """

    def __init__(self, model: DiT, shape: tuple[int, ...], drawing: Any, teacher: Teacher, scale: float) -> None:
        super().__init__(model, teacher.schedule, teacher.prediction, shape, drawing, teacher)
        self.scale, self._of_teacher = scale, teacher.model

    def _drawn(self, batch: Batch) -> Tensor:
        steps = self.drawing.steps
        times = torch.linspace(1, 0, steps + 1, device=batch.seeds.device)[:-1]
        share = ops.uniform(batch.seeds, (1,), stream=_PLACES).squeeze(1)
        place = (share * steps).ceil().long() - 1
        student = self.flow_map()
        state = own_states(student, batch.seeds, self.shape, batch.labels, times, place)
        return student(state, times[place], torch.zeros_like(share), batch.labels)

    def _noised(self, x: Tensor, seeds: Tensor) -> _Noised:
        share = ops.uniform(seeds, (2,), stream=_PLACES)[:, 1]
        t = _EARLIEST + (_LATEST - _EARLIEST) * share
        alpha, sigma = (level(t.double()) for level in (self.schedule.alpha, self.schedule.sigma))
        noise = ops.gaussian(seeds, x.shape[1:], stream=_AGAIN)
        return _Noised(combined((alpha, x), (sigma, noise)), t, alpha, sigma)

    def _image(self, output: Tensor, at: _Noised) -> Tensor:
        return to_x(output, at.x_t, at.alpha, at.sigma, self.prediction)

    def _read(self, at: _Noised) -> Tensor:
        """What networks read in the place of x_t."""
        return self.prediction.scale_input(at.x_t, at.alpha, at.sigma)

    @torch.no_grad()
    def _teachers_image(self, at: _Noised, labels: Tensor) -> Tensor:
        output = self._of_teacher(self._read(at), at.t, labels)
        if self.scale != 1:
            without = self._of_teacher(self._read(at), at.t, torch.full_like(labels, null_label_of(self.model)))
            output = torch.lerp(without, output, self.scale)
        return self._image(output, at)


class MatchingStudent(DrawingStudent):
    """A student, and a critic that learns the student's distribution in every step, the student in every `every`-th."""

    def __init__(self, critic: nn.Module, *arguments: Any, kind: Matching, every: int) -> None:
        super().__init__(*arguments)
        self.critic, self.kind, self.every = critic, kind, every

    def players(self) -> Sequence[Player]:
        return (
            Player("critic", list(self.critic.parameters()), self.forward),
            Player("student", list(self.model.parameters()), self.match, every=self.every),
        )

    def forward(self, batch: Batch) -> Tensor:
        """The critic's loss of every image, [B], in the units of its own prediction."""
        with torch.no_grad():
            x = self._drawn(batch)
            at = self._noised(x, batch.seeds)
            teacher = self._teachers_image(at, batch.labels) if self.kind == "moment_matching" else None
        c, d = self.prediction.weights(at.alpha, at.sigma)
        weight = ((at.alpha * d - at.sigma * c) / at.sigma).square().to(x.dtype)
        return critic_loss(self.kind, x, teacher, self._critics_image(at, batch.labels), weight)

    def match(self, batch: Batch) -> Tensor:
        """The student's loss of every image, [B]."""
        x = self._drawn(batch)
        with torch.no_grad():
            at = self._noised(x.detach(), batch.seeds)
            views = self._teachers_image(at, batch.labels), self._critics_image(at, batch.labels)
        return matching_loss(x, matching_direction(self.kind, x, *views))

    def _critics_image(self, at: _Noised, labels: Tensor) -> Tensor:
        return self._image(self.critic(self._read(at), at.t, labels), at)


class AdversarialStudent(DrawingStudent):
    """A student, and heads on frozen features that tell what it draws from images (Sauer et al., 2023, 2024).

    features: the classifier of which the features are judged (ADD); without one they are those of the teacher's blocks,
    of images noised again (LADD). distillation: weight of the distance to the teacher's image; r1: γ of the gradient
    penalty of real images.
    """

    def __init__(
        self,
        heads: FeatureHeads,
        features: Classifier | None,
        *arguments: Any,
        distillation: float = 0.0,
        r1: float = 0.0,
    ) -> None:
        super().__init__(*arguments)
        self.heads, self.distillation, self.r1 = heads, distillation, r1
        if features is not None:
            self.features, self.frozen = features, (*self.frozen, "features")

    def players(self) -> Sequence[Player]:
        return (
            Player("heads", list(self.heads.parameters()), self.forward, beta1=0.5),
            Player("student", list(self.model.parameters()), self.deceive),
        )

    def forward(self, batch: Batch) -> Tensor:
        """The heads' loss of every image, [B]."""
        with torch.no_grad():
            fakes = self._drawn(batch)
        images, verdict = to_range(batch.images), self._verdict(batch)
        loss = discriminator_loss(verdict(images), verdict(fakes), "hinge")
        if self.r1 > 0:
            loss = loss + self.r1 / 2 * gradient_penalty(verdict, images)
        return loss

    def deceive(self, batch: Batch) -> Tensor:
        """The student's loss of every image, [B]."""
        x = self._drawn(batch)
        loss = generator_loss(None, self._verdict(batch)(x), "hinge")
        if self.distillation > 0:
            at = self._noised(x.detach(), batch.seeds)
            teacher = self._teachers_image(at, batch.labels)
            loss = loss + self.distillation * distillation_loss(x, teacher, at.alpha.to(x.dtype))
        return loss

    def _verdict(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Logits of images [B, places]."""

        def verdict(images: Tensor) -> Tensor:
            if "features" in self.frozen:
                return self.heads(self.features.features(images), batch.labels)
            assert isinstance(self.teacher, DiT)
            at = self._noised(images, batch.seeds)
            return self.heads(self.teacher.features(self._read(at), at.t, batch.labels), batch.labels)

        return verdict
