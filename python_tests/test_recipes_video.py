"""Recipes video-tokenizer and text-to-video: clips from a folder to samples; what goes wrong is one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from animations import folder_of_gifs, write_gif
from mistakes import mistake
from PIL import Image
from word_vectors import WordVectors

from visgen_fast import cli
from visgen_fast.commands.repeat import read_story
from visgen_fast.data.images import to_range
from visgen_fast.data.video_file import whole
from visgen_fast.recipes import _text
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.clips import ClipSystem
from visgen_fast.systems.generative import draw_samples
from visgen_fast.tokenizers.first_stage import FirstStage

SHORT = ["--device=cpu", "--steps=2", "--batch-size=4", "--sample-every=0", "--size=8", "--frames=5"]
NETWORK = ["--width=16", "--depth=1", "--heads=2", "--patch-size=4", "--sampling-steps=2", "--learning-rate=0.02"]
STAGE = [*SHORT, "--widths", "4", "4", "--frame-reduction=2", "--dimensions=4"]
FLOW = ["train", "text-to-video", *SHORT, *NETWORK, "--warmup-steps=0", "--attention=classes"]
LATENT = [*FLOW, "--patch-size=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with GIFs, a tokenizer of them, a model of their pixels, and one of latents, whose stage is gone."""
    folder = tmp_path_factory.mktemp("runs")
    data = [f"--dataset={folder_of_gifs(folder / 'gifs', 80, 5)}"]
    stills = ["--steps=1", "--size=8", "--widths", "4", f"--dataset={folder_of_gifs(folder / 'stills', 12, 1)}"]
    assert cli.main(["train", "classifier", "--device=cpu", *stills, f"--out={folder / 'eye'}"]) == 0
    judged = ["--perceptual=1", f"--features={folder / 'eye'}", "--adversarial=0.5", "--discriminator-layers=1"]
    assert cli.main(["train", "video-tokenizer", *STAGE, *data, *judged, f"--out={folder / 'stage'}"]) == 0
    assert cli.main([*FLOW, *data, f"--out={folder / 'pixels'}"]) == 0
    shutil.copytree(folder / "stage", folder / "lent")
    kept = [f"--first-stage={folder / 'lent'}", f"--cache={folder / 'cache'}", "--horizontal-flip"]
    assert cli.main([*LATENT, *data, *kept, f"--out={folder / 'latents'}"]) == 0
    shutil.rmtree(folder / "lent")
    return folder


@pytest.fixture(scope="module", params=["pixels", "latents"])
def system(request, runs) -> ClipSystem:
    return load_system(runs / request.param)


