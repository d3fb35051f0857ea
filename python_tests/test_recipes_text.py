"""Recipe text-to-image: captions are encoded once and kept; prompts; what goes wrong is one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from mistakes import mistake
from PIL import Image
from word_vectors import ENCODED, WordVectors

from visgen_fast import cli
from visgen_fast.commands.repeat import read_story
from visgen_fast.data.captions import captioned
from visgen_fast.data.folder import ImageFolder
from visgen_fast.models.text_encoder import TextEncoder
from visgen_fast.recipes import _text
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.generative import draw_samples
from visgen_fast.training import checkpoint

SHORT = ["--device=cpu", "--workers=0", "--steps=2", "--batch-size=8", "--sample-every=0", "--checkpoint-every=1"]
NETWORK = ["--width=16", "--depth=1", "--heads=2", "--patch-size=4", "--sampling-steps=2"]
TRAIN = ["train", "text-to-image", *SHORT, *NETWORK, "--learning-rate=0.02", "--warmup-steps=0"]


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    monkeypatch.setattr(_text, "TextEncoder", WordVectors)
    ENCODED.clear()


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of classes with captions beside all its images but one."""
    folder = tmp_path / "pictures"
    for place, caption in enumerate(
        ["a red dog", "a blue cat", "a red dog", None, "a fish\nun poisson", "a green cat"]
    ):
        inside = folder / ("animals" if place % 2 else "others")
        inside.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (40 * place, 80, 120)).save(inside / f"{place}.png")
        if caption is not None:
            (inside / f"{place}.txt").write_text(caption, "utf-8")
    return folder


def test_captions_are_the_first_lines_of_the_texts_beside_the_images(pictures, caplog):
    folder = ImageFolder(pictures, 8)
    assert folder.skipped == 0 and folder.format.class_names == ("animals", "others")
    images = captioned(folder)
    assert images.format.captions and images.format.class_names == ("a blue cat", "a fish", "a green cat", "a red dog")
    pixels, labels, _ = images.read(range(len(images)))
    named = {int(pixel[0, 0, 0]): images.format.class_names[label] for pixel, label in zip(pixels, labels, strict=True)}
    assert named == {0: "a red dog", 40: "a blue cat", 80: "a red dog", 160: "a fish", 200: "a green cat"}
    assert "left out 1 images" in caplog.text
    for path in pictures.rglob("*.txt"):
        path.unlink()
    assert captioned(folder) is folder


