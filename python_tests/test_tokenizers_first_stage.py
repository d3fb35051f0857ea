"""First stages: latents of mean 0 and deviation 1, of any reconstructor; diffusion in them, alike alone and in a batch.

This file is also the program that the ranks run: `torchrun --nproc-per-node 2 test_tokenizers_first_stage.py OUT`.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import visgen_fast
from visgen_fast import ops
from visgen_fast.data.images import ImagesInMemory, digits, to_range
from visgen_fast.diffusion import DiffusionObjective, RectifiedFlow, UniformTimes
from visgen_fast.diffusion.prior import DiffusionPrior, SamplerSettings
from visgen_fast.models import DiT, UNet
from visgen_fast.models.autoencoder import Decoder, Encoder
from visgen_fast.models.titok import TiTokDecoder, TiTokEncoder
from visgen_fast.nn import FSQ, LookupFree, MultiscaleQuantizer, ResidualQuantizer, VectorQuantizer
from visgen_fast.nn.class_condition import Labels
from visgen_fast.systems.generative import draw_samples
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.tokenizers import VQVAE2, Autoencoder, FirstStage, GridTokenizer, MultiscaleTokenizer, TiTok
from visgen_fast.training import checkpoint
from visgen_fast.training.loop import Trainer
from visgen_fast.training.place import leave_ranks
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings

SIZES = {"channels": 1, "widths": (8, 8), "dimensions": 4}
TRANSFORMERS = {"image_size": 8, "channels": 1, "patch_size": 4, "width": 32, "depth": 1, "heads": 2, "tokens": 6}
CPU = torch.device("cpu")


def grid(quantizer):
    return GridTokenizer(Encoder(**SIZES), quantizer, Decoder(**SIZES))


STAGES = {
    "autoencoder": lambda: Autoencoder(Encoder(**SIZES), Decoder(**SIZES)),
    "vq": lambda: grid(VectorQuantizer(32, 4)),
    "rq": lambda: grid(ResidualQuantizer(3, 32, 4)),
    "fsq": lambda: grid(FSQ((5, 5, 5, 4))),
    "lfq": lambda: grid(LookupFree(4)),
    "next-scale": lambda: MultiscaleTokenizer(
        Encoder(**SIZES), MultiscaleQuantizer(32, 4, (1, 2, 4)), Decoder(**SIZES)
    ),
    "titok": lambda: TiTok(
        TiTokEncoder(**TRANSFORMERS, dimensions=4), VectorQuantizer(32, 4), TiTokDecoder(**TRANSFORMERS, dimensions=4)
    ),
}
every_stage = pytest.mark.parametrize("name", STAGES)


def stage_of(name: str, *, measured: bool = True) -> FirstStage:
    torch.manual_seed(0)
    reconstructor = STAGES[name]()
    reconstructor.train()(images())  # codebooks begin with what they see
    stage = FirstStage(reconstructor, (1, 8, 8))
    if measured:
        stage.measure(part(0, 1000))
    return stage


def part(start: int, end: int) -> ImagesInMemory:
    whole = digits()
    return ImagesInMemory(whole.pixels[start:end], whole.labels[start:end], whole.format.class_names)


def images(count: int = 200):
    return to_range(digits().pixels[:count])


@every_stage
def test_standardised_channels_have_mean_0_and_deviation_1_on_unseen_images(name):
    stage = stage_of(name)
    unseen = to_range(digits().pixels[1000:])
    latents = stage.encode(unseen, torch.arange(len(unseen)))
    assert latents.shape[1:] == stage.shape == ((4, 1, 6) if name == "titok" else (4, 4, 4))
    channels = latents.transpose(0, 1).flatten(1)
    assert channels.mean(1).abs().max() < 0.1 and (channels.std(1) - 1).abs().max() < 0.1
    seen = to_range(digits().pixels[:1000])
    channels = stage.encode(seen, torch.arange(1000)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(channels.std(1), torch.ones(4), atol=1e-3, rtol=0)


@every_stage
def test_decoding_quantizes_first_and_gives_the_reconstruction(name):
    stage = stage_of(name)
    shown = images(7)
    latents = stage.encode(shown, torch.arange(7))
    expected = stage.reconstructor(shown).images
    torch.testing.assert_close(stage.decode(latents), expected, atol=1e-4, rtol=1e-4)
    again = stage.encode(shown[3:4], torch.arange(3, 4))
    torch.testing.assert_close(again[0], latents[3], atol=1e-4, rtol=1e-4)
    if name != "autoencoder":
        nearby = stage.decode(latents + 1e-6)
        assert float((nearby - expected).abs().flatten(1).max(1).values.median()) < 1e-4


@every_stage
def test_a_first_stage_learns_nothing_whatever_mode_the_system_is_in(name):
    stage = stage_of(name).train()
    assert not any(module.training for module in stage.modules())
    before = copy.deepcopy(stage.state_dict())
    latents = stage.encode(images(), torch.arange(200)).requires_grad_()
    stage.decode(latents).sum().backward()
    assert latents.grad.any() and not any(weight.requires_grad for weight in stage.parameters())
    for key, tensor in stage.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_under_autocast_it_stays_in_float32():
    stage, shown = stage_of("autoencoder"), images(5)
    plain = stage.encode(shown, torch.arange(5))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(stage.encode(shown, torch.arange(5)), plain)
        assert stage.decode(plain).dtype == torch.float32


def test_a_channel_that_never_changes_is_only_shifted():
    stage = stage_of("autoencoder", measured=False)
    last = [module for module in stage.reconstructor.encoder.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight[1] = 0
        last.bias[1] = 3
    stage.measure(part(0, 50))
    latents = stage.encode(images(50), torch.arange(50))
    assert latents.isfinite().all() and latents[:, 1].abs().max() < 1


def test_latents_on_two_grids_are_refused_in_a_sentence():
    top, bottom = (VectorQuantizer(32, 8) for _ in range(2))
    two = VQVAE2(size=8, channels=1, top=top, bottom=bottom, widths=(16, 16), blocks=1)
    with pytest.raises(ValueError, match="VQVAE2 has no single grid of latents that a prior could model"):
        FirstStage(two, (1, 8, 8))


def system_of(name: str, prior: str = "dit") -> PriorSystem:
    stage = stage_of(name, measured=False)
    torch.manual_seed(1)
    channels, *size = stage.shape
    common = {"image_size": tuple(size), "channels": channels, "classes": 10, "heads": 2}
    if prior == "dit":
        model = DiT(**common, patch_size=1, width=16, depth=1)
    else:
        model = UNet(**common, width=8, multipliers=(1,), depth=1, attention_resolutions=())
    objective = DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes())
    return PriorSystem(DiffusionPrior(model, objective, SamplerSettings(2, 2.0)), Labels(10, drop=0.1), stage)


def trainer_of(system: PriorSystem, out: Path, steps: int, **options) -> Trainer:
    settings = TrainingSettings(
        steps=steps, batch_size=16, learning_rate=0.01, warmup_steps=0, device="cpu", sample_every=0
    )
    return Trainer(system, part(0, 300), Run(out, settings, identity={}, **options))


@every_stage
@pytest.mark.parametrize("prior", ["dit", "unet"])
def test_diffusion_in_latents_trains_resumes_bit_for_bit_and_draws_the_same_image_alone(name, prior, tmp_path):
    trainer_of(system_of(name, prior), tmp_path / "straight", 3).run()
    trainer_of(system_of(name, prior), tmp_path / "resumed", 1).run()
    # The second go has another first stage at hand, and takes that of the run.
    other = system_of(name, prior)
    with torch.no_grad():
        for weight in other.first_stage.parameters():
            weight.add_(1)
    trainer = trainer_of(other, tmp_path / "resumed", 3, resume=True)
    trainer.run()
    ends = [tmp_path / folder / "checkpoints" / "step-00000003" for folder in ("straight", "resumed")]
    for kind in checkpoint.PARTS:
        assert len({(end / f"{kind}.safetensors").read_bytes() for end in ends}) == 1
    saved = checkpoint.read(ends[0])
    assert "first_stage.deviation" in saved.frozen() and not any("first" in key for key in saved.tensors("weights"))
    built = system_of(name, prior)
    saved.load_averaged(built)
    drawn = draw_samples(built.eval(), [3, 4], 3, seed=0, device=CPU)
    assert drawn.shape == (2, 3, 1, 8, 8)
    alone = draw_samples(built, [4], 1, seed=0, device=CPU)
    torch.testing.assert_close(alone[0, 0], drawn[1, 0], atol=1e-4, rtol=1e-4)


def test_the_noise_is_that_of_latents_of_deviation_1(tmp_path):
    trainer = trainer_of(system_of("autoencoder"), tmp_path, 1)
    system = trainer.system
    seen = []
    system.prior.model.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    batch = next(trainer.batches)
    system(batch)
    x_t, t, _ = seen[0]
    latents = system.first_stage.encode(to_range(batch.images), batch.seeds)
    noise = ops.gaussian(batch.seeds, latents.shape[1:])
    share = t[:, None, None, None]
    torch.testing.assert_close(x_t, (1 - share) * latents + share * noise, atol=1e-5, rtol=1e-4)
    assert 0.8 < float(latents.std()) < 1.2


def test_previews_are_decoded():
    seen = []
    system = system_of("autoencoder").eval()
    drawn = draw_samples(system, [1], 2, seed=0, device=CPU, callback=lambda *told: seen.append(told))
    assert len(seen) == 2 and all(x.shape == denoised.shape == (2, 1, 8, 8) for _, _, x, denoised in seen)
    assert drawn.shape == (1, 2, 1, 8, 8)


def test_two_ranks_hold_the_buffers_of_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    finished = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    alone = trainer_of(system_of("autoencoder"), tmp_path / "alone", 1).system.first_stage
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert torch.equal(found["mean"], alone.mean) and torch.equal(found["deviation"], alone.deviation)
    (part,) = (tmp_path / "cache").glob("*.safetensors")  # of one rank, for both
    assert {file.suffix for file in part.parent.iterdir()} == {".safetensors", ".json"}


if __name__ == "__main__":
    own = system_of("autoencoder")
    own.first_stage.cache = Path(sys.argv[1]) / "cache"
    trained = trainer_of(own, Path(sys.argv[1]) / "run", 1)
    trained.optimize()
    stage = trained.system.first_stage
    rank = trained.accelerator.process_index
    save_file({"mean": stage.mean, "deviation": stage.deviation}, Path(sys.argv[1]) / f"{rank}.safetensors")
    leave_ranks()
