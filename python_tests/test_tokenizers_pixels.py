"""Pixels as codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visgen_fast.data.images import to_range
from visgen_fast.tokenizers import PixelCodes, fit_palette

LAYOUTS = ["channels", "planes", "tiles"]


def pictures(channels: int, height: int, width: int, key: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(key)
    return torch.randint(0, 256, (2, channels, height, width), generator=generator, dtype=torch.uint8)


@given(layout=st.sampled_from(LAYOUTS), channels=st.integers(1, 4), tile=st.integers(1, 3), key=st.integers(0, 100))
def test_256_levels_lose_nothing(layout, channels, tile, key):
    size = 2 * tile, 3 * tile
    codes = PixelCodes(size, channels, layout=layout, tile=tile)
    images = to_range(pictures(channels, *size, key))
    encoded = codes.encode(images)
    assert encoded.dtype == torch.int64 and tuple(encoded.shape[1:]) == codes.shape
    assert 0 <= encoded.min() and encoded.max() < codes.code_size
    decoded = codes.decode(encoded)
    assert decoded.dtype == torch.float32 and torch.equal(decoded, images)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("levels", [2, 4, 32, 128, 256])
def test_a_code_is_the_leading_bits_and_decodes_to_itself(levels, layout):
    codes = PixelCodes(16, 1, levels, layout, 2)
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    encoded = codes.encode(to_range(pixels))
    plain = PixelCodes(16, 1, levels).encode(to_range(pixels))
    assert torch.equal(plain.flatten(), pixels.flatten().long() >> 8 - levels.bit_length() + 1)
    decoded = codes.decode(encoded)
    assert torch.equal(codes.encode(decoded), encoded) and torch.equal(decoded, PixelCodes(16, 1, levels).decode(plain))
    ends = (decoded.flatten()[[0, -1]] + 1) * 127.5
    assert ends.tolist() == [0, 255]


@pytest.mark.parametrize("levels", [3, 17, 100])
def test_other_numbers_of_levels_are_evenly_wide(levels):
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    codes = PixelCodes(16, 1, levels)
    encoded = codes.encode(to_range(pixels))
    assert torch.equal(encoded.flatten(), torch.arange(256) * levels // 256)
    counts = encoded.flatten().bincount()
    assert len(counts) == levels and counts.max() - counts.min() <= 1
    assert (codes.decode(encoded) - to_range(pixels)).abs().max() <= 2 / levels


def test_planes_come_most_significant_first_for_all_channels():
    images = to_range(torch.tensor([0b10000000, 0b01000001]).to(torch.uint8).view(1, 2, 1, 1))
    codes = PixelCodes(1, 2, layout="planes").encode(images)
    assert codes.flatten().tolist() == [1, 0, 0, 1] + [0] * 11 + [1]


def test_tiles_hold_their_pixels_row_by_row():
    pixels = torch.arange(2 * 16).view(1, 2, 4, 4).to(torch.uint8)
    codes = PixelCodes(4, 2, layout="tiles", tile=2).encode(to_range(pixels))
    assert codes.shape == (1, 2, 2, 8) and codes[0, 0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]


@pytest.mark.parametrize("layout", ["channels", "tiles"])
def test_a_palette_of_the_colours_there_are_loses_nothing(layout):
    colours = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 0.5, -0.5], [0.0, 1.0, 0.25], [0.5, 0.5, 0.5]])
    images = colours[torch.randint(4, (3, 6, 6), generator=torch.Generator().manual_seed(0))].permute(0, 3, 1, 2)
    codes = PixelCodes(6, 3, layout=layout, tile=3, palette=fit_palette(images, 4))
    encoded = codes.encode(images)
    assert codes.code_size == 4 and tuple(encoded.shape[1:]) == codes.shape
    assert codes.shape == ((6, 6, 1) if layout == "channels" else (2, 2, 9))
    torch.testing.assert_close(codes.decode(encoded), images, rtol=0, atol=1e-6)
    again = PixelCodes(6, 3, layout=layout, tile=3, palette=torch.zeros(4, 3))
    again.load_state_dict(codes.state_dict())
    assert torch.equal(again.encode(images), encoded)


def test_a_palette_is_where_the_colours_are():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-0.8, 0.0], [0.8, 0.5], [0.0, -0.9]])
    near = centres[torch.randint(3, (400,), generator=generator)] + 0.02 * torch.randn(400, 2, generator=generator)
    palette = fit_palette(near.T.reshape(1, 2, 20, 20), 3, seed=1)
    assert torch.cdist(centres, palette).min(1).values.max() < 0.01


WRONG = {
    "colours": (
        lambda: fit_palette(torch.zeros(1, 3, 2, 2), 2),
        "colours must lie in [1, 1], the number that the images have, got 2",
    ),
    "levels": (lambda: PixelCodes(4, 1, 257), "levels must lie in [2, 256], got 257"),
    "levels of planes": (lambda: PixelCodes(4, 1, 17, "planes"), "levels must be a power of two for planes, got 17"),
    "layout": (lambda: PixelCodes(4, 1, layout="rows"), "layout must be channels, planes or tiles, got 'rows'"),
    "tile": (
        lambda: PixelCodes((4, 6), 1, layout="tiles"),
        "tile must divide both sides of the images, (4, 6), got 4",
    ),
    "size": (lambda: PixelCodes(0, 1), "size must be at least 1, got 0"),
    "palette": (
        lambda: PixelCodes(4, 3, palette=torch.zeros(5, 1)),
        "palette must be floating-point [N, 3], got [5, 1]",
    ),
    "planes of a palette": (
        lambda: PixelCodes(4, 3, layout="planes", palette=torch.zeros(5, 3)),
        "a palette has no planes: layout must be channels or tiles",
    ),
}


@pytest.mark.parametrize("call, sentence", WRONG.values(), ids=WRONG)
def test_a_wrong_argument_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence
