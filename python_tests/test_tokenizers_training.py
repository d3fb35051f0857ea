"""Training tokenizers: what a step teaches, what a run leaves behind, and that it goes on bit for bit."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visgen_fast import cli
from visgen_fast.data.images import digits
from visgen_fast.data.order import Batch
from visgen_fast.errors import UserError
from visgen_fast.models.autoencoder import Decoder, Encoder
from visgen_fast.models.classifier import Classifier
from visgen_fast.models.discriminator import PatchDiscriminator
from visgen_fast.nn import BSQ, LookupFree
from visgen_fast.nn.residual_quantizer import ResidualQuantizer
from visgen_fast.recipes.rq_vae import Settings
from visgen_fast.recipes.runs import trained_classifier
from visgen_fast.systems.tokenizer import ReconstructionLoss, TokenizerSystem
from visgen_fast.tokenizers import Autoencoder, GridTokenizer
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings

TINY = ["--dataset=digits", "--widths", "8", "16", "--patch-size=1", "--batch-size=16", "--device=cpu"]
TINY += ["--warmup-steps=0", "--lr-schedule=constant", "--codes=32", "--dimensions=4"]
ADVERSARIAL = ["--adversarial=0.5", "--discriminator-width=4", "--discriminator-layers=1", "--adversarial-start=2"]


def tiny_system(loss: ReconstructionLoss | None = None, **options) -> TokenizerSystem:
    torch.manual_seed(0)
    sizes = {"channels": 1, "widths": (8, 16), "dimensions": 4}
    # Without revival, which replaces codes at random, accumulated micro-batches teach what one batch teaches.
    quantizer = ResidualQuantizer(2, 16, 4, shared=True, commit="manual", dead_below=0.0)
    tokenizer = GridTokenizer(Encoder(**sizes), quantizer, Decoder(**sizes))
    return TokenizerSystem(tokenizer, loss or ReconstructionLoss(), **options)


def trainer_of(system: TokenizerSystem, out: Path, **settings) -> Trainer:
    options = {"steps": 30, "batch_size": 32, "learning_rate": 5e-3, "warmup_steps": 0, "device": "cpu", **settings}
    return Trainer(system, digits(), Run(out, TrainingSettings(**options), identity={"recipe": "test"}))


def batch_of(count: int = 8) -> Batch:
    pixels, labels, _ = digits().read(range(count))
    return Batch(pixels, labels, torch.arange(count), 0, (), torch.arange(count))


def test_the_loss_falls_and_the_psnr_rises(tmp_path):
    trainer = trainer_of(tiny_system(), tmp_path)
    losses = torch.stack([trainer.optimize()[0] for _ in range(30)])
    assert losses[-5:].mean() < 0.6 * losses[:5].mean()
    early = float(trainer.system.metrics()["psnr"])
    for _ in range(10):
        trainer.optimize()
    assert float(trainer.system.metrics()["psnr"]) > early


def test_accumulated_micro_batches_commit_once_and_teach_what_one_batch_teaches(tmp_path):
    trained = {}
    for accumulation in (1, 4):
        system = tiny_system()
        commits = []
        quantizer = system.tokenizer.quantizer
        quantizer.commit = lambda quantizer=quantizer, commits=commits: (
            commits.append(1),
            ResidualQuantizer.commit(quantizer),
        )
        trainer = trainer_of(system, tmp_path / str(accumulation), accumulation=accumulation)
        losses = [trainer.optimize()[0] for _ in range(3)]
        assert len(commits) == 3
        trained[accumulation] = torch.stack(losses), quantizer.codebook.embedding
    torch.testing.assert_close(trained[1], trained[4], rtol=1e-4, atol=1e-6)


def test_the_average_has_the_codebook_as_it_is(tmp_path):
    trainer = trainer_of(tiny_system(), tmp_path)
    before = trainer.system.tokenizer.quantizer.codebook.embedding.clone()
    for _ in range(3):
        trainer.optimize()
    trained, average = trainer.system.tokenizer, trainer.average.module.tokenizer
    assert torch.equal(average.quantizer.codebook.embedding, trained.quantizer.codebook.embedding)
    assert not torch.equal(before, trained.quantizer.codebook.embedding)
    assert not torch.equal(average.last_layer, trained.last_layer)


def test_both_players_of_the_game_learn_in_one_step_from_gradients_of_their_own(tmp_path):
    torch.manual_seed(1)
    discriminator = PatchDiscriminator(channels=1, width=4, layers=1)
    system = tiny_system(ReconstructionLoss(adversarial=0.5), discriminator=discriminator, adversary_lr_scale=0.5)
    trainer = trainer_of(system, tmp_path, beta2=0.97)
    groups = [group for turn in trainer.turns for group in turn.optimizer.param_groups]
    assert [len(group["params"]) for group in groups] == [
        len(list(system.tokenizer.parameters())),
        len(list(discriminator.parameters())),
    ]
    before = {name: parameter.clone() for name, parameter in system.named_parameters()}
    losses = trainer.optimize().losses
    assert [group["lr"] for group in groups] == [5e-3, 2.5e-3]
    assert [group["betas"] for group in groups] == [(0.9, 0.97), (0.5, 0.97)]
    assert all(not torch.equal(parameter, before[name]) for name, parameter in system.named_parameters())
    measured = trainer.system.metrics()
    assert set(measured) == set(system.metric_names) and 0.5 < losses["discriminator"] < 2


def test_before_its_start_the_adversary_changes_nothing(tmp_path):
    torch.manual_seed(1)
    discriminator = PatchDiscriminator(channels=1, width=4, layers=1)
    loss = ReconstructionLoss(adversarial=0.5, adversarial_start=2)
    waiting = trainer_of(tiny_system(loss, discriminator=discriminator), tmp_path / "a")
    alone = trainer_of(tiny_system(), tmp_path / "b")
    before = [parameter.clone() for parameter in discriminator.parameters()]
    for step in range(3):
        waiting.optimize()
        alone.optimize()
        unmoved = all(torch.equal(old, new) for old, new in zip(before, discriminator.parameters(), strict=True))
        same = torch.equal(waiting.system.tokenizer.last_layer, alone.system.tokenizer.last_layer)
        assert unmoved == same == (step < 2)


def test_the_adversary_s_share_of_the_gradient_is_its_weight(tmp_path):
    torch.manual_seed(1)
    discriminator = PatchDiscriminator(channels=1, width=4, layers=1)
    gradients = {}
    for name, options in {
        "both": {"loss": ReconstructionLoss(adversarial=0.5), "discriminator": discriminator},
        "pixels": {},
    }.items():
        system = tiny_system(**options)
        system(batch_of()).mean().backward()
        gradients[name] = system.tokenizer.last_layer.grad
    # The adaptive weight makes both gradients equally long; the loss's own weight halves the adversary's.
    share = (gradients["both"] - gradients["pixels"]).norm() / gradients["pixels"].norm()
    assert float(share) == pytest.approx(0.5, rel=0.02)


def test_the_perceptual_loss_adds_its_weight_times_the_distance():
    torch.manual_seed(1)
    classifier = Classifier(channels=1, classes=10, widths=(4, 8))
    plain, perceptual = tiny_system(), tiny_system(ReconstructionLoss(perceptual=3.0), features=classifier)
    difference = perceptual(batch_of()) - plain(batch_of())
    distance = perceptual.metrics()["perceptual"]
    torch.testing.assert_close(difference.mean(), 3 * distance, rtol=1e-4, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in perceptual.features.parameters())
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_a_weight_without_its_network_is_refused():
    with pytest.raises(ValueError, match="perceptual"):
        tiny_system(ReconstructionLoss(perceptual=1.0))
    with pytest.raises(ValueError, match="adversarial"):
        tiny_system(discriminator=PatchDiscriminator(channels=1, width=4))


def test_the_adversary_is_refused_in_fp16():
    with pytest.raises(ValueError, match="mixed_precision must be no or bf16 with adversarial"):
        Settings(adversarial=0.5, mixed_precision="fp16")
    assert Settings(adversarial=0.5, mixed_precision="bf16").adversarial == Settings(adversarial=0.5).adversarial


def test_the_usage_of_a_run_is_that_of_all_ranks(monkeypatch):
    system = tiny_system()
    system(batch_of())
    others = torch.ones_like(system.tokenizer.quantizer.code_counts)
    monkeypatch.setattr("visgen_fast.nn.quantizer.sum_over_ranks", lambda tensors: [tensors[0] + others])
    assert system.metrics()["usage"] == 1


def test_a_plain_autoencoder_trains_without_a_quantizer(tmp_path):
    sizes = {"channels": 1, "widths": (8, 16), "dimensions": 4}
    torch.manual_seed(0)
    system = TokenizerSystem(Autoencoder(Encoder(**sizes), Decoder(**sizes)), ReconstructionLoss("l1"))
    trainer = trainer_of(system, tmp_path)
    losses = torch.stack([trainer.optimize()[0] for _ in range(20)])
    assert losses[-1] < losses[0] and set(system.metrics()) == {"psnr"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """A run with an adversary in one go, and the same run in two."""
    straight, resumed = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("resumed")
    command = [
        "train",
        "rq-vae",
        *TINY,
        *ADVERSARIAL,
        "--log-every=2",
        "--checkpoint-every=0",
        "--quantizer-dropout=0.5",
    ]
    assert cli.main([*command, f"--out={straight}", "--resume", "--steps=7"]) == 0
    assert cli.main([*command, f"--out={resumed}", "--resume", "--steps=4"]) == 0
    assert cli.main([*command, f"--out={resumed}", "--resume", "--steps=7"]) == 0
    return straight, resumed


def test_a_resumed_run_equals_one_that_never_stopped_codebook_and_adversary_included(runs):
    straight, resumed = (run / "checkpoints" / "step-00000007" for run in runs)
    for part in ("weights", "average", "optimizer"):
        assert (straight / f"{part}.safetensors").read_bytes() == (resumed / f"{part}.safetensors").read_bytes()
    for name in ("metrics.json", "reconstructions.png"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()


def test_a_run_leaves_its_reconstructions_and_its_metrics(runs):
    out = runs[0]
    assert not (out / "samples.png").exists()
    with Image.open(out / "reconstructions.png") as grid:
        # The input and four depths.
        assert grid.height == 4 + 5 * 52
    measured = json.loads((out / "metrics.json").read_text())
    assert set(measured) >= {"psnr", "usage", "perplexity"}
    assert 0 < measured["usage"] <= 1 <= measured["perplexity"] <= 32
    with (out / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 7]
    assert all(float(row["usage"]) > 0 and np.isfinite(float(row["adversarial_weight"])) for row in rows)


def test_a_tokenizer_s_checkpoint_draws_no_samples_and_says_so(runs, capsys):
    assert cli.main(["sample", str(runs[0])]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1 and "rq-vae" in complaint and "reconstructions.png" in complaint


@pytest.mark.parametrize(
    ("recipe", "own"),
    [
        ("vq-vae", ["--codes=32", "--dimensions=4"]),
        ("autoencoder", ["--dimensions=4"]),
        ("fsq", ["--levels", "5", "3"]),
        ("lfq", ["--bits=4"]),
    ],
)
def test_every_recipe_trains(recipe, own, tmp_path):
    shared = [option for option in TINY if not option.startswith(("--codes", "--dimensions"))]
    assert cli.main(["train", recipe, *shared, *own, "--steps=2", f"--out={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "reconstructions.png").exists()


def test_a_classifier_s_features_serve_a_tokenizer(tmp_path, capsys):
    classifier = tmp_path / "classifier"
    command = ["train", "classifier", "--dataset=digits", "--widths", "4", "8", "--steps=3", "--device=cpu"]
    assert cli.main([*command, f"--out={classifier}"]) == 0
    assert 0 <= json.loads((classifier / "metrics.json").read_text())["accuracy"] <= 1
    with Image.open(classifier / "predictions.png") as grid:
        assert grid.height == 4 + 10 * 52
    command = ["train", "vq-vae", *TINY, "--steps=2", "--perceptual=1"]
    assert cli.main([*command, f"--features={classifier}", f"--out={tmp_path / 'run'}"]) == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["rfid"] > 0
    # Without a weight the features measure and teach nothing.
    runs = {"with": [f"--features={classifier}"], "without": []}
    for name, options in runs.items():
        assert cli.main([*command[:-1], *options, f"--out={tmp_path / name}"]) == 0
    found = {name: json.loads((tmp_path / name / "metrics.json").read_text()) for name in runs}
    assert found["with"].pop("rfid") > 0 and np.isfinite(found["with"].pop("kernel_distance"))
    assert found["with"] == found["without"]
    capsys.readouterr()
    assert cli.main([*command, f"--out={tmp_path / 'x'}"]) == 2
    assert "--features" in capsys.readouterr().err
    assert cli.main([*command, f"--features={tmp_path / 'without'}", f"--out={tmp_path / 'x'}"]) == 2
    assert "--features must be a run of the recipe classifier, but" in capsys.readouterr().err


def test_a_tokenizer_s_checkpoint_needs_the_classifier_s_no_more(tmp_path, capsys):
    classifier = tmp_path / "classifier"
    command = ["train", "classifier", "--dataset=digits", "--widths", "4", "8", "--steps=3", "--device=cpu"]
    assert cli.main([*command, f"--out={classifier}"]) == 0
    command = ["train", "vq-vae", *TINY, "--perceptual=1", f"--features={classifier}"]
    assert cli.main([*command, "--steps=4", f"--out={tmp_path / 'straight'}"]) == 0
    assert cli.main([*command, "--steps=2", f"--out={tmp_path / 'moved'}"]) == 0
    shutil.rmtree(classifier)
    here = (tmp_path / "moved").rename(tmp_path / "here")
    assert cli.main(["evaluate", str(here), f"--features={here}", "--pictures=50"]) == 0
    assert json.loads((here / "evaluation.json").read_text())["rfid"] > 0
    assert cli.main([*command, "--steps=4", f"--out={here}", "--resume"]) == 0
    for part in ("weights", "average", "optimizer"):
        ends = (run / "checkpoints" / "step-00000004" / f"{part}.safetensors" for run in (tmp_path / "straight", here))
        assert len({end.read_bytes() for end in ends}) == 1
    capsys.readouterr()
    assert cli.main([*command, f"--out={tmp_path / 'new'}"]) == 2
    assert f"--features: {classifier} holds no checkpoint" in capsys.readouterr().err


def test_a_classifier_of_other_channels_is_refused(tmp_path, capsys):
    command = ["train", "classifier", "--dataset=digits", "--widths", "4", "--steps=1", "--device=cpu"]
    assert cli.main([*command, f"--out={tmp_path}"]) == 0
    with pytest.raises(UserError, match="--features must be a classifier of images of 3 channels.* sees 1"):
        trained_classifier(tmp_path, 3)


def test_what_depends_on_the_micro_batch_is_named():
    adversary = {"loss": ReconstructionLoss(adversarial=0.5), "discriminator": PatchDiscriminator(channels=1, width=4)}
    assert tiny_system().per_micro_batch == ()
    assert tiny_system(**adversary).per_micro_batch == ("adaptive weights of the adversary",)
    features = {"channels": 1, "widths": (8, 16), "dimensions": 4, "dropout": 0.1}
    for quantizer, expected in {
        ResidualQuantizer(2, 16, 4): "draws for the revival of dead codes",
        LookupFree(4): "batch entropies of the codes",
        BSQ(4): "batch entropies of the codes",
        LookupFree(4, entropy_weight=0): None,
    }.items():
        tokenizer = GridTokenizer(Encoder(**features), quantizer, Decoder(**features))
        found = TokenizerSystem(tokenizer, ReconstructionLoss()).per_micro_batch
        assert found == (("dropout", expected) if expected else ("dropout",))
