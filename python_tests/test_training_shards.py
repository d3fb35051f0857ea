"""Ranks that hold shares of a system do what one rank does that holds it whole.

This file is also the program that the ranks run: `python test_training_shards.py OUT`.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from ranks import as_ranks
from safetensors.torch import load_file, save_file
from test_tokenizers_training import tiny_system
from torch.distributed.tensor import DTensor

import visgen_fast
from visgen_fast.data.images import digits
from visgen_fast.errors import UserError
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.training import checkpoint
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings
from visgen_fast.training.system import System

STEPS = 20
RECIPES = {
    "diffusion": ("rectified-flow", {"width": 16, "depth": 2, "heads": 2}),
    "bf16": ("rectified-flow", {"width": 16, "depth": 2, "heads": 2, "mixed_precision": "bf16"}),
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
    AcceleratorState._reset_state()  # whose number format stays what the first case asked for
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


def go_on(out: Path, steps: int, **options) -> torch.Tensor:
    """Continues the run in `out` up to step `steps`, and saves it; the losses of the steps done here."""
    system, settings = made("diffusion", **{**options, "steps": steps})
    run = Run(out, settings, identity={}, resume=True)
    trainer = Trainer(system, digits(), run)
    losses = torch.stack([trainer.optimize().loss for _ in range(steps - trainer.step)])
    trainer.save(background=options.get("background_saves", False))
    trainer.saver.wait()
    run.close()
    return trainer.accelerator.reduce(losses, "mean")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, dict[str, dict[str, torch.Tensor]]]:
    """The folder of what the ranks did, and what they kept of it, by the ranks, the case and the rank."""
    out = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    command = [sys.executable, __file__, str(out)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    return out, {path.stem: load_file(path) for path in out.glob("*.safetensors")}


@pytest.fixture(scope="module")
def results(folders):
    return folders[1]


RUNS = [(2, case) for case in CASES] + [(4, "diffusion")]


@pytest.mark.parametrize(("ranks", "case"), RUNS)
def test_first_gradients_losses_and_order_are_those_of_one_rank(results, ranks, case):
    expected, got = results[f"1 {case} 0"], results[f"{ranks} {case} 0"]
    networks = {key.split(".")[0] for key in expected if key.startswith("gradient")}
    for network in networks:
        one, many = (
            torch.cat([some[key].double().flatten() for key in expected if key.startswith(f"{network}.")])
            for some in (expected, got)
        )
        # The generator's come after the step of the discriminator.
        bound = {"bf16": 1e-2}.get(case, 1e-5 if network == "gradient generator" else 1e-6)
        assert one.any() and (many - one).norm() <= bound * one.norm(), network
    assert expected["losses"][-1, 0] < expected["losses"][0, 0]
    rtol = 1e-2 if case == "bf16" else 1e-4
    torch.testing.assert_close(got["losses"], expected["losses"], rtol=rtol, atol=1e-5)
    assert torch.equal(*(order[order[:, 0].argsort()] for order in (got["order"], expected["order"])))


@pytest.mark.parametrize("options", [{"checkpoint_activations": True}, {"compile": True}])
def test_blocks_that_are_prepared_teach_the_same(options, tmp_path, monkeypatch):
    compiled = []
    # What a compiler makes of a block is none of ours, and takes it half a minute.
    monkeypatch.setattr(torch, "compile", lambda forward: compiled.append(forward) or forward)
    monkeypatch.setenv("RANK", "0")
    expected, got = train(tmp_path / "a", "diffusion"), train(tmp_path / "b", "diffusion", **options)
    assert len(compiled) == 2 * options.get("compile", False)
    torch.testing.assert_close(got["losses"], expected["losses"], rtol=1e-6, atol=0)


def test_four_ranks_hold_three_tenths_of_a_copy_each(results):
    whole, shares = results["1 diffusion 0"]["bytes"], [results[f"4 diffusion {rank}"]["bytes"] for rank in range(4)]
    assert max(shares) <= 0.3 * whole


def test_codebooks_are_the_same_bits_on_all_ranks(results):
    first, second = (results[f"2 tokenizer {rank}"] for rank in range(2))
    books = [key for key in first if key.startswith("codebook")]
    assert len(books) > 3 and all(torch.equal(first[key], second[key]) for key in books)


def test_a_run_moved_from_one_rank_to_four_and_two_agrees_with_one_that_stayed(folders):
    out, results = folders
    torch.testing.assert_close(results["moved"]["losses"], results["1 diffusion 0"]["losses"][:8, 0], rtol=1e-4, atol=0)
    saved = checkpoint.read(out / "moved")
    assert saved.state["ranks"] == 2 and saved.sharded and saved.state["step"] == 8
    kinds = ["weights", "average", "optimizer"]
    stayed = checkpoint.read(out / "stayed")
    for kind in kinds:
        expected, got = stayed.tensors(kind), saved.tensors(kind)
        assert expected.keys() == got.keys() and len(got) > 30
        for key, tensor in expected.items():
            torch.testing.assert_close(got[key], tensor, rtol=1e-3, atol=1e-5)


def test_a_damaged_shard_is_named_and_the_checkpoint_before_it_is_intact(folders, tmp_path):
    out = tmp_path / "moved"
    shutil.copytree(folders[0] / "moved", out)
    newest = checkpoint.read(out).path
    shard = newest / "shards" / "shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="step-00000008 is damaged: shard-00002.*step-00000006 is intact"):
        checkpoint.read(out).tensors("weights")
    shard.unlink()
    with pytest.raises(UserError, match="step-00000008 is damaged: shard-00002.* cannot be read"):
        checkpoint.read(out).tensors("weights")
    assert checkpoint.read(newest.with_name("step-00000006")).tensors("weights")


def test_nothing_in_a_sharded_checkpoint_is_pickled(folders):
    files = [path for path in (folders[0] / "moved").rglob("step-*/**/*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}


def test_a_full_disk_ends_every_rank_and_the_last_checkpoint_stays(folders):
    out, results = folders
    assert [len(results[f"full {rank}"]["refused"]) for rank in range(2)] == [1, 1]
    assert [path.name for path in checkpoint.checkpoints(out / "moved" / "checkpoints")][-1] == "step-00000008"
    assert not list((out / "moved" / "checkpoints").glob(".unfinished*"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"parallel": "fsdp", "mixed_precision": "fp16"}, "--parallel fsdp needs --mixed-precision bf16 or no"),
        (
            {"checkpoint_activations": True, "recompute": "cheap"},
            "--checkpoint-activations and --recompute do the same",
        ),
    ],
)
def test_settings_that_cannot_go_together_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        load_recipe("rectified-flow").settings_for("digits", **options)


def full_disk(out: Path, rank: int) -> None:
    """The second rank's disk is full when it writes; both must say so."""
    system, settings = made("diffusion", parallel="fsdp")
    run = Run(out / "moved", settings, identity={}, resume=True)
    trainer = Trainer(system, digits(), run)
    trainer.step += 1
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        trainer.save()
    except UserError as error:
        assert "a checkpoint could not be written" in str(error) and "step-00000008" in str(error), error
    else:
        return
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    save_file({"refused": torch.ones(1)}, out / f"full {rank}.safetensors")


