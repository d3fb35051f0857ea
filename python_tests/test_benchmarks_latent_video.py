"""The measures of drawn clips are right where the truth is known: of clips as they were made."""

from __future__ import annotations

import torch

from benchmarks import latent_models_motion as motion
from visgen_fast.data.images import evenly, to_range
from visgen_fast.data.moving_digits import MovingDigits


def test_motion_is_measured_as_it_was_made():
    data = MovingDigits(frames=8)
    indices = evenly(len(data), 200)
    pixels, labels, _ = data.read(indices)
    clips = to_range(pixels)
    found = motion.motion(clips, labels)
    assert found["as_captioned"] == 1 and found["variation"] < 0.05 and abs(found["speed"] - 1.5) < 0.03
    assert found["judged"] > 50 and found["varied"] > 30
    turned = motion.motion(clips, labels ^ 1)
    assert turned["as_captioned"] == 0 and turned["variation"] == found["variation"]
    halting = motion.motion(clips[:, :, [0, 0, 2, 2, 4, 4, 6, 6]], labels)
    assert halting["variation"] > 0.9


def test_frames_are_compared_and_classified_one_by_one():
    data = MovingDigits(frames=4)
    pixels, labels, _ = data.read(range(80))
    clips = to_range(pixels)
    truth = {str(frame.tolist()): digit for frame, digit in zip(clips[:, :, 0], (labels // 8).tolist(), strict=True)}

    def classify(frames: torch.Tensor) -> torch.Tensor:
        """Right for first frames, and 0 for others."""
        return torch.tensor([truth.get(str(frame.tolist()), 0) for frame in frames])

    same = torch.cat((clips[:, :, :3], clips[:, :, :1]), 2)
    assert motion.digits(same, labels, classify) == {"one_class": 1, "first": 1, "last": 1}
    assert motion.digits(clips, labels, classify)["last"] < 0.3
    moved = clips.roll(2, -1)
    inside = motion.centres(clips)[:, 1, 1] < 13
    assert (motion.apart(clips, moved, 1)[inside] - 2).abs().max() < 0.02
