"""Losses of generators and discriminators: what they teach, and whom; gradient penalties by differentiating twice."""

import math

import pytest
import torch
from torch import nn

from visgen_fast.models.dcgan import DCGANDiscriminator
from visgen_fast.models.discriminator import PatchDiscriminator
from visgen_fast.models.stylegan import StyleDiscriminator
from visgen_fast.nn import discriminator_loss, generator_loss, gradient_penalty

KINDS = ("minimax", "non_saturating", "hinge", "relativistic")


def discriminators():
    torch.manual_seed(0)
    size = {"image_size": (8, 8), "channels": 2, "width": 3}
    return [
        DCGANDiscriminator(**size).double(),
        StyleDiscriminator(**size).double(),
        PatchDiscriminator(channels=2, width=4, layers=1).double(),
    ]


def called(discriminator):
    return (
        discriminator if isinstance(discriminator, PatchDiscriminator) else lambda images: discriminator(images, None)
    )


@pytest.mark.parametrize(
    ("kind", "generator", "discriminator"),
    [
        ("minimax", math.log(1 - 1 / (1 + math.exp(0.5))), math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.5))),
        ("non_saturating", math.log1p(math.exp(0.5)), math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.5))),
        ("hinge", 0.5, 0.5),
        ("relativistic", math.log1p(math.exp(2.5)), math.log1p(math.exp(-2.5))),
    ],
)
def test_the_losses_are_those_of_the_papers(kind, generator, discriminator):
    real, fake = torch.tensor([2.0], dtype=torch.float64), torch.tensor([-0.5], dtype=torch.float64)
    assert float(generator_loss(real, fake, kind)) == pytest.approx(generator, rel=1e-12)
    assert float(discriminator_loss(real, fake, kind)) == pytest.approx(discriminator, rel=1e-12)


@pytest.mark.parametrize("place", range(3))
def test_the_minimax_gradient_is_e_to_the_verdict_of_the_non_saturating_one_sample_by_sample(place):
    verdict = called(discriminators()[place])
    if place == 2:
        whole = verdict
        verdict = lambda images: whole(images).flatten(1).mean(1)  # noqa: E731 the rule is of single logits
    torch.manual_seed(1)
    fakes = torch.randn(6, 2, 8, 8, dtype=torch.float64)
    gradients = {}
    for kind in ("minimax", "non_saturating"):
        shown = fakes.clone().requires_grad_()
        logits = 10 * verdict(shown)
        (gradients[kind],) = torch.autograd.grad(generator_loss(None, logits, kind).sum(), shown)
    ratio = logits.detach().exp()[:, None, None, None]
    assert len(set(ratio.flatten().tolist())) == 6 and gradients["minimax"].any()
    torch.testing.assert_close(gradients["minimax"], ratio * gradients["non_saturating"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_patches_are_means_over_each_image_in_float32_at_least(kind):
    real, fake = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    for loss in (generator_loss, discriminator_loss):
        one_by_one = torch.stack([loss(real[:, 0, i, j], fake[:, 0, i, j], kind) for i in (0, 1) for j in (0, 1)])
        torch.testing.assert_close(loss(real, fake, kind), one_by_one.mean(0))
        assert loss(real.bfloat16(), fake.bfloat16(), kind).dtype == torch.float32
        shifted = loss(real + 5, fake + 5, kind)
        assert torch.allclose(shifted, loss(real, fake, kind)) == (kind == "relativistic")


@pytest.mark.parametrize("kind", KINDS)
def test_each_side_gains_where_the_other_is_deceived_or_not(kind):
    real, fake = torch.tensor([0.3]), torch.tensor([-0.2])
    assert generator_loss(real, fake + 0.1, kind) < generator_loss(real, fake, kind)
    assert discriminator_loss(real, fake + 0.1, kind) > discriminator_loss(real, fake, kind)
    assert discriminator_loss(real + 0.1, fake, kind) < discriminator_loss(real, fake, kind)


def test_a_hinge_discriminator_that_is_right_by_a_margin_pays_nothing():
    assert discriminator_loss(torch.tensor([1.5]), torch.tensor([-1.5]), "hinge").tolist() == [0]


@pytest.mark.parametrize("place", range(3))
def test_r1_and_its_gradient_equal_differentiating_twice(place):
    """The penalty by `torch.func`, whose derivative by every weight is compared with central differences."""
    network = discriminators()[place]
    verdict = called(network)
    torch.manual_seed(2)
    images = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    penalty = gradient_penalty(verdict, images)

    def steepness(image):
        slope = torch.func.grad(lambda x: verdict(x[None]).mean())(image)
        return slope.square().sum()

    torch.testing.assert_close(penalty, torch.stack([steepness(image) for image in images]), rtol=1e-10, atol=0)
    weights = dict(network.named_parameters())
    found = torch.autograd.grad(penalty.sum(), list(weights.values()), allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in found)
    for (name, weight), gradient in zip(weights.items(), found, strict=True):
        direction = torch.randn_like(weight)
        slope = 0.0 if gradient is None else float((gradient * direction).sum())
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * 1e-6 * direction
            ends.append(float(gradient_penalty(verdict, images).detach().sum()))
            with torch.no_grad():
                weight -= sign * 1e-6 * direction
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-5, abs=1e-7 * float(penalty.detach().sum())), (
            name
        )


def test_the_penalty_of_a_quadratic_is_known():
    matrix = torch.randn(4, 4, dtype=torch.float64)
    matrix = (matrix + matrix.T).requires_grad_()
    images = torch.randn(5, 4, dtype=torch.float64)
    penalty = gradient_penalty(lambda x: 0.5 * (x @ matrix * x).sum(1), images)
    torch.testing.assert_close(penalty, (images @ matrix).square().sum(1))
    (gradient,) = torch.autograd.grad(penalty.sum(), matrix)
    product = images.T @ (images @ matrix)
    torch.testing.assert_close(gradient + gradient.T, 2 * (product + product.T))


def test_the_penalty_teaches_the_discriminator_and_not_what_made_the_images():
    images = torch.randn(2, 3, requires_grad=True)
    network = nn.Linear(3, 1)
    with torch.no_grad():
        assert not (value := gradient_penalty(network, images)).requires_grad
    penalty = gradient_penalty(network, 2 * images)
    assert torch.equal(penalty, value)
    penalty.sum().backward()
    assert images.grad is None and network.weight.grad.any()


def test_wrong_arguments_are_refused_in_a_sentence():
    real, fake = torch.zeros(2), torch.zeros(3)
    for loss in (generator_loss, discriminator_loss):
        with pytest.raises(ValueError, match=r"real and fake must have one shape, got \[2\] and \[3\]"):
            loss(real, fake, "hinge")
        with pytest.raises(ValueError, match="kind must be one of minimax, .* got 'wgan'"):
            loss(real, real, "wgan")
    with pytest.raises(ValueError, match="real must be logits for the relativistic kind, got None"):
        generator_loss(None, fake, "relativistic")
