"""Ranks that hold shares of a system do what one rank does that holds it whole.

This file is also the program that the ranks run: `torchrun --nproc-per-node N test_training_shards.py OUT`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_tokenizers_training import tiny_system
from torch.distributed.tensor import DTensor

import visgen_fast
from visgen_fast.data.images import digits
from visgen_fast.errors import UserError
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings
from visgen_fast.training.system import System

STEPS = 20
RECIPES = {
    "diffusion": ("rectified-flow", {"width": 16, "depth": 2, "heads": 2}),
    "gan": ("dcgan", {"width": 4, "latents": 6, "kind": "hinge", "r1": 1.0}),
    "tokens": ("pixel-gpt", {"width": 16, "depth": 2, "heads": 2, "dropout": 0.0}),
}
CASES = (*RECIPES, "tokenizer")
COMMON = {"batch_size": 16, "device": "cpu", "warmup_steps": 0, "lr_schedule": "constant", "learning_rate": 1e-3}
COMMON |= {"steps": STEPS, "sample_every": 0, "gradient_clip": 1e9}


def made(case: str, **options) -> tuple[System, TrainingSettings]:
    """A small system with weights that are nowhere all zero, on whichever device is torch's."""
    torch.manual_seed(1)
    if case == "tokenizer":
        return tiny_system(), TrainingSettings(**COMMON, **options)
    name, own = RECIPES[case]
    recipe = load_recipe(name)
    settings = recipe.settings_for("digits", **{**COMMON, **own, **options})
    system = recipe.system(settings, recipe.pictures(settings).format)
    for parameter in system.parameters():
        # Behind zero-initialised layers all gradients would be zero, and equal for that reason.
        if not parameter.is_meta and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return system, settings


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def held(tensors) -> int:
    """The bytes of this rank's shares."""
    shares = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum(share.numel() * share.element_size() for share in shares)


def train(out: Path, case: str, **options) -> dict[str, torch.Tensor]:
    """The losses, the first gradients, the positions and seeds of the images, and what this rank holds."""
    meta = options.get("parallel") == "fsdp" and int(os.environ["RANK"]) > 0
    with torch.device("meta" if meta else "cpu"):
        system, settings = made(case, **options)
    trainer = Trainer(system, digits(), Run(out / case, settings, identity={"recipe": case}))
    found: dict[str, torch.Tensor] = {}
    seen: list[torch.Tensor] = []

    def keep_first(optimizer, *_: object) -> None:
        for name, parameter in system.named_parameters():
            mine = any(parameter is one for group in optimizer.param_groups for one in group["params"])
            if mine and parameter.grad is not None and f"gradient {name}" not in found:
                found[f"gradient {name}"] = whole(parameter.grad).clone()

    for turn in trainer.turns:
        turn.optimizer.optimizer.register_step_pre_hook(keep_first)
    next_batch = trainer._next_batch
    trainer._next_batch = lambda: seen.append(batch := next_batch()) or batch
    losses = [torch.stack(list(trainer.optimize().losses.values())) for _ in range(STEPS)]
    found["losses"] = trainer.accelerator.reduce(torch.stack(losses), "mean")
    found["order"] = trainer.accelerator.gather(torch.cat([torch.stack((b.positions, b.seeds), 1) for b in seen]))
    state = [moment for turn in trainer.turns for moment in turn.optimizer.optimizer.state.values()]
    kept = [*system.parameters(), *trainer.average.of.values(), *(moment[key] for moment in state for key in moment)]
    found["bytes"] = torch.tensor(held(kept))
    codes = [module for module in system.modules() if getattr(module, "replicated", False)]
    found |= {f"codebook {key}": value for module in codes for key, value in module.state_dict().items()}
    return found


def run_ranks(ranks: int, out: Path, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *launcher, __file__, str(out), *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    found = {f"1 {case}": train(tmp_path_factory.mktemp("one"), case) for case in CASES}
    for ranks, cases in ((2, CASES), (4, ("diffusion",))):
        out = tmp_path_factory.mktemp("ranks")
        run_ranks(ranks, out, *cases)
        found |= {f"{ranks} {path.stem}": load_file(path) for path in out.glob("*.safetensors")}
    return found


RUNS = [(2, case) for case in CASES] + [(4, "diffusion")]


@pytest.mark.parametrize(("ranks", "case"), RUNS)
def test_first_gradients_losses_and_order_are_those_of_one_rank(results, ranks, case):
    expected, got = results[f"1 {case}"], results[f"{ranks} {case} 0"]
    gradients = {key: value.double() for key, value in expected.items() if key.startswith("gradient")}
    assert len(gradients) > 10
    first = next(iter(expected["losses"].unbind(1)))
    for key, gradient in gradients.items():
        # The second player's come after the first one's step.
        bound = 1e-5 if case == "gan" and "generator" in key else 1e-6
        assert gradient.any(), key
        assert (got[key].double() - gradient).norm() <= bound * gradient.norm(), key
    assert first[-1] < first[0]
    torch.testing.assert_close(got["losses"], expected["losses"], rtol=1e-4, atol=1e-5)
    assert torch.equal(*(order[order[:, 0].argsort()] for order in (got["order"], expected["order"])))


def test_four_ranks_hold_three_tenths_of_a_copy_each(results):
    whole, shares = results["1 diffusion"]["bytes"], [results[f"4 diffusion {rank}"]["bytes"] for rank in range(4)]
    assert max(shares) <= 0.3 * whole


def test_codebooks_are_the_same_bits_on_all_ranks(results):
    first, second = (results[f"2 tokenizer {rank}"] for rank in range(2))
    books = [key for key in first if key.startswith("codebook")]
    assert len(books) > 3 and all(torch.equal(first[key], second[key]) for key in books)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"parallel": "fsdp", "mixed_precision": "fp16"}, "--parallel fsdp needs --mixed-precision bf16 or no"),
        ({"checkpoint_activations": True, "recompute": "cheap"}, "--checkpoint-activations and --recompute do the same"),
    ],
)
def test_settings_that_cannot_go_together_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        load_recipe("rectified-flow").settings_for("digits", **options)


if __name__ == "__main__":
    from visgen_fast.training.place import leave_ranks

    for case in sys.argv[2:]:
        found = train(Path(sys.argv[1]), case, parallel="fsdp")
        save_file(found, Path(sys.argv[1]) / f"{case} {os.environ['RANK']}.safetensors")
    leave_ranks()
