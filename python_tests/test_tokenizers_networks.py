"""Encoder, decoder, discriminator, classifier; and the tokenizers on a grid that they make."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visgen_fast.models.autoencoder import Decoder, Encoder
from visgen_fast.models.classifier import Classifier
from visgen_fast.models.discriminator import PatchDiscriminator
from visgen_fast.models.layers.attention import SpatialAttention
from visgen_fast.nn.residual_quantizer import ResidualQuantizer, VectorQuantizer
from visgen_fast.tokenizers import Autoencoder, GridTokenizer


def grid_tokenizer(depth: int = 3, **options) -> GridTokenizer:
    torch.manual_seed(0)
    sizes = {"channels": 1, "widths": (8, 16), "dimensions": 4}
    return GridTokenizer(Encoder(**sizes), ResidualQuantizer(depth, 16, 4, **options), Decoder(**sizes))


@given(
    channels=st.sampled_from([1, 3]),
    widths=st.lists(st.sampled_from([3, 8]), min_size=1, max_size=3),
    patch_size=st.integers(1, 3),
    blocks=st.integers(0, 1),
    attention=st.booleans(),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_the_decoder_gives_back_the_size_that_the_encoder_took(channels, widths, patch_size, blocks, attention, grid):
    sizes = {"channels": channels, "widths": widths, "dimensions": 5, "patch_size": patch_size}
    encoder = Encoder(**sizes, blocks=blocks, attention=attention)
    decoder = Decoder(**sizes, blocks=blocks, attention=attention)
    images = torch.rand(2, channels, grid[0] * encoder.reduction, grid[1] * encoder.reduction)
    latents = encoder(images)
    assert latents.shape == (2, 5, *grid)
    assert decoder(latents).shape == images.shape


def test_fashion_mnist_becomes_seven_by_seven_latents():
    assert Encoder(channels=1, widths=(8, 8), dimensions=3, patch_size=2)(torch.rand(1, 1, 28, 28)).shape[2:] == (7, 7)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"widths": ()}, "widths"),
        ({"widths": (8, 0)}, "widths"),
        ({"dimensions": 0}, "dimensions must be at least 1, got 0"),
        ({"blocks": -1}, "blocks must be at least 0, got -1"),
        ({"patch_size": 0}, "patch_size"),
    ],
)
def test_a_size_that_makes_no_network_is_refused_by_name(wrong, said):
    for network in (Encoder, Decoder):
        with pytest.raises(ValueError, match=said):
            network(**{"channels": 1, "widths": (8,), "dimensions": 2, **wrong})
    with pytest.raises(ValueError, match="width must be at least 1"):
        PatchDiscriminator(channels=1, width=0)
    with pytest.raises(ValueError, match="widths"):
        Classifier(channels=1, classes=2, widths=())


def test_images_that_do_not_fit_the_encoder_are_refused():
    with pytest.raises(ValueError, match=r"\[B, 1, H, W\] with sides that 4 divides, got \[2, 1, 8, 6\]"):
        Encoder(channels=1, widths=(4, 4), dimensions=2, patch_size=2)(torch.rand(2, 1, 8, 6))


def test_attention_lets_every_position_see_every_other():
    torch.manual_seed(0)
    attention = SpatialAttention(8)
    x = torch.randn(1, 8, 3, 4, requires_grad=True)
    attention(x)[0, :, 0, 0].sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


def test_the_discriminator_s_verdict_does_not_depend_on_the_images_beside_it():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(channels=1, width=8, layers=2)
    images = torch.randn(3, 1, 16, 16)
    verdicts = discriminator(images)
    assert verdicts.shape == (3, 1, 4, 4)
    torch.testing.assert_close(discriminator(images[1:2]), verdicts[1:2])


def test_the_classifier_shows_its_features_at_each_level():
    classifier = Classifier(channels=3, classes=5, widths=(4, 8, 6))
    images = torch.rand(2, 3, 8, 8)
    features = classifier.features(images)
    assert [tuple(level.shape) for level in features] == [(2, 4, 8, 8), (2, 8, 4, 4), (2, 6, 2, 2)]
    assert all((level >= 0).all() for level in features)
    torch.testing.assert_close(classifier.embedding(images), features[-1].mean((2, 3)))
    assert classifier(images).shape == (2, 5)


def test_decoding_the_codes_gives_the_reconstruction_that_forward_gives():
    tokenizer = grid_tokenizer().eval()
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    codes = tokenizer.encode(images)
    assert codes.shape == (2, 4, 4, 3) and codes.dtype == torch.int64
    reconstruction, quantized = tokenizer(images)
    assert torch.equal(quantized.codes, codes)
    torch.testing.assert_close(tokenizer.decode(codes), reconstruction, atol=1e-5, rtol=1e-5)


def test_a_prefix_of_the_depths_decodes_as_the_rest_dropped():
    tokenizer = grid_tokenizer().eval()
    codes = tokenizer.encode(torch.rand(2, 1, 8, 8))
    for depth in (1, 2):
        dropped = codes.clone()
        dropped[..., depth:] = -1
        torch.testing.assert_close(tokenizer.decode(codes[..., :depth]), tokenizer.decode(dropped))


def test_the_stages_show_each_depth_and_end_with_all_of_them():
    tokenizer = grid_tokenizer().eval()
    images = torch.rand(2, 1, 8, 8)
    stages = tokenizer.stages(images)
    assert list(stages) == ["depth 1", "depth 2", "depth 3"]
    codes = tokenizer.encode(images)
    assert torch.equal(stages["depth 2"], tokenizer.decode(codes[..., :2]))
    assert torch.equal(stages["depth 3"], tokenizer.decode(codes))


def test_one_depth_has_one_stage_and_the_plain_autoencoder_too():
    sizes = {"channels": 1, "widths": (8,), "dimensions": 4}
    images = torch.rand(2, 1, 8, 8)
    for tokenizer in (
        GridTokenizer(Encoder(**sizes), VectorQuantizer(16, 4), Decoder(**sizes)),
        Autoencoder(Encoder(**sizes), Decoder(**sizes)),
    ):
        stages = tokenizer.eval().stages(images)
        assert list(stages) == ["reconstruction"]
        assert torch.equal(stages["reconstruction"], tokenizer(images).images)


def test_the_plain_autoencoder_changes_no_latent_and_has_no_codes():
    sizes = {"channels": 1, "widths": (8,), "dimensions": 4}
    encoder, decoder = Encoder(**sizes), Decoder(**sizes)
    images = torch.rand(2, 1, 8, 8)
    reconstruction, quantized = Autoencoder(encoder, decoder)(images)
    assert torch.equal(reconstruction, decoder(encoder(images)))
    assert quantized.codes.shape == (2, 8, 8, 0) and not quantized.loss.any()


def test_the_seeds_decide_which_depths_training_drops():
    tokenizer = grid_tokenizer(depth=4, dropout=1.0).train()
    images = torch.rand(16, 1, 8, 8)
    seeds = torch.arange(16)
    with torch.no_grad():
        first = tokenizer(images, seeds).quantized.codes
        again = tokenizer(images, seeds).quantized.codes
        other = tokenizer(images, seeds + 100).quantized.codes
    assert torch.equal(first < 0, again < 0) and not torch.equal(first < 0, other < 0)
    # An image drops the same depths everywhere.
    assert ((first < 0) == (first < 0)[:, :1, :1]).all()


def test_gradients_reach_the_encoder_through_the_codes():
    tokenizer = grid_tokenizer()
    reconstruction, quantized = tokenizer(torch.rand(2, 1, 8, 8), torch.arange(2))
    reconstruction.square().mean().backward()
    assert all(parameter.grad.any() for parameter in tokenizer.encoder.parameters())
    assert quantized.loss.shape == (2, 4, 4)
