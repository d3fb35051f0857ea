"""`visgen-fast sample`: its options of sampling, what its files keep of them, and previews."""

from __future__ import annotations

import json
import os
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from mistakes import mistake
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from visgen_fast import cli
from visgen_fast.commands import repeat
from visgen_fast.errors import UserError

# So long that guidance and noise can be seen in what it draws.
TRAINING = ["train", "rectified-flow", "--device=cpu", "--width=16", "--depth=1", "--heads=2", "--batch-size=32"]
TRAINING += ["--steps=40", "--sampling-steps=1", "--learning-rate=0.02", "--warmup-steps=0", "--checkpoint-every=40"]
TRAINING += ["--sample-every=40", "--ema-decay=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a short run of the digits."""
    out = tmp_path_factory.mktemp("runs") / "flow"
    assert cli.main([*TRAINING, f"--out={out}"]) == 0
    return out


def drawn(run: Path, out: Path, *options: str) -> bytes:
    command = ["sample", str(run), f"--out={out}", "--device=cpu", *options]
    assert cli.main(command) == 0
    with Image.open(out) as image:
        return np.asarray(image).tobytes()


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


def kept(file: Path) -> dict:
    with Image.open(file) as image:
        return json.loads(image.text["visgen_fast"])


def test_every_option_of_sampling_draws_other_images(run, tmp_path):
    few = ["--labels=1", "--count-per-class=1", "--steps=4"]
    asked = ["", "--sampler=heun", "--spacing=quadratic", "--shift=3", "--sampler=unipc --order=3", "--guidance=3"]
    asked += ["--sampler=unipc --variant=bh1 --order=3", "--sampler=ddim --eta=0.7", "--churn=2", "--sampler=ddpm"]
    asked += ["--sampler=ddpm --variance=large", "--guidance=3 --interval 0.2 0.6", "--guidance=3 --rescale=0.9"]
    images = {drawn(run, tmp_path / "x.png", *few, *options.split()) for options in asked}
    assert len(images) == len(asked)


def test_several_seeds_stand_side_by_side(run, tmp_path):
    sizes = {}
    for seeds in ("5", "7", "5 7"):
        drawn(run, tmp_path / "x.png", "--labels", "1", "2", "--count-per-class=1", "--seeds", *seeds.split())
        with Image.open(tmp_path / "x.png") as image:
            sizes[seeds] = np.asarray(image)
    whole, gap = sizes["5 7"], 4
    left = whole.shape[1] - 2 * 52 - gap
    for place, seed in enumerate("57"):
        alone = sizes[seed][:, left : left + 52 + gap].astype(int)
        assert abs(whole[:, left + place * 52 : left + place * 52 + 52 + gap].astype(int) - alone).max() <= 1


def test_a_folder_gets_a_file_of_each_image_by_class_and_seed(run, tmp_path):
    command = ["sample", str(run), "--device=cpu", "--labels", "3", "7", "--seeds", "5", "6"]
    assert cli.main([*command, f"--out={tmp_path / 'set'}"]) == 0
    assert cli.main([*command, "--count-per-class=2", f"--out={tmp_path / 'more'}"]) == 0
    names = {
        folder: {str(file.relative_to(tmp_path / folder)) for file in (tmp_path / folder).rglob("*.*")}
        for folder in ("set", "more")
    }
    assert names["set"] == {"3/5.png", "3/6.png", "7/5.png", "7/6.png"}
    assert names["more"] == {f"{label}/{seed}-{place}.png" for label in (3, 7) for seed in (5, 6) for place in (0, 1)}
    images = {name: pixels(tmp_path / "set" / name) for name in names["set"]}
    assert all(image.shape == (8, 8, 3) for image in images.values())  # as the model draws them, not enlarged
    again = pixels(tmp_path / "more" / "7" / "6-0.png")
    assert abs(again - images["7/6.png"]).max() <= 1
    assert abs(again - images["7/5.png"]).max() > 1


def test_a_file_keeps_what_draws_it_again(run, tmp_path, capsys):
    options = ["--labels", "7", "2", "--seeds", "-3", "4", "--sampler=dpm++2m-sde", "--steps=5", "--eta=0.5"]
    options += ["--guidance=-1.5", "--interval", "0.1", "0.9", "--spacing=karras"]
    first = drawn(run, tmp_path / "a.png", *options)
    told = kept(tmp_path / "a.png")
    assert told["run"] == "flow" and told["step"] == 40 and told["recipe"] == "rectified-flow"
    assert len(told["weights"]) == 64 and set(told["versions"]) == {"visgen_fast", "torch"}
    assert told["options"] == {
        "labels": ["7", "2"], "seeds": [-3, 4], "count_per_class": 1, "sampler": "dpm++2m-sde", "steps": 5, "eta": 0.5,
        "guidance": -1.5, "interval": [0.1, 0.9], "spacing": "karras", "rescale": 0.0,
    }  # fmt: skip
    assert drawn(run, tmp_path / "b.png", f"--like={tmp_path / 'a.png'}") == first
    assert drawn(run, tmp_path / "c.png", f"--like={tmp_path / 'a.png'}", "--seed=9") != first
    assert kept(tmp_path / "b.png") == told and kept(tmp_path / "c.png")["options"]["seeds"] == [9]


def test_what_no_option_was_given_for_is_kept_as_the_recipe_has_it(run, tmp_path):
    drawn(run, tmp_path / "a.png", "--labels=1")
    told = kept(tmp_path / "a.png")["options"]
    assert told["steps"] == 1 and told["sampler"] == "euler" and told["count_per_class"] == 10


def file_that_says(path: Path, told: object) -> Path:
    info = PngInfo()
    info.add_text("visgen_fast", told if isinstance(told, str) else json.dumps(told))
    Image.new("L", (2, 2)).save(path, pnginfo=info)
    return path


@pytest.mark.parametrize(
    "told",
    ["", "[" * 100_000, "{}", "[]", "1", {"options": []}, {"weights": 3}],
    ids=lambda told: str(told)[:20],
)
def test_a_file_that_keeps_nothing_of_ours_is_one_sentence(run, tmp_path, told, capsys):
    file = file_that_says(tmp_path / "x.png", told)
    assert "--like must be a PNG file that visgen-fast sample wrote" in mistake(capsys, "sample", run, f"--like={file}")


def test_no_file_at_all_is_one_sentence_too(run, tmp_path, capsys):
    (tmp_path / "text.png").write_text("not an image")
    Image.new("L", (2, 2)).save(tmp_path / "plain.png")
    Image.new("L", (2, 2)).save(tmp_path / "plain.gif")
    for name in ("text.png", "plain.png", "plain.gif", "nowhere.png", "."):
        said = mistake(capsys, "sample", run, f"--like={tmp_path / name}")
        assert "--like must be a PNG file that visgen-fast sample wrote" in said
    assert "like" in mistake(capsys, "sample", run, "--like")


def test_the_picture_of_a_file_is_not_decoded(tmp_path, monkeypatch):
    """It may be a gigabyte large once it is, and have thousands of frames."""
    drawn, frames = file_that_says(tmp_path / "x.png", {"options": {"steps": 3}}), tmp_path / "frames.png"
    info = PngInfo()
    info.add_text("visgen_fast", '{"options": {}}')
    pictures = [Image.new("L", (2, 2), level) for level in range(3)]
    pictures[0].save(frames, save_all=True, append_images=pictures[1:], pnginfo=info)

    def load(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImageFile, "load", load)
    assert repeat.read_story(drawn) == {"options": {"steps": 3}}
    assert repeat.read_story(frames) == {"options": {}}


def test_a_pipe_is_no_drawn_file(run, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    assert "that visgen-fast sample wrote, and" in mistake(capsys, "sample", run, f"--like={tmp_path / 'pipe.png'}")


def test_no_more_than_the_beginning_of_a_file_is_read(tmp_path):
    """Here a chunk that nobody knows says that it is half a gigabyte long, and the file has holes up to there."""
    file = tmp_path / "x.png"
    file_that_says(file, {"options": {}})
    head, rest = file.read_bytes()[:33], file.read_bytes()[33:]
    with open(file, "wb") as hollow:
        hollow.write(head + (2**29).to_bytes(4, "big") + b"aaAa")
        hollow.seek(2**29 + 4, os.SEEK_CUR)
        hollow.write(rest)
    tracemalloc.start()
    with pytest.raises(UserError, match="and .*x.png is none"):
        repeat.read_story(file)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_a_picture_that_says_it_is_enormous_is_refused(tmp_path):
    content = bytearray(file_that_says(tmp_path / "x.png", {"options": {}}).read_bytes())
    content[16:24] = (2**20).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match="and .*x.png is none"):
        repeat.read_story(tmp_path / "x.png")


@pytest.mark.parametrize(
    "options",
    [
        {"labels": ["--recipe=evil.py"]},
        {"labels": ["1", "--recipe", "evil.py"]},
        {"seeds": ["--out=/tmp/x.png"]},
        {"steps": None},
        {"steps": {"a": 1}},
        {"labels": [["1"]]},
    ],
    ids=str,
)
def test_nothing_in_a_file_becomes_another_option(run, tmp_path, options, capsys):
    file = file_that_says(tmp_path / "x.png", {"options": options})
    assert "that no command line has" in mistake(capsys, "sample", run, f"--like={file}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recipe": "evil.py", "out": "y.png", "steps": 3}, "was drawn with other weights"),
        ({"steps": "3 --recipe=evil.py"}, "--steps must be INT [INT ...] or None, got '3 --recipe=evil.py'"),
        ({"sampler": "--recipe=evil.py"}, "that no command line has"),
        ({"sampler": "\x1b[2J"}, "was drawn with other weights"),
    ],
)
def test_a_file_of_another_model_is_refused(run, tmp_path, options, said, capsys):
    file = file_that_says(tmp_path / "x.png", {"options": options, "step": "\x1b[2J"})
    assert said in mistake(capsys, "sample", run, f"--like={file}", f"--out={tmp_path / 'z.png'}")
    assert not (tmp_path / "z.png").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sampler=frobnicate"], "sampler must be one of ddpm, ddim, euler, "),
        (["--spacing=odd"], "spacing must be one of linear, trailing, leading, karras"),
        (["--order=2"], "euler has the options churn, churn_min, churn_max, churn_noise; got order"),
        (["--sampler=unipc", "--order=9"], "order must lie in [1, 3], got 9"),
        (["--sampler=unipc", "--order=two"], "--order must be INT or None, got 'two'"),
        (["--sampler=ddim", "--eta=2"], "eta must lie in [0, 1], got 2.0"),
        (["--sampler=euler-ancestral", "--eta=-1"], "eta must be at least 0, got -1.0"),
        (["--sampler=dpm++2m-sde", "--eta=inf"], "eta must be at least 0, got inf"),
        (["--sampler=ddim", "--eta=nan"], "eta must lie in [0, 1], got nan"),
        (["--churn=-1"], "churn must be at least 0, got -1.0"),
        (["--sampler=ddpm", "--variance=medium"], "variance must be small, large or learned_range, got 'medium'"),
        (["--shift=0"], "shift must be positive, got 0.0"),
        (["--interval=0.3"], "--interval must be FLOAT FLOAT or None, got '0.3'"),
        (["--guidance=2", "--interval", "0.9", "0.1"], "interval must be (low, high) with 0 ≤ low ≤ high ≤ 1"),
        (["--guidance=1", "--interval", "0.1", "0.9"], "interval changes guidance, and there is none: guidance is 1"),
        (["--guidance=1", "--rescale=0.5"], "rescale changes guidance, and there is none: guidance is 1"),
        (["--guidance=2", "--rescale=nan"], "rescale must lie in [0, 1], got nan"),
        (["--seeds", "1", f"{2**63}"], f"--seed must lie in [-2**63, 2**63), got {2**63}"),
        (["--seeds"], "--seeds must be at least one number"),
        (["--preview-gif=x.png"], "--preview-gif must be the name of a .gif file, got x.png"),
        (["--preview-strip=x.gif"], "--preview-strip must be the name of a .png file, got x.gif"),
        (["--out=x.png", "--preview-strip=./x.png"], "--preview-strip must be another file than --out, got x.png"),
    ],
)
def test_a_wrong_option_is_one_sentence(run, tmp_path, options, said, capsys):
    out = tmp_path / "x.png"
    assert said in mistake(capsys, "sample", run, f"--out={out}", "--device=cpu", *options)
    assert not list(tmp_path.iterdir())


def test_previews_show_how_the_images_arose(run, tmp_path):
    gif, strip = tmp_path / "new" / "a.gif", tmp_path / "b.png"
    previews = [f"--preview-gif={gif}", f"--preview-strip={strip}"]
    drawn(run, tmp_path / "x.png", "--labels", "1", "2", "--count-per-class=3", "--steps=7", *previews)
    with Image.open(gif) as image:
        assert image.n_frames == 7 and image.size == (3 * 50 + 2, 2 * 50 + 2)
    with Image.open(strip) as image:
        assert image.size == (7 * 50 + 2, 6 * 50 + 2)


def test_without_a_terminal_no_bar_is_drawn(run, tmp_path, capfd):
    drawn(run, tmp_path / "x.png", "--labels=1", "--count-per-class=1")
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == f"images: {tmp_path / 'x.png'}\n"
