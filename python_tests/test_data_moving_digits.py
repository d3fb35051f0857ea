"""Clips of moving digits."""

from __future__ import annotations

import pytest
import torch

from visgen_fast.data.moving_digits import DIRECTIONS, MovingDigits


def test_digits_are_where_the_caption_says_and_move_at_one_speed():
    data = MovingDigits(frames=8, size=24, speed=1.5)
    indices = list(range(0, len(data), 97))
    clips, labels, _ = data.read(indices)
    assert clips.shape == (len(indices), *data.format.shape) and data.format.shape == (1, 8, 24, 24)
    ink = clips[:, 0].double()
    places = torch.arange(24) + 0.5
    rows = (ink.sum(3) * places).sum(2) / ink.sum((2, 3))
    columns = (ink.sum(2) * places).sum(2) / ink.sum((2, 3))
    found, centres = torch.stack((rows, columns), 2), data.centres(indices)
    # A digit's ink has a centre of its own, which goes along with that of its square.
    apart = found - centres
    assert (apart - apart[:, :1]).abs().max() < 0.05
    free = 0
    for label, path in zip(labels.tolist(), centres, strict=True):
        steps, way = path.diff(dim=0), torch.tensor(list(DIRECTIONS.values())[label % 8]).double()
        inside = ((path > 4 + 1.5) & (path < 20 - 1.5)).all(1)
        if inside[0]:
            free += 1
            torch.testing.assert_close(steps[0], 1.5 * way / way.norm())
        assert ((path >= 4) & (path <= 20)).all()
        assert (steps.norm(dim=1) <= 1.5 + 1e-9).all()
    assert free > 10


def test_a_clip_is_always_the_same_and_classes_have_names():
    data = MovingDigits()
    clips, labels, complaints = data.read([3, 811])
    assert torch.equal(data.read([811])[0], clips[1:]) and complaints == ()
    names = [data.format.class_names[label] for label in labels]
    assert names == ["a 0 moving left", "a 1 moving left"] and len(set(data.format.class_names)) == 80
    assert not torch.equal(MovingDigits(seed=1).read([3])[0], clips[:1])


def test_frames_that_digits_do_not_fit_into_are_refused():
    with pytest.raises(ValueError, match="size must be above 8, the digits' own, got 8"):
        MovingDigits(size=8)