def test_a_tokenizer_of_clips_is_causal_and_decodes_a_stream_as_the_whole(runs):
    tokenizer, figure = load_system(runs / "stage").tokenizer, runs / "stage" / "reconstructions.png"
    measured = json.loads((runs / "stage" / "metrics.json").read_text())
    assert {"psnr", "rfid", "kl"} <= measured.keys() and "turned_psnr" not in measured
    with Image.open(figure) as image:
        assert image.height == 10 * (48 + 4) + 4  # five clips
    clips = torch.randn(1, 3, 13, 8, 8, generator=torch.Generator().manual_seed(0))
    for frame, sees in ((0, 1), (2, 3), (3, 5)):
        x = clips.clone().requires_grad_()
        tokenizer(x).images[:, :, frame].square().sum().backward()
        assert [bool(x.grad[:, :, t].any()) for t in range(13)] == [True] * sees + [False] * (13 - sees)
    latents = tokenizer.encode_latents(clips, None)
    for chunks in ((1, 4, 4, 4), (1, 8, 4), (1, 12)):
        parts = latents.split([1, *(chunk // 2 for chunk in chunks[1:])], 2)
        found = torch.cat(list(tokenizer.decoder.stream(parts)), 2)
        torch.testing.assert_close(found, tokenizer.decode_latents(latents), atol=1e-5, rtol=0)


def test_a_clip_is_the_same_alone_and_in_a_batch_continued_and_longer(system):
    labels, seeds = torch.tensor([0, 1, 1]), torch.tensor([3, 5, 7])
    context = to_range(torch.arange(0, 192, 64, dtype=torch.uint8)).view(1, 1, 3, 1, 1).expand(1, 3, 3, 8, 8)
    for options in ({}, {"frames": 11}, {"context": context, "frames": 9, "frame_plan": "pyramid"}):
        clips = system.sample(labels, seeds, **options)
        assert clips.shape == (3, 3, options.get("frames", 5), 8, 8)
        own = {name: value for name, value in options.items() if name != "context"}
        if "context" in options:
            own["context"] = context
            assert torch.equal(clips[:, :, :3], context.expand(3, -1, -1, -1, -1))
        torch.testing.assert_close(system.sample(labels[1:2], seeds[1:2], **own)[0], clips[1], atol=1e-4, rtol=0)
    shorter = system.sample(labels, seeds, frames=3)
    torch.testing.assert_close(shorter, system.sample(labels, seeds)[:, :, :3])


def test_frames_of_a_causal_model_see_no_later_one_and_latents_are_of_one_spread(runs):
    system, model = load_system(runs / "latents"), load_system(runs / "pixels").model
    assert isinstance(system.first_stage, FirstStage) and system.shape == (4, 3, 4, 4) and system.frame_reduction == 2
    assert system.first_stage.mean.shape == (4,) and (system.first_stage.deviation != 1).all()
    x = torch.randn(1, 3, 5, 8, 8, requires_grad=True)
    model(x, torch.rand(1, 5), torch.tensor([0]))[:, :, 2].square().sum().backward()
    assert [bool(x.grad[:, :, t].any()) for t in range(5)] == [True, True, True, False, False]


def test_sampling_writes_strips_and_gifs_that_go_on(runs, tmp_path):
    out, again = tmp_path / "x.png", tmp_path / "again.png"
    sample = ["sample", str(runs / "latents"), "--device=cpu", "--count-per-class=2"]
    assert cli.main([*sample, "--frames=7", "--frame-plan=one_by_one", f"--out={out}"]) == 0
    with Image.open(out) as strip, Image.open(out.with_suffix(".gif")) as gif:
        assert strip.height == 4 * 52 + 4 and gif.n_frames == 7 and gif.height == 2 * 52 + 4
    assert read_story(out)["options"]["frames"] == 7 and read_story(out)["options"]["frame_plan"] == "one_by_one"
    assert cli.main(["sample", str(runs / "latents"), "--device=cpu", f"--like={out}", f"--out={again}"]) == 0
    assert again.read_bytes() == out.read_bytes()
    assert cli.main([*sample, "--labels", "rising", f"--out={tmp_path / 'each'}"]) == 0
    assert sorted(path.name for path in (tmp_path / "each" / "1").iterdir()) == ["0-0.gif", "0-1.gif"]
    given = write_gif(tmp_path / "given.gif", 3)
    assert cli.main([*sample, f"--context={given}", f"--out={tmp_path / 'on'}"]) == 0
    assert torch.equal(whole(tmp_path / "on" / "0" / "0-0.gif", 3), whole(given, 3))
    measure = ["evaluate", str(runs / "pixels"), "--device=cpu", "--pictures=8", "--bins=2", f"--out={tmp_path}"]
    assert cli.main(measure) == 0


def test_captions_reach_the_network_as_tokens(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(_text, "TextEncoder", WordVectors)
    words = [*FLOW[:-1], f"--dataset={runs / 'gifs'}", "--attention=cross", f"--out={tmp_path / 'run'}"]
    assert cli.main(words) == 0
    drawn = draw_samples(load_system(tmp_path / "run"), [0, 1], 1, seed=0, device="cpu", same_noise=True)
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-4)
    prompt = ["--prompt", "rising", "--device=cpu", f"--out={tmp_path / 'x.png'}"]
    assert cli.main(["sample", str(tmp_path / "run"), *prompt]) == 0


def test_wrong_use_is_one_sentence(runs, tmp_path, capsys):
    def said(*words: object) -> str:
        return mistake(capsys, *words)

    latents = ["sample", runs / "latents", "--device=cpu", f"--out={tmp_path / 'x.png'}"]
    assert "--frames must be 1 + k·2, got 4" in said(*latents, "--frames=4")
    assert "--frames must lie in [1, 1024], got 2000" in said(*latents, "--frames=2000")
    short, long, wide = (write_gif(tmp_path / f"{n}.gif", n, side=side) for n, side in ((2, 8), (5, 8), (3, 9)))
    assert f"--context {short}: its frames must be 1 + k·2, got 2" in said(*latents, f"--context={short}")
    assert "--context must be shorter than the clip's 5 frames" in said(*latents, f"--context={long}")
    assert f"of 8×8 pixels, as the clips are, but {wide} has 9×9" in said(*latents, f"--context={wide}")
    (tmp_path / "broken.gif").write_bytes(long.read_bytes()[:30])
    (tmp_path / "notes.txt").write_text("no video")
    for name in ("broken.gif", "notes.txt", "nowhere.gif", "."):
        assert f"--context {tmp_path / name}" in said(*latents, f"--context={tmp_path / name}")
    assert "frame_plan must be one of together, pyramid, one_by_one, got 'odd'" in said(*latents, "--frame-plan=odd")
    assert "--preview-gif is for a model of images" in said(*latents, "--preview-gif=x.gif")
    assert "interval must be None where frames" in said(*latents, "--guidance=2", "--interval", "0.1", "0.5")
    assert not list(tmp_path.glob("x.*"))
    data, out = f"--dataset={runs / 'gifs'}", f"--out={tmp_path / 'x'}"
    train = ["train", "video-tokenizer", *STAGE, out]
    assert "frames must be 1 + k·2, a first one and 2 more for each latent, got 4" in said(*train, data, "--frames=4")
    assert "divide" in said(*train, data, "--size=9")
    assert "--dataset must be of clips for this recipe, moving-digits or a folder, got digits" in said(
        *train, "--dataset=digits"
    )
    assert "must be of images for this recipe" in said("train", "vae", "--dataset=moving-digits", out)
    assert "size must be above 8, the digits' own, got 8" in said(*train)
    assert "--probe is for a model of images, and the recipe video-tokenizer" in said(
        "evaluate", runs / "stage", "--probe", "--device=cpu"
    )
    other = said(*FLOW, data, f"--first-stage={runs / 'pixels'}", out)
    assert "--first-stage must be a run of video-tokenizer, but" in other
    assert "guidance_interval must be None" in said(*FLOW, data, "--guidance-interval", "0", "0.5", out)
    assert not (tmp_path / "x").exists()
    own = said("train", "text-to-video", data, f"--out={runs / 'gifs' / 'run'}", "--attention=classes")
    assert "--out must not lie inside the folder of the images" in own


def test_models_of_images_have_no_frames(tmp_path, capsys):
    flow = ["train", "rectified-flow", "--dataset=digits", "--device=cpu", "--steps=1", "--batch-size=4", *NETWORK]
    assert cli.main([*flow, f"--out={tmp_path / 'run'}"]) == 0
    for option in ("--frames=3", "--context=x.gif"):
        assert "is for a model of clips, and the recipe rectified-flow trains none" in mistake(
            capsys, "sample", tmp_path / "run", option, "--device=cpu"
        )
    assert "frame_plan is no option" in mistake(capsys, "sample", tmp_path / "run", "--frame-plan=pyramid")
