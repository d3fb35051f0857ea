"""A model in one file draws what its run draws, and is refused where it is damaged."""

import json

import pytest
from mistakes import mistake
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from visgen_fast import cli
from visgen_fast.recipes.runs import load_system
from visgen_fast.training import checkpoint

TINY = ["--dataset=digits", "--width=8", "--depth=1", "--heads=1", "--batch-size=8", "--device=cpu"]
TINY += ["--sample-every=0", "--sampling-steps=1", "--steps=2", "--warmup-steps=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert cli.main(["train", "rectified-flow", *TINY, "--steps=5", "--profile=1", f"--out={out}"]) == 0
    assert cli.main(["export", str(out)]) == 0
    return out


def test_an_exported_model_has_the_averaged_weights_and_draws_the_same_pixels(run, tmp_path):
    file = run / "model.safetensors"
    for name, given in (("run", run), ("file", file)):
        assert cli.main(["sample", str(given), f"--out={tmp_path / name}.png", "--labels", "3"]) == 0
    assert (tmp_path / "run.png").read_bytes()[-2000:] == (tmp_path / "file.png").read_bytes()[-2000:]
    expected, got = load_system(run).state_dict(), load_system(file).state_dict()
    assert expected.keys() == got.keys() and all(got[name].equal(tensor) for name, tensor in expected.items())
    again = ["sample", str(file), f"--like={tmp_path / 'run.png'}", f"--out={tmp_path / 'again.png'}"]
    assert cli.main(again) == 0  # the weights are the same


def test_profiled_steps_leave_a_trace_and_a_table(run):
    assert "s of a step in communication" in (run / "profile" / "table-0.txt").read_text()
    assert json.loads((run / "profile" / "trace-0.json").read_text())["traceEvents"]


def test_a_checkpoint_written_in_the_background_is_of_the_step_at_which_it_began(tmp_path):
    options = [*TINY, "--steps=6", "--checkpoint-every=2", "--keep-checkpoints=9"]
    for name, more in (("at once", []), ("background", ["--background-saves"])):
        assert cli.main(["train", "rectified-flow", *options, *more, f"--out={tmp_path / name}"]) == 0
    for step in (2, 4, 6):
        one, other = (
            checkpoint.read(tmp_path / name / "checkpoints" / f"step-{step:08d}") for name in ("at once", "background")
        )
        assert one.state["sha256"] == other.state["sha256"]


def test_a_damaged_model_is_refused_in_a_sentence(run, tmp_path, capsys):
    file, damaged = run / "model.safetensors", tmp_path / "m.safetensors"
    tensors = load_file(file)
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file({**tensors, name: tensors[name] + 1}, damaged, metadata=metadata)
    assert "is damaged: its tensors are not what was written" in mistake(capsys, "sample", damaged)
    save_file(tensors, damaged)
    assert "is no model that this version of visgen-fast can read" in mistake(capsys, "sample", damaged)
    damaged.write_bytes(file.read_bytes()[:1000])
    assert "holds no checkpoint and no model of visgen-fast" in mistake(capsys, "evaluate", damaged)
    assert "--out must be a file that ends in .safetensors" in mistake(capsys, "export", run, "--out=model.pt")
