"""The folder of a run: one trainer at a time, frozen networks once, permissions, and disks that refuse."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from games import Game, few_digits
from safetensors.torch import load_file, save_file

import visgen_fast
from visgen_fast import cli
from visgen_fast.errors import UserError
from visgen_fast.training import checkpoint, disk
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings

SETTINGS = {"batch_size": 8, "steps": 2, "device": "cpu", "sample_every": 0, "warmup_steps": 0}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
TINY = ["--width=16", "--depth=1", "--heads=2", "--batch-size=8", "--steps=3", "--device=cpu", "--sampling-steps=2"]
LONG = 600  # seconds: far more than any of these takes, on however busy a machine


def run_of(out: Path, *, resume: bool = False, **changes) -> Run:
    return Run(out, TrainingSettings(**{**SETTINGS, **changes}), identity={"recipe": "test"}, resume=resume)


def trained(out: Path, game: Game | None = None, *, resume: bool = False, **changes) -> Trainer:
    trainer = Trainer(game or Game(), few_digits(), run_of(out, resume=resume, **changes))
    trainer.run()
    return trainer


HOLD = """
import sys, time
from pathlib import Path
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings
run = Run(Path(sys.argv[1]), TrainingSettings(), identity={"recipe": "test"})
run.begin()
run.folder.mkdir()
(run.folder / ".unfinished-step-00000007").mkdir()
print("holds", flush=True)
time.sleep(600)
"""


def test_a_second_trainer_in_the_same_folder_is_refused_until_the_first_is_gone_however_it_went(tmp_path, capsys):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "holds\n"
        for _ in range(2):  # being refused doesn't take the lock away
            assert cli.main(["train", "rectified-flow", f"--out={tmp_path}", *TINY]) == 2
            said = capsys.readouterr().err
            assert said == f"visgen-fast: {tmp_path} is being trained in by process {first.pid}: wait for its end\n"
        assert (tmp_path / "checkpoints" / ".unfinished-step-00000007").is_dir()
        first.send_signal(signal.SIGKILL)
        first.wait(LONG)
    finally:
        first.kill()
        first.communicate()
    assert cli.main(["train", "rectified-flow", f"--out={tmp_path}", *TINY]) == 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def _tell_and_sleep(started) -> None:
    started.set()
    time.sleep(LONG)


def test_a_process_that_loads_images_for_a_training_holds_no_lock_after_it(tmp_path):
    run = run_of(tmp_path)
    run.begin()
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    loader = fork.Process(target=_tell_and_sleep, args=(started,))
    loader.start()
    try:
        assert started.wait(LONG)
        with pytest.raises(UserError, match=f"being trained in by process {os.getpid()}"):
            run_of(tmp_path).begin()
        run.close()
        run_of(tmp_path).begin()
    finally:
        loader.kill()
        loader.join()


def test_a_trainer_that_looked_before_another_had_written_is_refused(tmp_path):
    late = Trainer(Game(), few_digits(), run_of(tmp_path))
    trained(tmp_path)
    resumed = run_of(tmp_path, resume=True, steps=4)
    trained(tmp_path, resume=True, steps=3)
    for trainer in (late, Trainer(Game(), few_digits(), resumed)):
        with pytest.raises(UserError, match="another training has just written to .*--resume to continue it"):
            trainer.run()
    trained(tmp_path, resume=True, steps=5)


def test_a_frozen_network_is_stored_once_whatever_the_number_of_checkpoints(tmp_path):
    trained(tmp_path, steps=6, checkpoint_every=1, keep_checkpoints=3)
    folder = tmp_path / "checkpoints"
    [frozen] = (folder / "frozen").iterdir()
    assert len(checkpoint.checkpoints(folder)) == 3
    for path in checkpoint.checkpoints(folder):
        assert json.loads((path / "state.json").read_text())["frozen"] == {"features": frozen.stem}
        assert not any(
            "features" in key for part in checkpoint.PARTS for key in load_file(path / f"{part}.safetensors")
        )
    stored, features = load_file(frozen), Game().features.state_dict()
    assert stored.keys() == features.keys() and all(torch.equal(stored[key], features[key]) for key in stored)
    assert checkpoint.read(tmp_path).module("nothing", "features").keys() == features.keys()


def test_pruning_keeps_the_frozen_networks_that_a_kept_checkpoint_needs_and_no_others(tmp_path):
    parts = {name: {"a": torch.zeros(2)} for name in checkpoint.PARTS}
    state = {"settings": {}, "images": {}, "ranks": 1}
    hashes = []
    for step in range(1, 5):
        hashes.append(checkpoint.write_frozen(tmp_path, {"b": torch.full((3,), float(step // 2))}))
        checkpoint.write(tmp_path, step, parts, state, frozen={"features": hashes[-1]}, keep=2)
        kept = {path.stem for path in (tmp_path / "frozen").iterdir()}
        assert kept == set(hashes[-2:])
    assert len(set(hashes)) == 3


def test_a_frozen_network_that_is_damaged_or_gone_is_named(tmp_path):
    trained(tmp_path)
    [frozen] = (tmp_path / "checkpoints" / "frozen").iterdir()
    content = frozen.read_bytes()
    frozen.write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match=f"damaged: {frozen.name} is not what was written"):
        trained(tmp_path, resume=True, steps=3)
    frozen.unlink()
    with pytest.raises(UserError, match=f"damaged: {frozen.name} cannot be read"):
        trained(tmp_path, resume=True, steps=3)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_permissions_of_all_files_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        trained(tmp_path)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8 and {path.name: path.stat().st_mode & 0o777 for path in files} == {
        path.name: mode for path in files
    }


LIMITED = """
import resource, sys
from pathlib import Path
from visgen_fast import cli
import accelerate, matplotlib.figure, sklearn.datasets, torch._dynamo, torch.utils.tensorboard  # these write too
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    print(limit, cli.main(["train", "rectified-flow", f"--out={sys.argv[1]}/{limit}", *TINY]), file=sys.stderr)
""".replace("TINY", repr([*TINY, "--checkpoint-every=1", "--log-every=1"]))


def test_a_disk_that_refuses_while_a_run_is_written_is_one_sentence_and_leaves_no_unfinished_checkpoint(tmp_path):
    limits = [0, 100, 700, 20_000, 60_000]
    command = [sys.executable, "-c", LIMITED, str(tmp_path), *map(str, limits)]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=LONG)
    assert "Traceback" not in finished.stderr
    told = [line for line in finished.stderr.splitlines() if not line.startswith("step ")]
    assert [line for line in told if not line.startswith("visgen-fast: ")] == [f"{limit} 2" for limit in limits]
    assert len(told) == 2 * len(limits) and all("File too large" in line for line in told[::2])
    assert not list(tmp_path.rglob(".unfinished-*"))


def test_a_disk_that_is_full_at_a_later_checkpoint_leaves_the_one_before_it(tmp_path, monkeypatch):
    saved = disk.save_file

    def full(tensors, path):
        if "step-00000003" in str(path):
            raise OSError(28, "No space left on device", str(path))
        saved(tensors, path)

    monkeypatch.setattr(disk, "save_file", full)
    with pytest.raises(
        UserError, match=r"could not be written to .*: No space left on device; the last one.*00000002$"
    ):
        trained(tmp_path, steps=5, checkpoint_every=1)
    monkeypatch.undo()
    assert trained(tmp_path, steps=5, resume=True).step == 5


@pytest.mark.parametrize("kind", ["file", "folder", "link to a folder", "link to nothing"])
def test_stray_names_in_the_folder_of_checkpoints_stop_no_run(tmp_path, kind):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "treasure").touch()
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in (".unfinished-step-00000002", ".unfinished-frozen", ".unfinished-old-step-00000001"):
        if kind == "file":
            (folder / name).write_text("x")
        elif kind == "folder":
            (folder / name / "inside").mkdir(parents=True)
        else:
            (folder / name).symlink_to(elsewhere if kind == "link to a folder" else tmp_path / "nowhere")
    (folder / "step-00000001").write_text("no checkpoint")
    trained(tmp_path / "run")
    assert not list(folder.glob(".unfinished-*")) and (elsewhere / "treasure").exists()
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["step-00000002"]


def damage(path: Path, change) -> None:
    """Changes the tensors of the newest checkpoint's optimizer, and its hash so that it is as if written so."""
    newest = checkpoint.checkpoints(path / "checkpoints")[-1]
    tensors = load_file(newest / "optimizer.safetensors")
    change(tensors)
    save_file(tensors, newest / "optimizer.safetensors")
    state = json.loads((newest / "state.json").read_text())
    state["sha256"]["optimizer"] = checkpoint.sha256_of(newest / "optimizer.safetensors")
    (newest / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("critic.weight.exp_avg"), "optimizer.safetensors lacks critic.weight.exp_avg"),
        (lambda t: t.pop("generator.0.bias.step"), "optimizer.safetensors lacks generator.0.bias.step"),
        (lambda t: t.update({"critic.bias.exp_avg_sq": torch.zeros(7)}), r"has critic.bias.exp_avg_sq of shape \(7,\)"),
        (lambda t: t.update({"critic.bias.step": torch.zeros(3)}), r"has critic.bias.step of shape \(3,\)"),
        (lambda t: t.update({"critic.bias.exp_avg": torch.zeros(3, dtype=torch.int64)}), "int64"),
        (
            lambda t: t.update({"features.0.weight.exp_avg": torch.zeros(3)}),
            "features.0.weight.exp_avg of a weight that",
        ),
        (lambda t: t.update({"nonsense": torch.zeros(3)}), "has nonsense of a weight that is not trained"),
    ],
)
def test_an_optimizer_s_file_that_is_not_the_optimizer_s_is_refused_in_a_sentence(tmp_path, change, said):
    trained(tmp_path)
    damage(tmp_path, change)
    with pytest.raises(UserError, match=f"is damaged: .*{said}"):
        trained(tmp_path, resume=True, steps=3)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\x00\x01" * 1000, b"step,loss\n" + b"1," * 100_000, b'step,"loss\n' + b"x\n" * 200_000, b"\n\n,,\n",
     b"step,loss\n\xc2\xb2,1\n9" + b"9" * 5000 + b",1\n"],
)  # fmt: skip
def test_a_garbage_losses_csv_stops_no_run(tmp_path, content):
    trained(tmp_path)
    (tmp_path / "losses.csv").write_bytes(content)
    trained(tmp_path, resume=True, steps=3)
    lines = (tmp_path / "losses.csv").read_text().splitlines()
    assert lines[0].startswith("step,loss,") and [line.split(",")[0] for line in lines[1:]] == ["3"]


