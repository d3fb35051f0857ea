"""A network as an energy, whose gradient is the noise that denoising score matching asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class EnergyModel(nn.Module):
    """E(x_t, t) = ½·‖x_t − h(x_t, t)‖²/σ(t), with h any network of images to images.

    −∇E is the score of x_t, so σ·∇E is the noise in it: `forward` gives that, and is trained, drawn with and guided as
    any network is whose prediction is "epsilon". Training differentiates it again, through the gradient.

    network: h(x_t, t, labels) → [B, …] of the shape of x_t, differentiable twice. sigma: σ of times [B], as of a
    schedule. null_label: the network's, if it has one.

    ValueError for a network that recomputes: its gradient is differentiated again, which PyTorch cannot do then.

    Sources: Salimans and Ho, "Should EBMs model the energy or the score?", 2021; Du et al., "Reduce, reuse, recycle",
    2023, for this form of the energy.
    """

    def __init__(self, network: nn.Module, sigma: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        recompute = next((found for part in network.modules() if (found := getattr(part, "recompute", None))), None)
        if recompute is not None:
            raise ValueError(f"recompute must be None in an energy, which is differentiated twice, got {recompute!r}")
        self.network, self.sigma = network, sigma
        self.null_label = getattr(network, "null_label", None)

    def energy(self, x_t: Tensor, t: Tensor, labels: Any = None) -> Tensor:
        """−ln p(x_t) up to a constant of t and the label, in nats: [B]. x_t: [B, …]; t: times in (0, 1], [B]."""
        # The other kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            rest = x_t - self.network(x_t, t, labels)
        return 0.5 * rest.float().square().flatten(1).sum(1) / self.sigma(t)

    def forward(self, x_t: Tensor, t: Tensor, labels: Any = None) -> Tensor:
        """σ·∇E [B, …], what is noise in x_t, of its type; differentiable in the weights where gradients are asked for.

        Arguments as of `energy`.
        """
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            total = self.energy(x_t, t, labels)
            (slope,) = torch.autograd.grad(total.sum(), x_t, create_graph=training)
        return slope * self.sigma(t).view(-1, *[1] * (x_t.dim() - 1)).to(slope.dtype)

    def log_likelihood(self, *arguments: Any) -> NoReturn:
        """ValueError: the constant is not known."""
        raise ValueError("an energy has no likelihood: it is known up to a constant, so compare energies of images")
