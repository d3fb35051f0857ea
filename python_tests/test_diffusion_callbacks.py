"""Previews and the progress bar: callbacks of sampling."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from visgen_fast import ops
from visgen_fast.diffusion import Previews, ProgressBar, RectifiedFlow, plan, sample

SEEDS = ops.derive_seeds(0, torch.arange(3))


def drawn(callback, steps: int = 7, channels: int = 3, level: float = 1.0) -> None:
    """Images whose denoised version at each step is grey of that step's time."""

    def network(x_t, t, labels):
        return (level * (1 - 2 * t)).view(-1, 1, 1, 1).expand_as(x_t)

    shape = channels, 24, 16
    sample(network, plan("euler", RectifiedFlow(), "x", steps=steps), shape, SEEDS, SEEDS, callback=callback)


def greys(frames: np.ndarray) -> list[int]:
    return frames.reshape(len(frames), -1).max(1).tolist()


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (4, [0, 4, 6]), (9, [0, 6])])
def test_every_so_many_denoised_images_are_kept_and_the_last(every, steps) -> None:
    previews = Previews(every=every)
    drawn(previews)
    frames = previews.frames()
    assert frames.shape == (len(steps), 3, 48, 32, 3) and frames.dtype == np.uint8
    assert greys(frames) == pytest.approx([255 * step / 7 for step in steps], abs=1)
    drawn(previews, channels=1)
    assert previews.frames().shape == frames.shape  # another call begins anew; grey images are shown in colour


def test_a_gif_moves_and_ends_with_the_last_frame_held(tmp_path) -> None:
    previews = Previews(every=2)
    drawn(previews)
    previews.gif(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 4 and image.size == (2 * 34 + 2, 2 * 50 + 2) and image.info["loop"] == 0
        durations, shown = [], []
        for frame in range(4):
            image.seek(frame)
            durations.append(image.info["duration"])
            shown.append(np.asarray(image.convert("RGB"))[10, 10, 0])
        assert durations == [80, 80, 80, 1500]
        assert shown == pytest.approx([255 * step / 7 for step in (0, 2, 4, 6)], abs=3)
    previews.gif(tmp_path / "b.gif", columns=3)
    with Image.open(tmp_path / "b.gif") as image:
        assert image.size == (3 * 34 + 2, 50 + 2)


def test_a_strip_has_a_row_an_image_and_a_column_a_step(tmp_path) -> None:
    previews = Previews()
    drawn(previews)
    for options, size in (({}, (7, 3)), ({"rows": 2, "columns": 3}, (3, 2)), ({"rows": 1, "columns": 1}, (1, 1))):
        previews.strip(tmp_path / "a.png", **options)
        with Image.open(tmp_path / "a.png") as image:
            assert image.size == (size[0] * 34 + 2, size[1] * 50 + 2)
    previews.strip(tmp_path / "a.png", columns=3)
    with Image.open(tmp_path / "a.png") as image:
        first_row = np.asarray(image)[10, [10, 44, 78], 0]
    assert first_row.tolist() == pytest.approx([0, 255 * 3 / 7, 255 * 6 / 7], abs=1)


def test_latent_images_are_decoded_first() -> None:
    previews = Previews(every=3, decode=lambda latent: latent[:, :1].repeat_interleave(2, -1))
    drawn(previews, channels=8)
    assert previews.frames().shape == (3, 3, 48, 64, 3)


def test_what_is_no_preview_is_refused() -> None:
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        Previews(every=0)
    with pytest.raises(ValueError, match="there are no previews: give them to sample as its callback first"):
        Previews().frames()
    with pytest.raises(ValueError, match=r"previews are of images \[B, 1 or 3, H, W\], got \[3, 8, 24, 16\]"):
        drawn(Previews(), channels=8)


@pytest.mark.parametrize("count", [0, -1])
def test_a_picture_has_at_least_a_row_and_a_column(count, tmp_path) -> None:
    previews = Previews()
    drawn(previews)
    with pytest.raises(ValueError, match=f"columns must be at least 1, got {count}"):
        previews.gif(tmp_path / "x.gif", columns=count)
    with pytest.raises(ValueError, match=f"rows must be at least 1, got {count}"):
        previews.strip(tmp_path / "x.png", rows=count)
    with pytest.raises(ValueError, match=f"columns must be at least 1, got {count}"):
        previews.strip(tmp_path / "x.png", columns=count)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_fills_on_a_terminal_and_is_silent_elsewhere(terminal, monkeypatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", written)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar(7) as bar:
        drawn(bar)
        assert bar._progress.tasks[0].finished or not terminal
    assert ("7/7" in written.getvalue()) == terminal
    assert terminal or written.getvalue() == ""
