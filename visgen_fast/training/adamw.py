"""AdamW whose step clips the gradients and moves the average of the weights, all in one pass over each tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .. import ops


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of those that have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def local(tensor: Tensor) -> Tensor:
    """This rank's share of a sharded tensor, in the same memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class AdamW(torch.optim.AdamW):
    """torch's, with its state, whose step is `ops.adamw_`; of sharded parameters each rank moves its own share.

    `gradient_scale` multiplies the gradients of a step, and `average_decay` is that of `averages`, parameter → average,
    which follow the parameters that have a gradient. Both are set before each step.
    """

    _step_supports_amp_scaling = False  # a loss scaler that sees an overflow does not call `step`

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        averages: Mapping[Tensor, Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.averages = averages
        self.average_decay = 0.0
        self.gradient_scale: float | Tensor = 1.0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; returns what `closure` does, which is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for (count, averaged), alike in self._alike(group["params"]).items():
                parameters = [parameter for parameter in alike if local(parameter).numel()]
                if not parameters:
                    continue
                states = [self.state[parameter] for parameter in parameters]
                ops.adamw_(
                    [local(parameter) for parameter in parameters],
                    [local(gradient) for gradient in gradients_of(parameters)],
                    [local(state["exp_avg"]) for state in states],
                    [local(state["exp_avg_sq"]) for state in states],
                    averages=[local(self.averages[parameter]) for parameter in parameters] if averaged else None,
                    learning_rate=group["lr"],
                    betas=group["betas"],
                    eps=group["eps"],
                    weight_decay=group["weight_decay"],
                    step=count,
                    average_decay=self.average_decay,
                    gradient_scale=self.gradient_scale,
                )
        return loss

    def _alike(self, parameters: list[Tensor]) -> dict[tuple[float, bool], list[Tensor]]:
        """The parameters that have a gradient, by the number of their steps and whether they have an average."""
        moving = [parameter for parameter in parameters if parameter.grad is not None]
        for parameter in moving:
            if not self.state[parameter]:
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter].update({"step": torch.zeros(()), **moments})
        if moving:
            torch._foreach_add_([self.state[parameter]["step"] for parameter in moving], 1)
        groups: dict[tuple[float, bool], list[Tensor]] = {}
        for parameter in moving:
            groups.setdefault((self.state[parameter]["step"].item(), parameter in self.averages), []).append(parameter)
        return groups
