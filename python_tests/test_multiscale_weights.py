"""The family `multiscale`: weights of pixels and of samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from visgen_fast import ops, reference


def picture(*shape, key=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(key))


def test_what_is_masked_influences_nothing(backend, device):
    pred, target = picture(2, 3, 11, 18).to(device), picture(2, 3, 11, 18, key=1).to(device)
    mask = torch.ones(2, 1, 11, 18, device=device)
    mask[:, :, 3:9, 5:14] = 0
    results = []
    for rubbish in (0.0, 1e38, math.inf, math.nan):
        spoiled = torch.where(mask == 0, rubbish, pred).requires_grad_()
        weight = mask.clone().requires_grad_()
        loss = ops.multiscale_loss(spoiled, target, scales=(1, 2, 4), weight=weight)
        results.append([loss.detach(), *torch.autograd.grad(loss, (spoiled, weight))])
        assert all(not grad[(mask == 0).expand_as(grad)].any() for grad in results[-1][1:])
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert torch.equal(actual, expected)


def test_a_masked_sample_influences_nothing(backend, device):
    pred, target = picture(3, 2, 6, 7).to(device), picture(3, 2, 6, 7, key=1).to(device)
    pred[1] = math.nan
    pred.requires_grad_()
    weight = torch.tensor([1.0, 0.0, 2.0], device=device)
    losses = ops.multiscale_loss(pred, target, scales=(1, 2), weight=weight, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), pred)
    alone = ops.multiscale_loss(pred[::2], target[::2], scales=(1, 2), reduction="none")
    torch.testing.assert_close(losses, torch.stack((alone[0], alone.new_zeros(()), 2 * alone[1])))
    assert gradient[1].eq(0).all() and gradient.isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1, 1)])
def test_the_gradient_into_a_samples_weight_is_its_loss(shape, reduction, backend, device):
    """By no definition: what has no weight is not even looked at."""
    pred, target = picture(3, 2, 9, 7).to(device), picture(3, 2, 9, 7, key=1).to(device)
    pred[1] = math.nan
    pred.requires_grad_()
    weight = torch.tensor([0.5, 0.0, -2.0], device=device).view(shape).requires_grad_()
    loss, terms = ops.multiscale_loss(pred, target, scales=(1, 4), weight=weight, reduction=reduction, terms=True)
    of_pred, of_weight = torch.autograd.grad(loss.sum(), (pred, weight))
    losses, bare = ops.multiscale_loss(pred.detach(), target, scales=(1, 4), reduction="none", terms=True)
    share = 3 if reduction == "mean" else 1
    torch.testing.assert_close(of_weight.flatten()[::2], losses[::2] / share)
    torch.testing.assert_close(terms[::2], bare[::2] * weight.detach().view(3, 1)[::2])
    assert of_weight.flatten()[1] == 0 and terms[1].eq(0).all() and of_pred[1].eq(0).all()
    fixed = ops.multiscale_loss(pred, target, scales=(1, 4), weight=weight.detach(), reduction=reduction)
    torch.testing.assert_close(loss, fixed)
    torch.testing.assert_close(of_pred, torch.autograd.grad(fixed.sum(), pred)[0])


def test_weights_of_scales_are_any_numbers_in_a_row(backend, device):
    pred = torch.linspace(-1, 1, 96, device=device).view(2, 3, 4, 4) ** 3
    expected = reference.multiscale_loss(pred, -pred, scales=(1, 2), scale_weights=[1.0, 0.5])
    for numbers in (np.array([1.0, 0.5]), (one for one in (1.0, 0.5))):
        found = ops.multiscale_loss(pred, -pred, scales=iter((1, 2)), scale_weights=numbers)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 0, 4, 4), (2, 2, 4, 0)])
def test_the_mean_of_nothing_is_what_it_is_in_pytorch(shape, reduction, backend, device):
    nothing, options = torch.zeros(shape, device=device), {"scales": (1, 2), "reduction": reduction, "terms": True}
    expected = reference.multiscale_loss(nothing, nothing, **options)
    torch.testing.assert_close(ops.multiscale_loss(nothing, nothing, **options), expected, equal_nan=True)
