"""The networks of DCGAN and StyleGAN: shapes, seeds, styles, and images that don't depend on those beside them."""

import pytest
import torch

from visgen_fast import ops
from visgen_fast.models import DCGANDiscriminator, DCGANGenerator, StyleDiscriminator, StyleGenerator
from visgen_fast.models.layers.resolutions import resolutions

NETWORKS = {"dcgan": (DCGANGenerator, DCGANDiscriminator), "stylegan": (StyleGenerator, StyleDiscriminator)}
SEEDS = ops.derive_seeds(0, torch.arange(6))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def style_generator(**options):
    torch.manual_seed(0)
    sizes = {"image_size": (8, 16), "channels": 2, "latents": 8, "width": 4, "depth": 2, **options}
    generator = StyleGenerator(**sizes).eval()
    with torch.no_grad():  # noise is worth nothing before training
        for layer in generator.layers:
            layer.strength.fill_(0.3)
    return generator


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (24, 40)])
def test_an_image_and_the_verdict_on_it_depend_on_none_beside_it(name, classes, size):
    torch.manual_seed(0)
    make, judge = NETWORKS[name]
    generator = make(image_size=size, channels=3, latents=6, width=3, classes=classes).eval()
    discriminator = judge(image_size=size, channels=3, width=3, classes=classes)
    labels = LABELS if classes else None
    with torch.no_grad():
        z = generator.draw(SEEDS)
        images = generator(z, labels, SEEDS)
        verdicts = discriminator(images, labels)
        assert images.shape == (6, 3, *size) and verdicts.shape == (6,)
        assert len({image.sum().item() for image in images}) == 6
        for place in range(6):
            told = None if labels is None else labels[place : place + 1]
            alone = generator(z[place : place + 1], told, SEEDS[place : place + 1])
            torch.testing.assert_close(alone[0], images[place], atol=1e-4, rtol=1e-4)
            verdict = discriminator(images[place : place + 1], told)[0]
            torch.testing.assert_close(verdict, verdicts[place], atol=1e-4, rtol=1e-4)
        if classes:
            other = (labels + 1) % 3
            assert not torch.allclose(generator(z, other, SEEDS), images)
            assert not torch.allclose(discriminator(images, other), verdicts)


def test_latents_are_normal_numbers_of_the_image_s_seed():
    seeds = ops.derive_seeds(1, torch.arange(2000))
    generator = style_generator()
    z, other = generator.draw(seeds), generator.draw(seeds, 1)
    assert abs(float(z.mean())) < 0.03 and abs(float(z.std()) - 1) < 0.03
    assert abs(float((z * other).mean())) < 0.03
    assert torch.equal(generator.draw(seeds[7:9]), z[7:9])


@pytest.mark.parametrize(("size", "expected"), [((8, 8), [4, 8]), ((28, 28), [7, 14, 28]), ((64, 32), [8, 16, 32, 64])])
def test_an_image_is_halved_as_long_as_it_can_be(size, expected):
    found = resolutions(size)
    assert [height for height, _ in found] == expected and found[-1] == size


@pytest.mark.parametrize("size", [(9, 9), (6, 6), (4, 8)])
def test_images_that_cannot_be_halved_are_refused(size):
    for network in (*NETWORKS["dcgan"], *NETWORKS["stylegan"]):
        with pytest.raises(ValueError, match="the images' sides must be divisible by 2, and at least 8, got"):
            network(image_size=size, channels=1)
        with pytest.raises(ValueError, match="width must be at least 1, got 0"):
            network(image_size=(8, 8), channels=1, width=0)


def test_styles_do_not_depend_on_the_length_of_a_latent_vector_and_images_on_noise():
    generator = style_generator()
    with torch.no_grad():
        z = generator.draw(SEEDS)
        w = generator.mapping(z, None)
        torch.testing.assert_close(generator.mapping(3 * z, None), w, atol=1e-5, rtol=1e-5)
        images = generator.synthesis(w, SEEDS)
        assert torch.equal(generator.synthesis(w, SEEDS), images)
        assert not torch.allclose(generator.synthesis(w, SEEDS.flip(0)), images)
        for layer in generator.layers:
            layer.strength.zero_()
        assert torch.equal(generator.synthesis(w, SEEDS), generator.synthesis(w, SEEDS.flip(0)))


def test_each_layer_has_noise_of_its_own():
    generator = style_generator()
    with torch.no_grad():
        for layer in generator.layers:
            layer.strength.zero_()
        w = generator.mapping(generator.draw(SEEDS), None)
        still, seen = generator.synthesis(w, SEEDS), []
        for layer in generator.layers:
            layer.strength.fill_(0.3)
            seen.append(generator.synthesis(w, SEEDS))
            layer.strength.zero_()
        assert all(not torch.allclose(one, still) for one in seen)


def test_after_a_layer_each_channel_has_the_mean_and_the_spread_of_its_style():
    generator = style_generator()
    layer, x = generator.layers[3], torch.randn(2, 4, 8, 16)
    w = torch.randn(2, 8)
    with torch.no_grad():
        scale, shift = layer.style(w).chunk(2, 1)
        out = layer(x[:, : layer.convolution.weight.shape[1]], w, torch.randn(2, 1, 8, 16))
    torch.testing.assert_close(out.mean((2, 3)), shift, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.std((2, 3), correction=0), (1 + scale).abs(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
def test_a_share_of_the_images_mixes_styles_at_any_of_the_layers_in_training_alone(mixing):
    generator = style_generator(mixing=mixing)
    seeds = ops.derive_seeds(3, torch.arange(4000))
    second = generator._mixed(seeds)[..., 0]
    count = second.sum(1)
    assert abs(float((count > 0).float().mean()) - mixing) < 0.03
    assert not second[:, 0].any()  # the first layer's style is always the first
    assert torch.equal(second.int().cummax(1).values, second.int())  # fine layers, not single ones
    if mixing:
        shares = torch.bincount(count[count > 0], minlength=4)[1:] / (count > 0).sum()
        torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.05, rtol=0)
    with torch.no_grad():
        z = generator.draw(SEEDS)
        plain = generator(z, None, SEEDS)
        mixed = generator.train()(z, None, SEEDS)
    changed = (mixed - plain).abs().flatten(1).max(1).values > 1e-4
    assert torch.equal(changed, generator._mixed(SEEDS)[:, :, 0].any(1))


@pytest.mark.parametrize("classes", [0, 3])
def test_truncation_moves_styles_towards_the_mean_of_their_class(classes):
    generator = style_generator(classes=classes)
    labels = LABELS if classes else None
    with torch.no_grad():
        w = generator.mapping(generator.draw(SEEDS), labels)
        mean = generator.mean_style(labels)
        assert mean.shape == ((6, 8) if classes else (1, 8))
        assert generator.truncated(w, labels, 1.0) is w
        torch.testing.assert_close(generator.truncated(w, labels, 0.0), mean.expand(6, 8))
        torch.testing.assert_close(generator.truncated(w, labels, 0.7), mean + 0.7 * (w - mean))
        many = generator.draw(ops.derive_seeds(9, torch.arange(20_000)))
        told = None if labels is None else torch.full((20_000,), 2)
        sample = generator.mapping(many, told)
        own = mean[2] if classes else mean[0]
        torch.testing.assert_close(own, sample.mean(0), atol=5 * float(sample.std(0).max()) / 32, rtol=0)
