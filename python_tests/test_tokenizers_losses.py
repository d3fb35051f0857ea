"""Pixel and perceptual losses of tokenizers, and the weight of an adversary beside them."""

import pytest
import torch

from visgen_fast.models.classifier import Classifier
from visgen_fast.tokenizers.losses import adaptive_weight, perceptual_loss, pixel_loss


@pytest.fixture
def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier(channels=1, classes=3, widths=(4, 8)).requires_grad_(False)


def test_pixel_losses_are_means_over_each_image():
    images = torch.zeros(2, 1, 2, 2)
    reconstruction = torch.tensor([[2.0, 0, 0, 0], [1, -1, 1, -1]]).view(2, 1, 2, 2)
    assert pixel_loss(reconstruction, images, "l1").tolist() == [0.5, 1.0]
    assert pixel_loss(reconstruction, images, "l2").tolist() == [1.0, 1.0]


def test_the_perceptual_loss_is_zero_for_equal_images_and_no_others(network):
    images = torch.rand(3, 1, 8, 8)
    assert perceptual_loss(network, images, images).tolist() == [0, 0, 0]
    other = images.clone()
    other[1] = other[1].flip(-1)
    losses = perceptual_loss(network, other, images)
    assert losses[1] > 0 and losses[0] == losses[2] == 0


def test_the_perceptual_loss_compares_directions_of_features_whatever_their_length(network):
    class Scaled:
        def __init__(self, factor):
            self.factor = factor

        def features(self, images):
            # Without the offset, features that are all zero would have no direction.
            return [self.factor * (level + 0.1) for level in network.features(images)]

    a, b = torch.rand(2, 2, 1, 8, 8)
    loss = perceptual_loss(Scaled(1), a, b)
    torch.testing.assert_close(perceptual_loss(Scaled(7), a, b), loss)
    levels = zip(Scaled(1).features(a), Scaled(1).features(b), strict=True)
    # ‖u − v‖² = 2 − 2·cos for u and v of length 1.
    expected = sum((2 - 2 * torch.cosine_similarity(u, v, dim=1)).mean((1, 2)) for u, v in levels)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_the_perceptual_loss_teaches_the_reconstruction_only(network):
    reconstruction = torch.rand(1, 1, 8, 8, requires_grad=True)
    images = torch.rand(1, 1, 8, 8, requires_grad=True)
    perceptual_loss(network, reconstruction, images).sum().backward()
    assert reconstruction.grad.any() and images.grad is None


def test_the_adaptive_weight_is_the_ratio_of_the_gradients_at_the_last_layer():
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    loss, adversarial = last.square().sum(), 0.5 * last.sum()
    weight = adaptive_weight(loss, adversarial, last)
    assert float(weight) == pytest.approx(10 / (0.5**0.5 + 1e-4), rel=1e-6) and not weight.requires_grad
    # Both graphs are still there, and nothing has been added to the gradient.
    assert last.grad is None
    (loss + weight * adversarial).backward()
    torch.testing.assert_close(last.grad, torch.tensor([6.0, 8.0]) + 0.5 * weight)


def test_the_adaptive_weight_is_clipped_where_the_adversary_has_no_slope():
    last = torch.ones(2, requires_grad=True)
    assert float(adaptive_weight(100 * last.sum(), 0 * last.sum(), last)) == 1e4
