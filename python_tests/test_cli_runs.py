"""Using a run: where its images lie, what it was trained for, disks that refuse, and options out of bounds."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fuzz_checkpoints
import pytest
import torch
from mistakes import mistake
from PIL import Image

import visgen_fast
from visgen_fast import cli
from visgen_fast.data.images import ImageFormat
from visgen_fast.recipes import rectified_flow, rq_vae
from visgen_fast.systems.generative import draw_samples
from visgen_fast.training.figures import image_grid


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with the runs `flow` and `tokenizer`."""
    folder = tmp_path_factory.mktemp("runs")
    fuzz_checkpoints.train(folder)
    return folder


def save_images(folder: Path, count: int = 12) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (9, 9), (20 * number, 50, 100)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("out", ["data/run", "data", "data/a/b/../c", "linked/run"])
def test_a_run_among_its_own_images_is_refused_before_it_begins(tmp_path, out, capsys):
    save_images(tmp_path / "data")
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    for options in ([], ["--resume"]):
        said = mistake(
            capsys, "train", "rectified-flow", f"--dataset={tmp_path / 'data'}", f"--out={tmp_path / out}", *options
        )
        assert "--out must not lie inside the folder of the images" in said
    assert len(list((tmp_path / "data").iterdir())) == 12


def test_a_run_stores_where_its_images_lie_and_evaluate_finds_them_where_they_went(tmp_path, capsys, monkeypatch):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    save_images(tmp_path / "first" / "data", 30)
    monkeypatch.chdir(tmp_path / "first")
    command = [*fuzz_checkpoints.TOKENIZER, "--size=8", "--out=run"]
    assert cli.main(["--dataset=data" if word == "--dataset=digits" else word for word in command]) == 0
    monkeypatch.chdir(tmp_path / "second")
    evaluate = ["evaluate", "../first/run", "--pictures=2", "--device=cpu"]
    assert cli.main(evaluate) == 0
    shutil.move(tmp_path / "first" / "data", tmp_path / "moved")
    assert "first/data is not a folder" in mistake(capsys, *evaluate)
    assert cli.main([*evaluate, "--data=../moved"]) == 0
    assert "nowhere is not a folder" in mistake(capsys, *evaluate, "--data=nowhere")


def test_settings_name_other_runs_from_every_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rq_vae.Settings(features="runs/classifier").features == str(tmp_path / "runs" / "classifier")
    assert rq_vae.Settings().features == ""


def test_evaluate_says_where_other_images_don_t_fit(runs, tmp_path, capsys):
    copied = shutil.copytree(runs / "tokenizer", tmp_path / "run")
    state = copied / "checkpoints" / "step-00000001" / "state.json"
    state.write_text(state.read_text().replace('"size": 8', '"size": 16'))
    said = mistake(capsys, "evaluate", copied, "--device=cpu")
    assert "for images of shape (1, 8, 8), but the held-out ones have shape (1, 16, 16)" in said


def flow(label_drop: float, guidance: float = 2.0):
    settings = rectified_flow.Settings(
        **{"label_drop": label_drop, "guidance": guidance, "width": 8, "depth": 1, "heads": 1, "sampling_steps": 2}
    )
    images = ImageFormat(height=8, width=8, channels=1, class_names=("a", "b"))
    torch.manual_seed(0)
    system = rectified_flow.system(settings, images).eval()
    for parameter in system.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return system


def drawn(system, **options) -> torch.Tensor:
    return draw_samples(system, [0, 1], 2, seed=0, device="cpu", **options)


@pytest.mark.parametrize(("label_drop", "null"), [(0.0, 1), (1.0, 0)])
def test_what_was_never_trained_guides_nothing_and_that_is_said_once(label_drop, null, caplog):
    system = flow(label_drop)
    with caplog.at_level(logging.WARNING):
        before = drawn(system)
        # The embedding of "no class" where the label was always there, those of the classes where it never was.
        embedding = system.prior.model.embed_label.weight.data
        embedding[slice(2, 3) if label_drop == 0 else slice(0, 2)] += 100
        after = drawn(system)
    assert torch.equal(before, after) and torch.equal(before, drawn(system, guidance=float(null)))
    assert [record for record in caplog.messages if "guidance" in record] == [
        f"images are drawn with guidance {null}, not 2, because label_drop was {label_drop:g}"
    ]
    with pytest.raises(ValueError, match=f"guidance must be {null} for a model that was trained with label_drop"):
        drawn(system, guidance=3.0)