def test_what_the_environment_says_of_the_mathematics_has_no_effect_and_is_named(tmp_path):
    said = {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "EAGER",
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_USE_DEEPSPEED": "true",
    }
    ends = []
    for name, environment in {"without": ENVIRONMENT, "with": {**ENVIRONMENT, **said}}.items():
        command = [sys.executable, "-m", "visgen_fast", "train", "rectified-flow", f"--out={tmp_path / name}", *TINY]
        command += ["--accumulation=2", "--dropout=0.1"]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONG)
        assert finished.returncode == 0, finished.stderr
        ends.append(tmp_path / name / "checkpoints" / "step-00000003")
    for variable, value in said.items():
        line = f"{variable}={value} in the environment has no effect: the settings say what a run computes"
        assert finished.stderr.count(line) == 1
    for file in ("weights.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"):
        assert len({(end / file).read_bytes() for end in ends}) == 1


def test_what_a_launcher_says_of_nothing_or_of_the_same_is_no_news(tmp_path, monkeypatch, caplog):
    for name, value in {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_USE_FSDP": "false",
    }.items():
        monkeypatch.setenv(name, value)
    Trainer(Game(), few_digits(), run_of(tmp_path))
    assert not caplog.records and os.environ["ACCELERATE_USE_FSDP"] == "false"
