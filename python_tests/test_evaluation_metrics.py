"""Pixel errors and the peak signal-to-noise ratio."""

import pytest
import torch

from visgen_fast.evaluation import pixel_errors, psnr


def test_psnr_of_an_error_of_one_grey_level_is_the_textbooks():
    image = torch.zeros(2, 3, 4, 4)
    found = psnr(pixel_errors(image + 2 / 255, image))
    assert found.tolist() == pytest.approx([48.1308, 48.1308], abs=1e-4)


def test_pixels_out_of_range_count_as_they_are_shown():
    assert pixel_errors(torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2)).tolist() == [0]


def test_a_perfect_reconstruction_has_a_finite_psnr():
    image = torch.rand(1, 3, 4, 4)
    assert psnr(pixel_errors(image, image)).tolist() == pytest.approx([126.02], abs=0.01)
