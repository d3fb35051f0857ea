"""Any first stage goes with any condition, prior and attention: it trains, resumes and draws, or says why not."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_models_told import texts
from test_tokenizers_first_stage import STAGES, part, stage_of
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.autoregression import CodeModel, raster
from visgen_fast.autoregression.masked_prior import MaskedCodePrior, MaskedSampling
from visgen_fast.autoregression.prior import CodePrior, CodeSampling
from visgen_fast.data.order import Batch
from visgen_fast.diffusion import CosineVP, DiffusionObjective, LogitNormalTimes, MinSNR, RectifiedFlow, UniformTimes
from visgen_fast.diffusion.prior import DiffusionPrior, SamplerSettings
from visgen_fast.models import DiT, MaskedModel, MMDiT, SequenceModel, UNet
from visgen_fast.nn.class_condition import ClassCondition, Labels
from visgen_fast.nn.text_condition import TextCondition
from visgen_fast.systems.generative import draw_samples
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.tokenizers import PixelCodes
from visgen_fast.tokenizers.code_stage import CodeStage
from visgen_fast.tokenizers.first_stage import Pixels
from visgen_fast.tokenizers.places import code_shape
from visgen_fast.training import optimizer_state
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings

WIDTH, COUNT = 6, 60
CPU = torch.device("cpu")
CONDITIONS = {
    "labels": lambda: Labels(10, 0.3),
    "classes": lambda: ClassCondition(10, WIDTH, 0.3),
    "texts": lambda: TextCondition(texts(*[1, 5, 2, 4, 3] * 2, width=WIDTH), 0.3),
}
PRIORS = {
    "velocity": lambda: (DiffusionObjective(RectifiedFlow(), "velocity", LogitNormalTimes()), "euler"),
    "v": lambda: (DiffusionObjective(CosineVP(), "v", UniformTimes(), weight=MinSNR()), "dpm++2m"),
    "epsilon": lambda: (DiffusionObjective(CosineVP(), "x", UniformTimes(), loss="v"), "ddpm"),
}
ATTENTIONS = ("labels", "pooled", "cross", "joint", "u-net")
CODE_MODELS: dict[str, tuple[type[CodeModel], dict[str, int]]] = {
    "sequence of labels": (SequenceModel, {"classes": 10}),
    "sequence": (SequenceModel, {"pooled": WIDTH}),
    "masked of labels": (MaskedModel, {"classes": 10}),
    "masked": (MaskedModel, {"pooled": WIDTH}),
}


def combinations() -> list[tuple[str, ...]]:
    """Of diffusion two thirds, of codes one."""
    stages = "pixels", *STAGES
    diffusion = [(s, c, p, a) for s in stages for c in CONDITIONS for p in PRIORS for a in ATTENTIONS]
    codes = [(s, c, "codes", m) for s in stages if s != "autoencoder" for c in CONDITIONS for m in CODE_MODELS]
    drawn = random.Random(0)
    return drawn.sample(diffusion, 2 * COUNT // 3) + drawn.sample(codes, COUNT // 3)


def network(attention: str, shape: tuple[int, ...]) -> nn.Module:
    channels, *size = shape
    sizes: dict[str, Any] = {"image_size": tuple(size), "channels": channels, "width": 16, "depth": 1, "heads": 2}
    if attention == "u-net":
        return UNet(**{**sizes, "width": 8}, multipliers=(1,), attention_resolutions=(), classes=10)
    sizes["patch_size"] = 2 if min(size) > 1 else 1
    if attention == "labels":
        return DiT(**sizes, classes=10)
    told = {"pooled": WIDTH, "mlp": "swiglu", "normalized": True, "rotary": True}
    if attention == "joint":
        return MMDiT(**sizes, **told, tokens=WIDTH)
    return DiT(**sizes, **told, tokens=WIDTH if attention == "cross" else None)


@cache
def first_stage(name: str) -> Any:
    return Pixels((1, 8, 8)) if name == "pixels" else stage_of(name, measured=False)


def system_of(stage: str, condition: str, prior: str, attention: str) -> PriorSystem:
    torch.manual_seed(1)
    if prior == "codes":
        return system_of_codes(stage, condition, attention)
    below, (objective, sampler) = first_stage(stage), PRIORS[prior]()
    model = network(attention, below.shape)
    for name, parameter in model.named_parameters():
        if not name.endswith("bias"):  # gates and outputs begin at 0
            nn.init.normal_(parameter, std=0.1)
    made = DiffusionPrior(model, objective, SamplerSettings(2, 1.5, sampler))
    return PriorSystem(made, CONDITIONS[condition](), below)


def system_of_codes(stage: str, condition: str, kind: str) -> PriorSystem:
    tokenizer: Any = PixelCodes(8, 1, 4)
    shape, size = tokenizer.shape, tokenizer.code_size
    if stage != "pixels":
        tokenizer = first_stage(stage).reconstructor
        shape, size = code_shape(tokenizer, 8, 8), tokenizer.quantizer.size
    network, told = CODE_MODELS[kind]
    model: Any = network(raster(shape), size, width=16, depth=1, heads=2, **told)
    masked = MaskedCodePrior(model, MaskedSampling(1.5, steps=3)) if kind.startswith("masked") else None
    return PriorSystem(
        masked or CodePrior(model, CodeSampling(1.5)), CONDITIONS[condition](), CodeStage(tokenizer, shape)
    )


def state(trainer: Trainer) -> list[Tensor]:
    moments = optimizer_state.tensors([turn.optimizer.optimizer for turn in trainer.turns], trainer.system)
    parts = trainer.system.state_dict(), trainer.average.weights.state_dict(), moments
    return [tensors[name] for tensors in parts for name in sorted(tensors)]


def outcome(combination: tuple[str, ...], out: Path) -> str:
    """That it works, or the sentence that says why the parts don't fit."""
    settings = TrainingSettings(steps=2, batch_size=8, learning_rate=0.01, warmup_steps=0, device="cpu", sample_every=0)
    images = part(0, 40)
    try:
        trainer = Trainer(system_of(*combination), images, Run(out, settings, identity={}))
        trainer.optimize()
    except ValueError as error:
        return str(error)
    trainer.save()
    trainer.folder.close()
    resumed = Trainer(system_of(*combination), images, Run(out, settings, identity={}, resume=True))
    trainer.optimize(), resumed.optimize()
    resumed.folder.close()
    assert all(torch.equal(one, other) for one, other in zip(state(trainer), state(resumed), strict=True)), combination
    averaged = resumed.average.module
    drawn = draw_samples(averaged, [3, 4], 2, seed=0, device=CPU)
    alone = draw_samples(averaged, [4], 1, seed=0, device=CPU)
    assert drawn.shape == (2, 2, 1, 8, 8) and drawn.isfinite().all(), combination
    torch.testing.assert_close(alone[0, 0], drawn[1, 0], atol=1e-4, rtol=1e-4)
    return "works"


