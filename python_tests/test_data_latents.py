"""A cache of latents: what is trained on it is trained as without, and a stale one is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mistakes import mistake
from PIL import Image
from safetensors.torch import load_file, save_file
from word_vectors import ENCODED, WordVectors

from visgen_fast import cli
from visgen_fast.data import latents
from visgen_fast.data.images import ImagesInMemory, digits
from visgen_fast.data.latents import cached_latents
from visgen_fast.diffusion import DiffusionObjective, RectifiedFlow, UniformTimes
from visgen_fast.diffusion.prior import DiffusionPrior, SamplerSettings
from visgen_fast.errors import UserError
from visgen_fast.models import DiT
from visgen_fast.models.autoencoder import Decoder, Encoder
from visgen_fast.nn.class_condition import Labels
from visgen_fast.recipes import _text
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.tokenizers import Autoencoder, FirstStage, KLAutoencoder
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings

SIZES = {"channels": 1, "widths": (8,), "patch_size": 2}


def part(count: int = 40) -> ImagesInMemory:
    whole = digits()
    return ImagesInMemory(whole.pixels[:count], whole.labels[:count], whole.format.class_names)


def trainer_of(kind: str, out: Path, cache: Path | None, *, flip: bool = True) -> Trainer:
    torch.manual_seed(0)
    if kind == "kl":
        reconstructor = KLAutoencoder(Encoder(dimensions=6, **SIZES), Decoder(dimensions=3, **SIZES), 1e-6)
    else:
        reconstructor = Autoencoder(Encoder(dimensions=3, **SIZES), Decoder(dimensions=3, **SIZES))
    stage = FirstStage(reconstructor, (1, 8, 8))
    model = DiT(image_size=(4, 4), channels=3, patch_size=1, width=16, depth=1, heads=2, classes=10)
    objective = DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes())
    system = PriorSystem(DiffusionPrior(model, objective, SamplerSettings(2, 2.0)), Labels(10, drop=0.1), stage)
    stage.cache = cache
    settings = TrainingSettings(
        steps=4, batch_size=16, learning_rate=0.01, warmup_steps=0, device="cpu", horizontal_flip=flip
    )
    return Trainer(system, part(), Run(out, settings, identity={}))


@pytest.mark.parametrize("kind", ["kl", "autoencoder"])
def test_losses_are_those_without_a_cache_mirrored_images_included(kind, tmp_path):
    trainers = [
        trainer_of(kind, tmp_path / name, tmp_path / "cache" if name == "cached" else None)
        for name in ("direct", "cached")
    ]
    direct, cached = ([float(trainer.optimize().loss) for _ in range(4)] for trainer in trainers)
    assert cached == pytest.approx(direct, abs=1e-5) and len({*direct}) == 4
    names = {file.name for file in (tmp_path / "cache").iterdir()}
    assert len(names) == 3 and {name.replace("-mirrored", "") for name in names} < names


def test_what_is_kept_is_the_posterior_of_both_orientations_and_is_made_once(tmp_path, monkeypatch):
    trainer = trainer_of("kl", tmp_path / "first", tmp_path / "cache")
    stage = trainer.system.first_stage
    files = (tmp_path / "cache").glob("*.safetensors")
    kept = {file.stem.endswith("mirrored"): load_file(file)["posterior"] for file in files}
    shown = part().pixels.float() / 127.5 - 1
    with torch.no_grad():
        for turned, pixels in ((False, shown), (True, shown.flip(-1))):
            torch.testing.assert_close(kept[turned], stage.reconstructor.encoder(pixels), atol=1e-5, rtol=1e-4)
    assert kept[False].shape == (40, 6, 4, 4)  # means and log-variances
    assert not torch.allclose(kept[True], kept[False].flip(-1), atol=1e-3)

    def never(self, images):
        raise AssertionError("the encoder ran")

    again = trainer_of("kl", tmp_path / "second", tmp_path / "cache")
    monkeypatch.setattr(KLAutoencoder, "encode_posterior", never)
    again.optimize()
    batch = next(again.batches)
    assert batch.images.shape == (16, 6, 4, 4) and batch.images.dtype == torch.float32


def test_a_stale_or_damaged_cache_is_one_sentence(tmp_path):
    def make(images=None, weights: str = "a" * 64):
        return cached_latents(images or part(), tmp_path, lambda pixels: pixels.float(), weights, mirrored=False)

    made = make()
    assert torch.equal(make().kept[0], made.kept[0]) and made.format == part().format and len(made) == 40
    assert torch.equal(made.read([3, 1])[1], part().labels[[3, 1]])
    with pytest.raises(UserError, match=r"--cache .* holds latents of another first stage: remove a{16}-00000\.safe"):
        make(weights="b" * 64)
    other = part()
    other.pixels[7, 0, 3, 3] += 1
    with pytest.raises(UserError, match="holds latents of other images"):
        make(other)
    other = part()
    other.labels[0] += 1
    with pytest.raises(UserError, match="holds latents of other images"):
        make(other)
    (file,) = tmp_path.glob("*.safetensors")
    save_file({"posterior": torch.zeros(39, 1, 8, 8)}, file)
    with pytest.raises(UserError, match=f"the latents in {file} are damaged: remove that file"):
        make()
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="are damaged"):
        make()


class Read(ImagesInMemory):
    """Images that count how often they are read, and have a fingerprint if they are told one."""

    def __init__(self, name: str | None = None):
        super().__init__(part().pixels, part().labels, part().format.class_names)
        self.name, self.reads = name, 0

    def read(self, indices):
        self.reads += 1
        return super().read(indices)

    def fingerprint(self):
        return self.name


def test_what_was_interrupted_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "_PART", 16)
    done, calls = [], []

    def encode(pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return pixels.float()

    def make(images, folder="cache", mirrored=False):
        return cached_latents(images, tmp_path / folder, encode, "a" * 64, mirrored=mirrored, told=done.append)

    with pytest.raises(KeyboardInterrupt):
        make(part())
    assert done == [16, 32] and len([*(tmp_path / "cache").glob("*.safetensors")]) == 2
    made = make(part())
    assert calls[3:] == [8] and done[2:] == [40]
    assert torch.equal(made.read([39, 0, 17])[0], part().pixels[[39, 0, 17]].float())
    assert torch.equal(make(part(), mirrored=True).mirrored([20]), part().pixels[[20]].flip(-1).float())


def test_images_with_a_fingerprint_are_read_once(tmp_path):
    def make(images):
        return cached_latents(images, tmp_path, lambda pixels: pixels.float(), "a" * 64, mirrored=False)

    for name, read in (("one", 1), ("one", 0), ("other", 1), ("other", 0), (None, 1), (None, 1)):
        images = Read(name)
        make(images)
        assert images.reads == read, name


def test_the_command_line_keeps_latents_and_refuses_those_of_another_first_stage(tmp_path, capsys):
    short = ["--device=cpu", "--dataset=digits", "--batch-size=8", "--sample-every=0", "--warmup-steps=0"]
    for name, seed in (("first", 0), ("second", 1)):
        sizes = ["--widths", "4", "--dimensions=2", "--steps=1", f"--seed={seed}"]
        assert cli.main(["train", "kl-autoencoder", *short, *sizes, f"--out={tmp_path / name}"]) == 0
    network = ["--width=8", "--depth=1", "--heads=1", "--sampling-steps=1", f"--cache={tmp_path / 'cache'}"]
    train = ["train", "latent-diffusion", *short, *network, f"--out={tmp_path / 'prior'}"]
    first = f"--first-stage={tmp_path / 'first'}"
    assert cli.main([*train, first, "--steps=1"]) == 0
    assert cli.main([*train, first, "--steps=2", "--resume"]) == 0
    assert len([*(tmp_path / "cache").glob("*.safetensors")]) == 2
    said = mistake(capsys, *train[:-1], f"--out={tmp_path / 'x'}", f"--first-stage={tmp_path / 'second'}", "--steps=1")
    assert "holds latents of another first stage" in said


def test_a_data_set_is_encoded_by_a_command_and_training_encodes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_text, "TextEncoder", WordVectors)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(13):
        Image.new("RGB", (8, 8), (19 * number, 80, 120)).save(pictures / f"{number}.png")
        if number < 12:
            (pictures / f"{number}.txt").write_text(f"picture {number % 5}")
    short = ["--device=cpu", "--batch-size=4", "--sample-every=0", "--warmup-steps=0", "--steps=1", "--workers=0"]
    of = [f"--dataset={pictures}", "--size=8"]
    first, cache = tmp_path / "first", tmp_path / "cache"
    train = ["train", "kl-autoencoder", *short, *of, "--widths", "4", "--dimensions=2", f"--out={first}"]
    assert cli.main(train) == 0
    encode = [
        "encode",
        str(first),
        f"--data={pictures}",
        "--horizontal-flip",
        "--text-encoder=all-MiniLM-L6-v2",
        "--device=cpu",
    ]
    assert "--out must not lie inside" in mistake(capsys, *encode, f"--out={pictures / 'x'}")
    for workers in (0, 1):
        assert cli.main([*encode, f"--out={cache}", f"--workers={workers}"]) == 0
        assert f"10 images and 5 captions: --cache {cache}" in capsys.readouterr().out
    assert cli.main(["encode", str(first), f"--out={tmp_path / 'all'}", "--device=cpu"]) == 0
    assert f"11 images: --cache {tmp_path / 'all'}" in capsys.readouterr().out  # one of them has no caption
    assert "is for images with captions" in mistake(
        capsys, "encode", first, "--text-encoder=all-MiniLM-L6-v2", "--data=photographs", f"--out={tmp_path / 'other'}"
    )
    ENCODED.clear()
    kept = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    network = ["--width=8", "--depth=1", "--heads=2", "--patch-size=1", "--sampling-steps=1", f"--cache={cache}"]
    above = ["train", "text-to-image", *short, *of, *network, f"--first-stage={first}", f"--out={tmp_path / 'above'}"]
    assert cli.main(above) == 0 and not ENCODED
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == kept
