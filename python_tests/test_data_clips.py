"""Clips of a folder's GIFs and videos; what cannot be decoded is named, skipped and counted."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from animations import write_gif
from PIL import Image

from visgen_fast.data.captions import captioned
from visgen_fast.data.clips import ClipFolder
from visgen_fast.data.datasets import DATASETS
from visgen_fast.data.order import ImagesByPosition
from visgen_fast.errors import UserError


def levels(clips: torch.Tensor) -> list[list[int]]:
    """The level of each frame, away from the corner."""
    return clips[:, 0, :, 4, 4].tolist()


def test_a_long_animation_is_cut_into_clips_and_what_is_none_is_named_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    write_gif(tmp_path / "a" / "long.gif", 7)
    write_gif(tmp_path / "b" / "short.gif", 3, first=100)
    write_gif(tmp_path / "b" / "two.gif", 2)
    (tmp_path / "b" / "notes.mp4").write_text("no video")
    Image.new("L", (8, 8)).save(tmp_path / "b" / "still.png")
    damaged = write_gif(tmp_path / "b" / "damaged.gif", 6).read_bytes()
    (tmp_path / "b" / "damaged.gif").write_bytes(damaged[:12])
    data = ClipFolder(tmp_path, 8, 3)
    assert data.format.shape == (3, 3, 8, 8) and data.format.class_names == ("a", "b")
    assert data.skipped == 4 and "skipped 4 files and sub-folders beside 2 videos" in caplog.text
    assert "two.gif: a clip has 3 frames, and it has 2" in caplog.text
    assert "notes.mp4: it is no image, and videos need the package av: pip install 'visgen_fast[video]'" in caplog.text
    clips, labels, complaints = data.read(range(len(data)))
    assert levels(clips) == [[0, 10, 20], [30, 40, 50], [100, 110, 120]] and labels.tolist() == [0, 0, 1]
    assert complaints == () and clips.dtype == torch.uint8
    with pytest.raises(UserError, match=r"has no readable videos \(5 other files and sub-folders\)"):
        ClipFolder(tmp_path / "b", 8, 4)


def test_a_file_that_is_damaged_later_stands_back_for_the_next(tmp_path):
    first, _ = (write_gif(tmp_path / name, 4, first=100 * number) for number, name in enumerate(("a.gif", "b.gif")))
    data = ClipFolder(tmp_path, 8, 4)
    first.write_bytes(b"GIF89a")
    clips, _, complaints = data.read([0, 1])
    assert torch.equal(clips[0], clips[1]) and len(complaints) == 1 and "a.gif" in complaints[0]


def test_captions_beside_videos_go_with_all_their_clips_and_mirroring_turns_all_frames(tmp_path):
    write_gif(tmp_path / "a.gif", 5)
    write_gif(tmp_path / "b.gif", 4, first=50)
    (tmp_path / "b.txt").write_text("it rises")
    data = captioned(ClipFolder(tmp_path, 8, 2))
    assert data.format.captions and data.format.class_names == ("it rises",) and data.format.frames == 2
    assert levels(data.read(range(len(data)))[0]) == [[50, 60], [70, 80]]
    turned = ImagesByPosition(data, 0, horizontal_flip=True).__getitems__(list(range(16))).images
    left, right = turned[:, 0, :, 0, 0] == 50, turned[:, 0, :, 0, -1] == 50
    assert torch.equal(left, ~right | left & right) and 0 < int(left[:, 1].sum()) < 16


def test_clips_of_moving_digits_keep_some_digits_from_training():
    data = DATASETS["moving-digits"]
    train, kept = (part(None, 20, 5) for part in (data.train, data.held_out))
    assert train.format.shape == (1, 5, 20, 20) and (len(train), len(kept)) == (4000, 400)
    assert {len(of_class) > 100 for of_class in train.of_class} == {True}
    assert {len(of_class) < 40 for of_class in kept.of_class} == {True}
    with pytest.raises(UserError, match="size must be above 8"):
        data.train(None, 8, 5)


def video(path: Path, frames: int) -> Path:
    """A video whose frames become brighter, with a key frame once in four."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10), options={"g": "4", "qscale": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for frame in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 10 + 20 * frame, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("kind", ["mp4", "avi"])
def test_clips_of_a_video_begin_where_the_one_before_ends(kind, tmp_path, caplog):
    pytest.importorskip("av")
    content = video(tmp_path / f"x.{kind}", 10).read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(content[:40])
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / f'x.{kind}'}\n")
    data = ClipFolder(tmp_path, 8, 3)
    assert data.skipped == 2 and f"cut.{kind}: " in caplog.text and "list.m3u8: " in caplog.text
    found = torch.tensor(levels(data.read(range(len(data)))[0]))
    assert (found - (10 + 20 * torch.arange(9).view(3, 3))).abs().max() <= 4