def test_sixty_combinations_train_resume_bit_for_bit_and_draw_the_same_image_alone(tmp_path):
    found = {parts: outcome(parts, tmp_path / str(place)) for place, parts in enumerate(combinations())}
    for (stage, condition, prior, attention), said in found.items():
        reads_labels = attention == "u-net" or attention.endswith("labels")
        if (condition == "labels") == reads_labels:
            assert said == "works", (stage, condition, prior, attention, said)
        else:
            assert said.startswith(("this network is told ", "the condition must be labels ")) and "\n" not in said
    assert Counter(parts[2] == "codes" for parts, said in found.items() if said == "works")[True] >= 5
    assert Counter(said == "works" for said in found.values())[True] >= 20


@pytest.mark.parametrize("attention", ["pooled", "cross", "joint"])
def test_a_caption_draws_the_same_image_whatever_its_padding_and_the_null_without_guidance(attention):
    system = system_of("pixels", "texts", "velocity", attention).eval()
    before = draw_samples(system, [0, 1], 2, seed=0, device=CPU)
    unguided = draw_samples(system, [0, 1], 2, seed=0, device=CPU, guidance=0.0)
    system.condition.texts.longest = 40
    torch.testing.assert_close(draw_samples(system, [0, 1], 2, seed=0, device=CPU), before, atol=1e-5, rtol=1e-5)
    seeds = ops.derive_seeds(0, torch.arange(2), step=1, purpose=ops.Purpose.INITIAL_STATE)
    null = system.condition(torch.full((2,), 10))
    told_nothing = system.prior.draw(system.shape, null, seeds, guidance=1.0)
    torch.testing.assert_close(unguided[1], told_nothing, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[0], before[1], atol=1e-2) and not torch.allclose(before, unguided, atol=1e-3)


def test_captions_that_are_all_dropped_have_the_loss_of_the_null():
    system = system_of("pixels", "texts", "velocity", "cross")
    system.condition.drop = 1.0
    pixels, labels, _ = part(0, 5).read(range(5))
    seeds = ops.derive_seeds(0, torch.arange(5))
    null = system.condition(torch.full((5,), 10))
    dropped = system(Batch(pixels, labels, seeds, 0, (), torch.arange(5)))
    torch.testing.assert_close(dropped, system.prior.loss(pixels, null, seeds))
    assert system.frozen == ("condition.texts",) and system_of("vq", "labels", "v", "labels").frozen == ("first_stage",)
