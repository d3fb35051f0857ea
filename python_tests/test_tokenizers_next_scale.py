"""Tokenizers whose codes are more than one grid, or none: VAR's, VQ-VAE-2's and TiTok's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.data.images import ImageFormat, digits
from visgen_fast.models.autoencoder import Decoder, Encoder
from visgen_fast.models.layers.attention import SpatialAttention
from visgen_fast.models.titok import TiTokDecoder, TiTokEncoder
from visgen_fast.nn import MultiscaleQuantizer, QuantizerSequence, VectorQuantizer
from visgen_fast.recipes import vq_vae_2 as recipe
from visgen_fast.tokenizers import VQVAE2, MultiscaleTokenizer, TiTok, Tokenizer

TRANSFORMERS = {"image_size": 8, "channels": 1, "patch_size": 4, "width": 32, "depth": 1, "heads": 2, "tokens": 6}


def multiscale() -> MultiscaleTokenizer:
    sizes = {"channels": 1, "widths": (16,), "dimensions": 8, "patch_size": 2}
    return MultiscaleTokenizer(Encoder(**sizes), MultiscaleQuantizer(32, 8, (1, 2, 4)), Decoder(**sizes))


def vq_vae_2() -> VQVAE2:
    top, bottom = (VectorQuantizer(32, 8) for _ in range(2))
    return VQVAE2(size=8, channels=1, top=top, bottom=bottom, widths=(16, 16), blocks=1)


def titok(learning: str = "ema", **options: bool) -> TiTok:
    quantizer = VectorQuantizer(64, 12, metric="cosine", learning=learning)
    return TiTok(
        TiTokEncoder(**TRANSFORMERS, dimensions=12), quantizer, TiTokDecoder(**TRANSFORMERS, dimensions=12), **options
    )


LENGTHS = {multiscale: 1 + 4 + 16, vq_vae_2: 4 + 16, titok: 6}
every_tokenizer = pytest.mark.parametrize("build", LENGTHS, ids=lambda build: build.__name__)


def made(build) -> Tokenizer:
    torch.manual_seed(0)
    return build()


def images(count: int = 64) -> Tensor:
    return digits().pixels[:count].float() / 127.5 - 1


def train(tokenizer: Tokenizer, steps: int, rate: float = 5e-3) -> list[float]:
    """The losses of some steps on the first digits."""
    shown = images()
    optimizer = torch.optim.Adam([weight for weight in tokenizer.parameters() if weight.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        reconstruction, quantized = tokenizer(shown)
        loss = (reconstruction - shown).square().mean() + quantized.loss.flatten(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@every_tokenizer
def test_codes_decode_to_the_reconstruction_and_are_one_sequence(build) -> None:
    tokenizer = made(build).eval()
    shown = images(5)
    reconstruction, quantized = tokenizer(shown)
    codes = tokenizer.encode(shown)
    assert codes.shape == (5, LENGTHS[build], 1) and codes.dtype == torch.int64
    assert torch.equal(codes, quantized.codes)
    torch.testing.assert_close(tokenizer.decode(codes), reconstruction)
    stages = tokenizer.stages(shown)
    torch.testing.assert_close(list(stages.values())[-1], reconstruction)
    assert all(stage.shape == shown.shape for stage in stages.values())
    alone = torch.cat([tokenizer.encode(image[None]) for image in shown])
    assert torch.equal(alone, codes)


@pytest.mark.parametrize(("build", "steps"), [(multiscale, 60), (vq_vae_2, 60), (titok, 160)])
def test_training_tells_images_apart_and_reaches_every_weight(build, steps: int) -> None:
    tokenizer = made(build)
    losses = train(tokenizer, steps)
    assert losses[-1] < 0.6 * losses[0]
    shown = images()
    error = (tokenizer(shown).images - shown).square().mean()
    # The best that one image can do for all of them is their mean.
    assert error < 0.8 * (shown - shown.mean(0)).square().mean()
    assert [name for name, weight in tokenizer.named_parameters() if not weight.grad.any()] == []
    share, perplexity = tokenizer.quantizer.usage()
    assert share.shape == perplexity.shape and share.min() > 0 and perplexity.max() > 2
    tokenizer.quantizer.reset_usage()
    assert not tokenizer.quantizer.usage()[0].any()


@every_tokenizer
def test_state_dicts_restore_the_codes(build) -> None:
    tokenizer = made(build)
    train(tokenizer, 2)
    torch.manual_seed(1)
    other = build()
    other.load_state_dict(tokenizer.state_dict())
    shown = images(4)
    assert torch.equal(other.eval().encode(shown), tokenizer.eval().encode(shown))


def test_stages_of_the_multiscale_tokenizer_are_the_decoded_prefixes_of_the_codes() -> None:
    tokenizer = made(multiscale).eval()
    shown = images(3)
    codes = tokenizer.encode(shown)
    stages = tokenizer.stages(shown)
    assert list(stages) == ["1x1", "2x2", "4x4"]
    for length, stage in zip((1, 5, 21), stages.values(), strict=True):
        torch.testing.assert_close(tokenizer.decode(codes[:, :length]), stage)


def test_the_bottom_is_encoded_knowing_the_top_and_the_top_does_not_know_the_bottom() -> None:
    tokenizer = made(vq_vae_2)
    shown = images(32)
    train(tokenizer, 5)
    tokenizer.eval()
    before = tokenizer.encode(shown)
    # Other codes at the top are decoded into other context for the bottom.
    top, bottom = tokenizer.quantizer.parts
    with torch.no_grad():
        top.codebook.embedding.mul_(-3)
    changed = tokenizer.encode(shown)
    assert (changed[:, 4:] != before[:, 4:]).any()
    with torch.no_grad():
        bottom.codebook.embedding.mul_(-3)
    assert torch.equal(tokenizer.encode(shown)[:, :4], changed[:, :4])


def test_the_loss_of_the_hierarchy_is_the_sum_of_its_levels_losses() -> None:
    tokenizer = made(vq_vae_2).eval()
    top, bottom = tokenizer._quantize(images(3), None)
    loss = tokenizer(images(3)).quantized.loss
    torch.testing.assert_close(loss[:, 0], top.loss.mean((1, 2)) + bottom.loss.mean((1, 2)))


def test_the_stage_with_the_top_alone_knows_nothing_of_the_bottom() -> None:
    tokenizer = made(vq_vae_2).eval()
    shown = images(3)
    before = tokenizer.stages(shown)
    with torch.no_grad():
        tokenizer.join.weight.mul_(-2)
    after = tokenizer.stages(shown)
    assert torch.equal(before["top only"], after["top only"]) and not torch.equal(before["full"], after["full"])


def test_the_second_stage_of_titok_trains_the_decoder_alone() -> None:
    first = made(titok)
    train(first, 3)
    second = titok(decoder_only=True)
    second.load_state_dict(first.state_dict())
    losses = train(second, 10)
    shown = images(4)
    assert second.training and not second(shown).quantized.loss.any() and losses[-1] < losses[0]
    for name, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]) == (not name.startswith("decoder.")), name
    assert torch.equal(second.encode(shown), first.eval().encode(shown))


def test_codes_of_titok_may_learn_by_gradient() -> None:
    torch.manual_seed(0)
    tokenizer = titok("gradient")
    before = tokenizer.quantizer.codebook.embedding.detach().clone()
    losses = train(tokenizer, 10)
    assert losses[-1] < losses[0] and not torch.equal(tokenizer.quantizer.codebook.embedding, before)


def test_tokens_of_titok_see_the_whole_image_and_pixels_every_token() -> None:
    tokenizer = made(titok)
    for parameter in tokenizer.parameters():
        nn.init.normal_(parameter, std=0.2)
    shown = images(1).requires_grad_()
    (seen,) = torch.autograd.grad(tokenizer.latents(shown)[0, 3, 5], shown)
    assert seen.all()
    latents = ops.gaussian(ops.derive_seeds(0, torch.arange(1)), (6, 12)).requires_grad_()
    (used,) = torch.autograd.grad(tokenizer.decoder(latents)[0, 0, 1, 2], latents)
    assert used.all()


def test_tokens_of_titok_are_quantized_by_their_direction() -> None:
    tokenizer = made(titok).eval()
    quantized = tokenizer(images(4)).quantized.quantized
    torch.testing.assert_close(quantized.norm(dim=-1), torch.ones(4, 6))


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="patch_size must be at least 1 and divide image_size 8, got 3"):
        TiTokEncoder(**{**TRANSFORMERS, "patch_size": 3}, dimensions=12)
    for name in ("width", "depth", "heads", "tokens"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            TiTokDecoder(**{**TRANSFORMERS, name: 0}, dimensions=12)
    with pytest.raises(ValueError, match="heads must divide width 32, got 5"):
        TiTokEncoder(**{**TRANSFORMERS, "heads": 5}, dimensions=12)
    with pytest.raises(ValueError, match="size must be divisible by 4, twice the bottom's reduction, got 6"):
        VQVAE2(size=6, channels=1, top=VectorQuantizer(4, 2), bottom=VectorQuantizer(4, 2), widths=(4, 4))
    with pytest.raises(ValueError, match="parts must agree in dimensions and depth"):
        QuantizerSequence([VectorQuantizer(4, 2), VectorQuantizer(4, 3)], [1, 2])


@pytest.mark.parametrize("attention", [False, True])
def test_the_setting_attention_gives_every_network_of_vq_vae_2_some(attention):
    settings = recipe.Settings(widths=(8, 8), codes=8, dimensions=4, attention=attention)
    tokenizer = recipe.system(settings, ImageFormat(height=8, width=8, channels=1, class_names=("all",))).tokenizer
    for network in (tokenizer.encode_bottom, tokenizer.encode_top, tokenizer.decode_top, tokenizer.decoder):
        assert any(isinstance(layer, SpatialAttention) for layer in network.modules()) == attention
