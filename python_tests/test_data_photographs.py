"""Crops of scikit-image's photographs, and images held out of a source."""

import sys

import pytest
import torch

from visgen_fast.data.images import digits, held_out_part, training_part
from visgen_fast.data.photographs import photographs
from visgen_fast.errors import UserError


def test_the_photographs_are_the_same_each_time_and_of_two_thousand_held_out():
    first, again = (photographs(part="held out") for _ in range(2))
    assert first.pixels.shape == (2000, 3, 32, 32) and first.pixels.dtype == torch.uint8 and len(first) == 2000
    assert torch.equal(first.pixels, again.pixels)
    assert len(first.pixels.flatten(1).unique(dim=0)) > 1900
    assert first.format.shape == (3, 32, 32) and first.format.class_names == ("photograph",)


def test_training_crops_are_twenty_thousand_from_other_photographs():
    training, held_out = photographs(), photographs(part="held out")
    assert training.pixels.shape == (20_000, 3, 32, 32)
    # The means of the crops' pixels say which photographs they are of: no two sets of them are alike.
    means = [part.pixels.float().mean((0, 2, 3)) for part in (training, held_out)]
    assert (means[0] - means[1]).abs().max() > 10


def test_without_scikit_image_one_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        photographs()


def test_no_image_is_both_trained_on_and_held_out():
    whole = digits()
    training, held_out = training_part(whole), held_out_part(whole)
    assert len(training) + len(held_out) == len(whole) and len(held_out) == 180
    assert not set(training.indices) & set(held_out.indices)
    pixels, labels, complaints = held_out.read([0, 2])
    assert torch.equal(pixels, whole.pixels[[0, 20]]) and torch.equal(labels, whole.labels[[0, 20]]) and not complaints
    assert held_out.format == whole.format
