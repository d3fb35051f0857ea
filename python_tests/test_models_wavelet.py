"""The 5/3 wavelet: a definition by its filters, exact inverses, the scale that leaves noise as it is."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from visgen_fast.models.layers.wavelet import inverse_wavelet, wavelet

# The filters of the 5/3 wavelet (bior2.2), for even and for odd places.
LOW = torch.tensor([-1, 2, 6, 2, -1], dtype=torch.float64) * math.sqrt(2) / 8
HIGH = torch.tensor([-1, 2, -1], dtype=torch.float64) * math.sqrt(2) / 4


def along(x, taps, start, dim):
    """x filtered along an axis at every second place, continued by its mirror image."""
    x = x.movedim(dim, -1)
    rows = F.pad(x.reshape(1, -1, x.shape[-1]), (2, 2), mode="reflect").squeeze(0)
    half = len(taps) // 2
    found = F.conv1d(rows[:, None, 2 + start - half :], taps.view(1, 1, -1), stride=2)[..., : x.shape[-1] // 2]
    return found.reshape(*x.shape[:-1], -1).movedim(-1, dim)


def by_filters(x):
    """One level: low; high along the width, along the height, along both."""
    low, high = along(x, LOW, 0, 2), along(x, HIGH, 1, 2)
    return torch.cat([along(half, *band, 3) for half in (low, high) for band in ((LOW, 0), (HIGH, 1))], 1)


def images(height, width, channels=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, height, width, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("size", [(4, 4), (6, 10), (8, 4), (16, 12)])
def test_one_level_is_its_filters_over_the_mirrored_image(size):
    x = images(*size)
    torch.testing.assert_close(wavelet(x, 1), by_filters(x))


def test_the_next_level_transforms_the_low_band_and_lays_finer_places_side_by_side():
    x = images(16, 8)
    once, twice = by_filters(x), wavelet(x, 2)
    assert twice.shape == (2, 2 * 16, 4, 2)
    torch.testing.assert_close(twice[:, :8], by_filters(once[:, :2]))
    torch.testing.assert_close(F.pixel_shuffle(twice[:, 8:], 2), once[:, 2:])


@given(
    levels=st.integers(0, 3),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_inverse_gives_the_images_back(levels, grid, channels, dtype):
    x = images(*(side * 2**levels for side in grid), channels).to(dtype)
    bands = wavelet(x, levels)
    assert bands.shape == (2, channels * 4**levels, *grid) and bands.dtype == dtype
    torch.testing.assert_close(inverse_wavelet(bands, levels), x)
    torch.testing.assert_close(wavelet(inverse_wavelet(bands, levels), levels), bands)


@pytest.mark.parametrize("levels", [1, 2])
def test_it_keeps_volume_and_nearly_the_variance_of_noise(levels):
    basis = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    matrix = wavelet(basis, levels).flatten(1)
    assert torch.linalg.det(matrix).abs().item() == pytest.approx(1)
    noise = wavelet(torch.randn(4, 1, 256, 256, generator=torch.Generator().manual_seed(0)), 1).var((0, 2, 3))
    expected = [LOW.square().sum() ** i * HIGH.square().sum() ** (2 - i) for i in (2, 1, 1, 0)]
    assert [round(float(value), 4) for value in expected] == [2.0664, 1.0781, 1.0781, 0.5625]
    torch.testing.assert_close(noise, torch.stack(expected).float(), rtol=0.03, atol=0)


def test_a_flat_image_and_a_ramp_are_low_inside():
    assert not wavelet(torch.full((1, 1, 8, 8), 3.0), 1)[:, 1:].any()
    assert wavelet(torch.full((1, 1, 8, 8), 3.0), 3)[:, 0].item() == pytest.approx(3 * 2**3)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert not wavelet(ramp, 1)[:, 1:, :, :-1].any()


@pytest.mark.parametrize(("size", "levels"), [((7, 8), 1), ((8, 9), 1), ((8, 12), 3)])
def test_sides_that_cannot_be_halved_so_often_are_refused(size, levels):
    said = rf"a wavelet of {levels} levels needs sides that {2**levels} divides, got \[2, 2, {size[0]}, {size[1]}\]"
    with pytest.raises(ValueError, match=said):
        wavelet(images(*size), levels)
