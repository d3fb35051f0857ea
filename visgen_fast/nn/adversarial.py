"""The losses of a generator and a discriminator, from the discriminator's logits.

Logits are [B, ...], one or several of an image (of patches), high where it looks real. A loss is one number an image,
[B], the mean over its logits, in float32, or float64 for float64.

| kind | the generator's loss | the discriminator's |
|---|---|---|
| minimax | log(1 − σ(fake)) | −log σ(real) − log(1 − σ(fake)) |
| non_saturating | −log σ(fake) | the same |
| hinge | −fake | max(0, 1 − real) + max(0, 1 + fake) |
| relativistic | −log σ(fake − real) | −log σ(real − fake) |

Where the discriminator is sure of a fake, the minimax generator learns nothing: its gradient is e^fake times that of
the non-saturating one.

Sources: Goodfellow et al., "Generative adversarial nets", 2014, equation 1 and section 3; Lim and Ye, "Geometric GAN",
2017; Jolicoeur-Martineau, "The relativistic discriminator", 2018, and Huang et al., "The GAN is dead; long live the
GAN!", 2024, equation 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["minimax", "non_saturating", "hinge", "relativistic"]


def generator_loss(real: Tensor | None, fake: Tensor, kind: Kind) -> Tensor:
    """The generator's loss for each image, [B].

    real: logits [B, ...] of images; only the relativistic kind reads them, the others take None. fake: logits of what
    was generated, of the same shape. The loss is meant to teach the generator: the discriminator's weights require no
    gradient then.

    ValueError for an unknown kind, and where logits are missing or of different shapes.
    """
    _check(real, fake, kind)
    fake = _wide(fake)
    if kind == "minimax":
        loss = -F.softplus(fake)
    elif kind == "non_saturating":
        loss = F.softplus(-fake)
    elif kind == "hinge":
        loss = -fake
    else:
        assert real is not None
        loss = F.softplus(_wide(real) - fake)
    return _mean(loss)


def discriminator_loss(real: Tensor, fake: Tensor, kind: Kind) -> Tensor:
    """The discriminator's loss for each pair of an image and a generated one, [B].

    real, fake: logits [B, ...] of one shape. What was generated should reach the discriminator without its graph, for
    this loss is not the generator's.

    ValueError for an unknown kind, and where the logits are of different shapes.
    """
    _check(real, fake, kind)
    real, fake = _wide(real), _wide(fake)
    if kind == "hinge":
        return _mean(F.relu(1 - real) + F.relu(1 + fake))
    if kind == "relativistic":
        return _mean(F.softplus(fake - real))
    return _mean(F.softplus(-real) + F.softplus(fake))


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """How steep the verdict is: ‖∂D/∂x‖² at each of `images` [B, ...], [B], D being the mean of the image's logits.

    Of real images it is R1, of generated ones R2; both are weighed γ/2. It is differentiable once more, so every
    operation in the discriminator must have a second derivative. Images are taken without their graph. Where it is
    asked for every n-th step only, it counts n-fold ("lazily": Karras et al., "StyleGAN2", 2020, appendix B).

    Source: Mescheder, Geiger and Nowozin, "Which training methods for GANs do actually converge?", 2018, equation 9.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        verdicts = _mean(discriminator(images))
        (slope,) = torch.autograd.grad(verdicts.sum(), images, create_graph=True)
    return _wide(slope).square().flatten(1).sum(1)


def _check(real: Tensor | None, fake: Tensor, kind: str) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    if real is None and kind == "relativistic":
        raise ValueError("real must be logits for the relativistic kind, got None")
    if real is not None and real.shape != fake.shape:
        raise ValueError(f"real and fake must have one shape, got {list(real.shape)} and {list(fake.shape)}")


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mean(values: Tensor) -> Tensor:
    """[B, ...] to [B]."""
    return values.reshape(len(values), -1).mean(1)
