"""Encoder and decoder of clips: sizes, causality, and streams that equal the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from visgen_fast.models.causal_autoencoder import CausalDecoder, CausalEncoder

SIZES = {"channels": 2, "widths": (4, 8, 8), "dimensions": 3}
VARIANTS = [{}, {"attention": True, "shortcuts": True}, {"patch_size": 2, "frame_reduction": 2, "shortcuts": True}]


def pair(**options) -> tuple[CausalEncoder, CausalDecoder]:
    torch.manual_seed(0)
    return CausalEncoder(**SIZES, **options).double(), CausalDecoder(**SIZES, **options).double()


def clip(frames: int, channels: int = 2, side: int = 8) -> Tensor:
    return torch.randn(2, channels, frames, side, side, generator=torch.Generator().manual_seed(1)).double()


def seen(network: nn.Module, x: Tensor, frame: int) -> list[bool]:
    """Which input frames an output frame depends on."""
    x = x.clone().requires_grad_()
    network(x)[:, :, frame].square().sum().backward()
    return [bool(x.grad[:, :, k].any()) for k in range(x.shape[2])]


@pytest.mark.parametrize("options", VARIANTS)
def test_one_and_k_times_f_frames_are_one_and_k_latents_and_come_back(options):
    encoder, decoder = pair(**options)
    for k in (0, 1, 3):
        clips = clip(1 + k * encoder.frame_reduction)
        latents = encoder(clips)
        assert latents.shape == (2, 3, 1 + k, 8 // encoder.reduction, 8 // encoder.reduction)
        assert decoder(latents).shape == clips.shape


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("way", [lambda network: network, lambda network: streamed(network)])
def test_no_frame_depends_on_a_later_one(options, way):
    encoder, decoder = pair(**options)
    f = encoder.frame_reduction
    for latent in (0, 1, 2):
        found = seen(way(encoder), clip(1 + 2 * f), latent)
        assert found[f * latent] and not any(found[f * latent + 1 :])
    for frame in (0, 1, f, f + 1, 2 * f):
        latent = -(-frame // f)
        found = seen(way(decoder), clip(3, 3, 2), frame)
        assert found[latent] and not any(found[latent + 1 :])


def streamed(network: CausalEncoder | CausalDecoder):
    """The network on chunks: the first frame, then f by f, or latent by latent."""
    size = network.frame_reduction if isinstance(network, CausalEncoder) else 1
    return lambda x: torch.cat(list(network.stream([x[:, :, :1], *x[:, :, 1:].split(size, 2)])), 2)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("chunks", [(1, 4, 4, 4), (1, 8, 4), (1, 12), (5, 8)])
def test_a_stream_equals_the_whole(options, chunks):
    encoder, decoder = (network.float() for network in pair(**options))
    clips = clip(13).float()
    latents = encoder(clips)
    torch.testing.assert_close(torch.cat(list(encoder.stream(clips.split(chunks, 2))), 2), latents, atol=1e-5, rtol=0)
    parts = [-(-size // encoder.frame_reduction) for size in chunks]
    found = torch.cat(list(decoder.stream(latents.split(parts, 2))), 2)
    torch.testing.assert_close(found, decoder(latents), atol=1e-5, rtol=0)


def test_two_streams_of_one_network_do_not_meet():
    encoder, _ = pair()
    clips = clip(9)
    one, other = (encoder.stream(part.split((1, 4, 4), 2)) for part in (clips, -clips))
    mixed = [(next(one), next(other)) for _ in range(3)]
    torch.testing.assert_close(torch.cat([first for first, _ in mixed], 2), encoder(clips))
    torch.testing.assert_close(torch.cat([second for _, second in mixed], 2), encoder(-clips))


def test_what_does_not_fit_is_refused():
    encoder, decoder = pair()
    with pytest.raises(ValueError, match=r"of 1 \+ k·4 frames, got \[2, 2, 8, 8, 8\]"):
        encoder(clip(8))
    with pytest.raises(ValueError, match=r"after the first chunk k·4 frames, got \[2, 2, 5, 8, 8\]"):
        list(encoder.stream([clip(1), clip(5)]))
    with pytest.raises(ValueError, match=r"latents must be \[B, 3, T, h, w\], got \[2, 2, 1, 8, 8\]"):
        decoder(clip(1))
    with pytest.raises(ValueError, match="frame_reduction must be a power of two of at most 4, for 3 levels, got 8"):
        CausalEncoder(**SIZES, frame_reduction=8)