def test_a_trained_null_guides():
    system = flow(0.1)
    assert not torch.equal(drawn(system), drawn(system, guidance=1.0))


@pytest.mark.parametrize("labels", [[2], [0, 5], [-1]])
def test_labels_that_are_no_classes_are_refused(labels):
    system = flow(0.1)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\)"):
        system.sample(torch.tensor(labels), torch.zeros(len(labels), dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--guidance=nan"], "--guidance must lie in [-1000, 1000], got nan"),
        (["--guidance=inf"], "--guidance must lie in"),
        (["--guidance=-1e300"], "--guidance must lie in"),
        (["--steps=1000000000000"], "--steps must be at most 10000, got 1000000000000"),
        (["--count-per-class=1000000000"], "give a lower --count-per-class"),
        ([f"--labels={'9' * 5000}"], "there is no class '999"),
        (["--labels=10"], "there is no class '10'; there are 0, 1"),
        (["--device=meta"], "--device meta is not available on this machine, but "),
        (["--device=xla"], "--device xla is not available"),
        (["--device=hpu"], "--device hpu is not available"),
        (["--device="], "--device  is not available"),
        (["--device=cuda:99999999999"], "--device cuda:99999999999 is not available"),
    ],
)
def test_options_of_sampling_out_of_bounds_are_one_sentence(runs, tmp_path, options, said, capsys):
    out = tmp_path / "x.png"
    assert said in mistake(capsys, "sample", runs / "flow", f"--out={out}", *options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--beam=1000000000"], "--beam at least 1 and at most 1000"),
        (["--beam=0"], "--beam at least 1"),
        (["--pictures=1"], "--pictures must be at least 2"),
        (["--device=meta"], "--device meta is not available"),
    ],
)
def test_options_of_evaluating_out_of_bounds_are_one_sentence(runs, options, said, capsys):
    assert said in mistake(capsys, "evaluate", runs / "tokenizer", *options)


def test_more_images_than_any_are_all(runs, tmp_path):
    assert cli.main(["evaluate", str(runs / "tokenizer"), f"--pictures={10**30}", f"--out={tmp_path}"]) == 0


def test_a_full_disk_is_named_by_what_was_to_be_written(runs, tmp_path, capsys):
    (tmp_path / "x.png").symlink_to("/dev/full")
    said = mistake(capsys, "sample", runs / "flow", "--count-per-class=1", f"--out={tmp_path / 'x.png'}")
    assert said == f"visgen-fast: {tmp_path / 'x.png'} cannot be written: No space left on device\n"
    (tmp_path / "evaluation.json").symlink_to("/dev/full")
    said = mistake(capsys, "evaluate", runs / "tokenizer", "--pictures=2", f"--out={tmp_path}")
    assert said == f"visgen-fast: {tmp_path} cannot be written: No space left on device\n"


def test_a_limit_on_the_size_of_files_is_one_sentence(runs, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    command = ["bash", "-c", 'ulimit -f 1; exec "$0" -m visgen_fast "$@"', sys.executable]
    sampling = ["sample", str(runs / "flow"), f"--out={tmp_path / 'x.png'}", "--count-per-class=9"]
    finished = subprocess.run([*command, *sampling], env=environment, capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr == f"visgen-fast: {tmp_path / 'x.png'} cannot be written: File too large\n"


@pytest.mark.parametrize("name", ["two\nlines", "x" * 200, "\udcff", "\x1b[2J"])
def test_any_name_of_a_class_can_stand_beside_its_row(name):
    grid = image_grid(torch.zeros(2, 3, 1, 8, 8), [name, "plain"])
    assert 2 * 52 + 4 == grid.height and grid.width < 1000