@pytest.mark.parametrize("attention", ["pooled", "cross", "joint"])
def test_a_run_is_told_captions_keeps_them_and_draws_prompts(attention, pictures, tmp_path, monkeypatch):
    out, png = tmp_path / "run", tmp_path / "x.png"
    train = [*TRAIN, f"--dataset={pictures}", "--size=8", f"--attention={attention}", f"--out={out}"]
    assert cli.main([*train, "--steps=1"]) == 0
    assert ENCODED == ["a blue cat", "a fish", "a green cat", "a red dog"]
    with monkeypatch.context() as context:
        context.setattr(_text, "TextEncoder", None)  # the checkpoint holds what was said
        assert cli.main([*train, "--resume"]) == 0
        system = load_system(out)
        assert cli.main(["sample", str(out), "--labels", "a fish", f"--out={png}", "--device=cpu"]) == 0
    words = ["--prompt", "a blue cat", "a grey fish", "--count-per-class=2", "--device=cpu"]
    assert cli.main(["sample", str(out), *words, f"--out={png}"]) == 0
    assert read_story(png)["options"]["prompt"] == ["a blue cat", "a grey fish"]
    first = png.read_bytes()
    assert cli.main(["sample", str(out), f"--like={png}", f"--out={png}", "--device=cpu"]) == 0
    assert png.read_bytes() == first
    known = draw_samples(system, [0, 1], 2, seed=0, device="cpu", same_noise=True)
    system.condition.tell(_text.Texts(*WordVectors().encode(["a grey fish", "a blue cat"], 9)))
    drawn = draw_samples(system, [0, 1], 2, seed=0, device="cpu", same_noise=True)
    torch.testing.assert_close(drawn[1], known[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-4)


def test_a_resumed_run_is_the_same_bit_for_bit(pictures, tmp_path):
    train = [*TRAIN, f"--dataset={pictures}", "--size=8", "--attention=joint"]
    assert cli.main([*train, f"--out={tmp_path / 'straight'}"]) == 0
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-00000002")
    assert cli.main([*train, f"--out={tmp_path / 'resumed'}", "--resume"]) == 0
    ends = [tmp_path / name / "checkpoints" / "step-00000002" for name in ("straight", "resumed")]
    for name in checkpoint.PARTS:
        assert len({(end / f"{name}.safetensors").read_bytes() for end in ends}) == 1
    assert not any("texts" in key for key in checkpoint.read(ends[0]).tensors("weights"))


def test_latents_take_captions_too_and_wrong_use_is_one_sentence(tmp_path, capsys):
    stage, flow, run = tmp_path / "stage", tmp_path / "flow", tmp_path / "run"
    digits = [*SHORT, "--dataset=digits"]
    assert cli.main(["train", "autoencoder", *digits, "--widths", "4", "--dimensions=4", f"--out={stage}"]) == 0
    assert cli.main(["train", "rectified-flow", *digits, *NETWORK, f"--out={flow}"]) == 0
    train = [*TRAIN, "--dataset=digits", "--patch-size=2"]
    assert cli.main([*train, f"--first-stage={stage}", f"--out={run}"]) == 0
    shutil.rmtree(stage)
    drawn = draw_samples(load_system(run), [3], 1, seed=0, device="cpu")
    assert drawn.shape == (1, 1, 1, 8, 8)

    def said(*words: object) -> str:
        return mistake(capsys, *map(str, words))

    sample = ["sample", run, "--device=cpu", f"--out={tmp_path / 'x.png'}"]
    assert "but " in said(*train, f"--first-stage={flow}", "--out=x") and not Path("x").exists()
    assert "--prompt is for a model of texts, and the recipe rectified-flow trains none: give --labels" in said(
        "sample", flow, "--prompt", "three", "--device=cpu"
    )
    assert "--prompt and --labels must not be given together" in said(*sample, "--prompt", "a", "--labels", "3")
    assert "--prompt must not be empty" in said(*sample, "--prompt", " ")
    state = next(run.rglob("step-00000002")) / "state.json"
    content = json.loads(state.read_text())
    content["settings"]["text_encoder"] = str(tmp_path)  # of another width
    state.write_text(json.dumps(content))
    assert "--prompt needs the text encoder of the run: texts must have states of 6 features, got 4" in said(
        *sample, "--prompt", "a"
    )


def test_an_encoder_s_folder_without_weights_is_one_sentence(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(_text, "TextEncoder", TextEncoder)
    for content, expected in (
        ((), "--text-encoder must be a folder with weights, but "),
        (("model.safetensors",), "has no config.json"),
        (("model.safetensors", "config.json"), "transformers cannot read the text encoder in "),
    ):
        for name in content:
            (tmp_path / name).write_text("{}")
        assert expected in mistake(capsys, *TRAIN, "--dataset=digits", f"--text-encoder={tmp_path}", "--out=x")
    assert "must be a folder of transformers, got" in mistake(
        capsys, *TRAIN, "--dataset=digits", "--text-encoder=nowhere", "--out=x"
    )


def test_an_encoder_masks_padding_and_names_and_counts_what_it_cuts(tmp_path, caplog):
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "cat", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes))
    model.save_pretrained(tmp_path)
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), model_max_length=16).save_pretrained(tmp_path)
    encoder = TextEncoder(tmp_path)
    texts = ["red cat", "blue dog red cat red cat", "dog"]
    states, lengths = encoder.encode(texts, 6)
    assert lengths.tolist() == [4, 6, 3] and states.shape == (13, 8)
    assert "cut 1 of 3 texts to 6 tokens: 'blue dog red cat red cat'" in caplog.text
    torch.testing.assert_close(encoder.encode(texts[:1], 6)[0], states[:4], atol=1e-5, rtol=1e-5)