def rank(out: Path, count: int) -> None:
    from visgen_fast.training.place import leave_ranks

    number, cases = int(os.environ["RANK"]), CASES if count < 4 else ("diffusion",)
    for case in cases:
        found = train(out / str(count), case, **({} if count == 1 else {"parallel": "fsdp"}))
        save_file(found, out / f"{count} {case} {number}.safetensors")
    leave_ranks()


def stay(out: Path) -> None:
    go_on(out / "stayed", 8)


def mover(out: Path, count: int, steps: int) -> None:
    from visgen_fast.training.place import leave_ranks

    losses = go_on(out / "moved", steps, parallel="fsdp", background_saves=True)
    if os.environ["RANK"] == "0":
        save_file({"losses": losses}, out / f"moved-{steps}.safetensors")
    if count == 2:
        full_disk(out, int(os.environ["RANK"]))
    leave_ranks()


if __name__ == "__main__":
    out = Path(sys.argv[1])
    codes = [as_ranks(count, partial(rank, out, count)) for count in (1, 2, 4)]
    codes += [as_ranks(count, partial(mover, out, count, steps)) for count, steps in ((1, 3), (4, 6), (2, 8))]
    codes += [as_ranks(1, partial(stay, out))]
    parts = [out / f"moved-{steps}.safetensors" for steps in (3, 6, 8)]
    save_file({"losses": torch.cat([load_file(part)["losses"] for part in parts])}, out / "moved.safetensors")
    sys.exit(any(map(any, codes)))
