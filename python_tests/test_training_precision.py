"""Numbers that training refuses, and the number formats it computes in."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import visgen_fast
from visgen_fast.recipes import digits
from visgen_fast.training import checkpoint
from visgen_fast.training.errors import UserError
from visgen_fast.training.loop import Trainer

TINY = {"width": 16, "depth": 1, "heads": 2, "batch_size": 8, "device": "cpu", "sampling_steps": 2, "sample_every": 0}


def make_trainer(out: Path, **changes: object) -> Trainer:
    settings = digits.Settings(**{**TINY, **changes})
    pictures = digits.pictures(settings)
    return Trainer(digits.system(settings, pictures.format), pictures, settings, out, identity={"recipe": "digits"})


@pytest.mark.parametrize(
    ("bad", "step"), [(math.nan, 4), (math.inf, 4), (math.inf, 3)], ids=["NaN", "infinite", "before the last step"]
)
def test_weights_of_a_gradient_that_is_not_finite_are_never_saved(tmp_path, bad, step):
    trainer = make_trainer(tmp_path, steps=6, checkpoint_every=2, log_every=2, label_drop=0.0)
    # The embedding of "no class" enters no loss here, so that the losses stay finite.
    weight = trainer.bare_system.model.embed_label.weight

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if trainer.step == step - 1:
            gradient = gradient.clone()
            gradient[-1, 0] = bad
        return gradient

    weight.register_hook(spoil)
    with pytest.raises(UserError, match="gradient is no longer finite at step 4: try a lower --learning-rate$"):
        trainer.run()
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")] == ["step-00000002"]
    assert all(tensor.isfinite().all() for tensor in checkpoint.read(tmp_path).tensors("weights").values())


def test_a_step_that_the_loss_scaler_leaves_out_stops_nothing(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, steps=2)
    monkeypatch.setattr(type(trainer.optimizer), "step_was_skipped", True)
    monkeypatch.setattr(trainer.accelerator, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    trainer.run()
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")] == ["step-00000002"]
