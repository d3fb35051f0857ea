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
from visgen_fast.errors import UserError
from visgen_fast.recipes.rectified_flow import RECIPE
from visgen_fast.training import checkpoint
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run

TINY = {"width": 16, "depth": 1, "heads": 2, "batch_size": 8, "device": "cpu", "sampling_steps": 2, "sample_every": 0}


def make_trainer(out: Path, **changes: object) -> Trainer:
    settings = RECIPE.settings_for("digits", **{**TINY, **changes})
    images = RECIPE.pictures(settings)
    run = Run(out, settings, identity={"recipe": "rectified-flow"})
    return Trainer(RECIPE.system(settings, images.format), images, run)


@pytest.mark.parametrize(
    ("bad", "step"), [(math.nan, 4), (math.inf, 4), (math.inf, 3)], ids=["NaN", "infinite", "before the last step"]
)
def test_weights_of_a_gradient_that_is_not_finite_are_never_saved(tmp_path, bad, step):
    trainer = make_trainer(tmp_path, steps=6, checkpoint_every=2, log_every=2, label_drop=0.0)
    # The embedding of "no class" enters no loss here, so that the losses stay finite.
    weight = trainer.system.prior.model.embed_label.weight

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
    monkeypatch.setattr(type(trainer.turns[0].optimizer), "step_was_skipped", True)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    trainer.run()
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")] == ["step-00000002"]


def train(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A short run in a process of its own: Accelerate keeps one number format per process."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    command = [sys.executable, "-m", "visgen_fast", "train", "rectified-flow", f"--out={out}", *options, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_bfloat16_on_the_cpu_trains_resumes_and_differs_from_float32_by_rounding_only(tmp_path):
    losses = {}
    for precision in ("no", "bf16"):
        for steps in (4, 6):
            finished = train(
                tmp_path / precision, f"--mixed-precision={precision}", "--log-every=1", f"--steps={steps}", "--resume"
            )
            assert finished.returncode == 0, finished.stderr
        with (tmp_path / precision / "losses.csv").open() as file:
            losses[precision] = torch.tensor([float(row["loss"]) for row in csv.DictReader(file)])
    assert losses["bf16"].shape == (6,) and not torch.equal(losses["bf16"], losses["no"])
    # bfloat16 has 8 bits: one rounding is off by at most 1/256.
    torch.testing.assert_close(losses["bf16"], losses["no"], rtol=1 / 256, atol=0)
    weights = checkpoint.read(tmp_path / "bf16").tensors("weights")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())


def test_float16_on_the_cpu_is_refused(tmp_path):
    finished = train(tmp_path / "run", "--mixed-precision=fp16")
    assert finished.returncode == 2 and not (tmp_path / "run").exists()
    assert (
        finished.stderr == "visgen-fast: mixed_precision fp16 needs an accelerator: on the CPU it must be no or bf16\n"
    )


def test_a_number_format_that_accelerate_refuses_is_the_user_s_mistake(tmp_path):
    make_trainer(tmp_path)
    with pytest.raises(UserError, match="mixed_precision bf16 is not to be had here: "):
        make_trainer(tmp_path, mixed_precision="bf16")
