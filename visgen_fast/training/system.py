"""What the loop trains: one or several networks with the loss that teaches them and the way to draw with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data.images import Images
from ..data.order import Batch


class System(nn.Module, ABC):
    """Networks, as sub-modules, with their loss. The loop knows nothing else about what it trains.

    The module holds everything that has weights, so that data-parallel wrapping, the moving average and checkpoints
    treat one network and several alike. A frozen network is one whose parameters need no gradient.

    figure: the name of the run's figure; metric_names: of what `metrics` measures while the system trains.
    """

    figure: str = "samples"
    metric_names: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of every image of the batch, [B]."""

    @abstractmethod
    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """The run's figure: rows of images [rows, columns, C, H, W] in [−1, 1], and the rows' names.

        `images` were held out from training where the recipe holds some out.
        """

    @property
    def per_micro_batch(self) -> tuple[str, ...]:
        """What training draws for, or takes over, a rank's micro-batch: it depends on which images share that.

        All else that a step does is the same whatever the number of ranks and of accumulated micro-batches.
        """
        drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.modules() if module.training)
        return ("dropout",) if drops else ()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters to train, as groups for the optimizer; each group's gradient is clipped on its own.

        Besides the optimizer's own options a group may have a `lr_scale` on the learning rate and a `beta1` of its
        own.
        """
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def before_step(self, step: int) -> None:
        """Called before the micro-batches of optimizer step `step` (0 is the first)."""

    def after_step(self) -> None:
        """Called when the optimizer has stepped: for what learns otherwise than by gradients."""

    def metrics(self) -> dict[str, Tensor]:
        """The scalars `metric_names`, over this rank's images since the last call."""
        return {}

    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """What a finished run is worth, measured on images that were held out."""
        return {}
