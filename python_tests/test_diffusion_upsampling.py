"""Upsample guidance: the published formula, for every kind of prediction."""

from __future__ import annotations

import math

import pytest
import torch
from guided import KINDS, LABELS, STEPS, as_images, began, combined, images, network, summed
from torch import Tensor
from torch.nn import functional as F

from visgen_fast.diffusion import (
    ClassifierFree,
    CosineVP,
    Projected,
    Unguided,
    Upsample,
    convert,
    plan,
    sample,
)


@pytest.mark.parametrize("row", range(4))
def test_upsample_guidance_is_the_published_formula_for_noise(row: int) -> None:
    """Hwang et al., 2024: ε + w·U[ε(D[x_t]/√P, τ)/m − D[ε]], P = ᾱ + (1 − ᾱ)/m², SNR(τ) = m²·SNR(t)."""
    steps, w, m, x = plan("ddim", CosineVP(), "epsilon", times=[0.9, 0.7, 0.5, 0.3, 0.1]), 0.7, 2, images(row)
    alpha, sigma = steps.ends[row].alpha, steps.ends[row].sigma
    tau = steps.schedule.time(torch.tensor(2 * math.log(m * alpha / sigma), dtype=torch.float64))
    small = F.avg_pool2d(x, m) / math.sqrt(alpha**2 + sigma**2 / m**2)
    whole, part = network(x, steps.times[row].expand(2), LABELS), network(small, tau.expand(2), LABELS)
    expected = whole + w * F.interpolate(part / m - F.avg_pool2d(whole, m), scale_factor=m, mode="nearest")
    torch.testing.assert_close(combined(Upsample(w, m), network, x, LABELS, row, steps), expected)


@pytest.mark.parametrize(("schedule", "kind"), KINDS)
@pytest.mark.parametrize("inner", [Unguided(), ClassifierFree(3.0, 10), Projected(3.0, 10, limit=1.0)])
def test_upsample_guidance_at_scale_one_has_the_small_image_s_means(schedule, kind, inner) -> None:
    """Of a network whose every denoised image is 0.3: the large image's means become that of the small one."""
    steps = plan("heun", schedule, kind, times=[0.9, 0.5, 0.2])

    def constant(read: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t)[0], schedule.sigma(t)[0]
        scale = 1 if steps.prediction.input_scale is None else steps.prediction.input_scale(alpha, sigma)
        large = torch.rand(read.shape, dtype=read.dtype, generator=torch.Generator().manual_seed(0))
        image = torch.full_like(read, 0.3) if read.shape[-1] == 2 else large
        return convert(image, read / scale, alpha, sigma, "x", kind)

    guiding = began(Upsample(1.0, 2, inner), constant, LABELS, 2, steps)
    for row in range(steps.calls):
        x = images(row)
        found = as_images(summed(guiding.evaluate(x, steps.times[row].expand(len(x)), row), row), x, row, steps)
        torch.testing.assert_close(F.avg_pool2d(found, 2), torch.full_like(found[..., ::2, ::2], 0.3))
        assert found.std() > 0.1


def test_upsample_guidance_outside_its_interval_calls_no_small_network() -> None:
    sizes: list[int] = []

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        sizes.append(x_t.shape[-1])
        return x_t

    sample(model, STEPS, (1, 4, 4), LABELS, LABELS, guidance=Upsample(0.5, 2, interval=(0.4, 1.0)))
    assert sizes == [4, 2, 4, 2, 4, 2, 4]
