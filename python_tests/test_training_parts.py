"""The small parts of training: the moving average, the learning rate, the settings, the figures."""

import csv
import json
import time
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from visgen_fast.data.images import digits
from visgen_fast.errors import UserError
from visgen_fast.recipes.rectified_flow import Settings as RectifiedFlowSettings
from visgen_fast.recipes.rectified_flow import system as rectified_flow_system
from visgen_fast.recipes.vq_vae import Settings as VQVAESettings
from visgen_fast.training.average import MovingAverage
from visgen_fast.training.figures import image_grid, loss_curve
from visgen_fast.training.loop import Trainer
from visgen_fast.training.operations import CountedOperations
from visgen_fast.training.pace import Pace, Pacing
from visgen_fast.training.place import accelerator_for
from visgen_fast.training.report import COLUMNS, Report
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings, differences, learning_rate, require_same, settings_from
from visgen_fast.training.system import System
from visgen_fast.training.waiting import DataClock


class Networks(System):
    """Networks that nobody has given a loss."""

    def __init__(self, **networks: nn.Module) -> None:
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, batch):
        raise NotImplementedError

    def draw(self, images, *, seed, device):
        raise NotImplementedError


def test_the_moving_average_follows_its_formula_and_warms_up():
    system = Networks(network=nn.Linear(3, 2).double())
    trained = system.network
    average = MovingAverage(system, 0.9)
    expected = trained.weight.detach().clone()
    for count in range(1, 200):
        with torch.no_grad():
            trained.weight.add_(count)
        average.update(count)
        decay = min(0.9, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * trained.weight.detach()
    followed = average.module.network
    torch.testing.assert_close(followed.weight, expected, rtol=1e-12, atol=0)
    assert decay == 0.9 and not followed.weight.requires_grad and not average.module.training and not followed.training


def test_the_moving_average_copies_buffers_and_leaves_the_trained_module_alone():
    trained = nn.BatchNorm1d(3)
    average = MovingAverage(Networks(network=trained), 0.9)
    trained(torch.randn(8, 3))
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    average.update(1)
    assert torch.equal(average.module.network.running_mean, trained.running_mean)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert trained.training


def test_the_learning_rate_rises_linearly_and_then_stays_or_falls_to_zero():
    constant = TrainingSettings(steps=100, learning_rate=0.5, warmup_steps=9)
    assert [learning_rate(constant, step) for step in (0, 4, 9, 50, 99)] == [0.05, 0.25, 0.5, 0.5, 0.5]
    cosine = TrainingSettings(steps=109, learning_rate=0.5, warmup_steps=9, lr_schedule="cosine")
    rates = [learning_rate(cosine, step) for step in range(9, 109)]
    assert rates == sorted(rates, reverse=True) and rates[0] == 0.5 and 0 < rates[-1] < 0.001
    assert learning_rate(cosine, 59) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"accumulation": 0},
        {"keep_checkpoints": 0},
        {"log_every": 0},
        {"workers": -1},
        {"weight_decay": float("nan")},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"gradient_clip": 0.0},
        {"ema_decay": 1.0},
        {"beta2": -0.1},
        {"seed": 2**63},
        {"learning_rate": 1e300},
        {"weight_decay": 1e300},
        {"weight_decay": float("inf")},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingSettings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"steps": "many"}, "int"),
        ({"steps": 1.5}, "int"),
        ({"steps": True}, "int"),
        ({"steps": None}, "int"),
        ({"learning_rate": "1"}, "float"),
        ({"horizontal_flip": 1}, "bool"),
        ({"device": "gpu"}, "Literal"),
        ({"device": ["cpu"]}, "Literal"),
        ({"mixed_precision": None}, "Literal"),
        ({"widths": 3}, "tuple"),
        ({"widths": [8, "x"]}, "tuple"),
        ({"data": 5}, "str"),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name_from_a_checkpoint_too(wrong, kind):
    with pytest.raises(UserError, match=f"not usable: {next(iter(wrong))} must be of type {kind}"):
        settings_from(VQVAESettings, wrong)


def test_a_class_that_gives_a_setting_another_default_keeps_its_bounds():
    @dataclass(frozen=True, kw_only=True)
    class Settings(VQVAESettings):
        steps: int = 3
        widths: tuple[int, ...] = (4,)

    assert Settings(widths=(2, 3)).steps == 3
    with pytest.raises(ValueError, match="steps must be a number of at least 1, got 0"):
        Settings(steps=0)
    with pytest.raises(ValueError, match=r"widths must be a number of at least 1, got \(2, 0\)"):
        Settings(widths=(2, 0))


def test_a_resumed_run_may_be_longer_but_not_another_one():
    saved = {"steps": 10, "seed": 0, "learning_rate": 1e-3}
    require_same(saved, TrainingSettings(steps=20, workers=3))
    with pytest.raises(UserError, match=r"seed \(was 0, now 1\), |learning_rate \(was 0.001, now 0.5\)"):
        require_same(saved, TrainingSettings(seed=1, learning_rate=0.5))


def test_losses_below_zero_have_a_curve_too(tmp_path):
    (tmp_path / "losses.csv").write_text("step,loss\n1,0.5\n2,-0.5\n3,-1.5\n")
    loss_curve(tmp_path / "losses.csv", tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as curve:
        assert curve.size == (840, 480)


def test_settings_that_are_tuples_survive_being_written_as_json():
    given = VQVAESettings(widths=(8, 16))
    saved = json.loads(json.dumps(asdict(given)))
    require_same(saved, given)
    assert settings_from(VQVAESettings, saved) == given
    with pytest.raises(UserError, match=r"widths \(was \(8, 16\), now \(8,\)\)"):
        require_same(saved, VQVAESettings(widths=(8,)))


def test_a_resumed_run_whose_mathematics_changes_all_the_same_is_told_so():
    cosine = RectifiedFlowSettings(steps=10, lr_schedule="cosine")
    assert differences(cosine, replace(cosine, workers=3)) == []
    [longer] = differences(cosine, replace(cosine, steps=20))
    assert "ends at step 10," in longer and longer.endswith("ends at step 20")
    constant = RectifiedFlowSettings(steps=10)
    assert differences(constant, replace(constant, steps=20)) == []


def test_a_run_resumed_with_other_micro_batches_is_told_what_depends_on_them(tmp_path, caplog):
    images = digits()

    def warnings(name: str, accumulation: int, **options) -> list[str]:
        caplog.clear()
        settings = RectifiedFlowSettings(
            width=8, depth=1, heads=1, batch_size=4, steps=1, device="cpu", accumulation=accumulation, **options
        )
        system = rectified_flow_system(settings, images.format)
        run = Run(tmp_path / name, settings, identity={"recipe": "test"}, resume=True)
        trainer = Trainer(system, images, run)
        if trainer.step == 0:
            trainer.optimize()
            trainer.save()
            run.close()
        return [record.getMessage() for record in caplog.records]

    for name, options in {"dropout": {"dropout": 0.1}, "plain": {}}.items():
        assert warnings(name, 1, **options) == warnings(name, 1, **options) == []
        told = warnings(name, 2, **options)
        assert ["other dropout than with the former accumulation of 1 on 1 rank" in line for line in told] == (
            [True] if options else []
        )
    [saved] = (tmp_path / "dropout" / "checkpoints").glob("*/state.json")
    saved.write_text(json.dumps({**json.loads(saved.read_text()), "ranks": 2}))
    assert "on 2 ranks" in warnings("dropout", 1, dropout=0.1)[0]


def test_settings_of_a_checkpoint_that_this_version_does_not_know_are_named():
    assert settings_from(TrainingSettings, {"steps": 3}).steps == 3
    with pytest.raises(UserError, match="frobnicate"):
        settings_from(TrainingSettings, {"frobnicate": 3})
    with pytest.raises(UserError, match="batch_size"):
        settings_from(TrainingSettings, {"batch_size": 0})


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    size=st.sampled_from([8, 28, 64]),
)
def test_every_image_of_a_grid_is_in_its_place_with_its_values(rows, columns, channels, size):
    values = torch.arange(rows * columns).view(rows, columns, 1, 1, 1).expand(-1, -1, channels, size, size)
    image = np.asarray(image_grid(values / 127.5 - 1)).astype(int)
    side = size * max(1, round(48 / size))
    for row in range(rows):
        for column in range(columns):
            top, left = 4 + row * (side + 4), 4 + column * (side + 4)
            block = image[top : top + side, left : left + side]
            assert block.shape == (side, side, 3) and (block == row * columns + column).all()


def test_one_long_row_of_images_is_broken_into_rows_of_ten():
    assert image_grid(torch.zeros(1, 40, 3, 64, 64)).size == (4 + 10 * 68, 4 + 4 * 68)


def test_names_stand_left_of_the_rows_and_values_beyond_the_range_are_clipped():
    named = np.asarray(image_grid(torch.full((2, 3, 1, 8, 8), 7.0), ["cat", "ankle boot"]))
    bare = np.asarray(image_grid(torch.full((2, 3, 1, 8, 8), -7.0)))
    margin = named.shape[1] - bare.shape[1]
    assert margin > 20 and (named[:, :margin] > 200).any() and (named[4:52, margin + 4 : margin + 52] == 255).all()
    assert bare[4:52, 4:52].max() == 0


def test_a_report_continued_from_a_step_drops_the_rows_after_it(tmp_path):
    def note(steps: range, start: int, total: int) -> None:
        report = Report(tmp_path, steps=total, start=start)
        for step in steps:
            report.losses(step, 1 / step, 0.1, 2.0, Pace(300.0))
        report.close()

    note(range(1, 8), 0, 10)
    with (tmp_path / "losses.csv").open("a") as file:
        file.write("8,0.1")  # a row cut short by the kill
    note(range(6, 11), 5, 10)
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 11)) and tuple(rows[0]) == COLUMNS
    assert [float(row["loss"]) for row in rows] == [1 / step for step in range(1, 11)]
    loss_curve(tmp_path / "losses.csv", tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as curve:
        assert curve.size == (840, 480)


@pytest.mark.parametrize("again", [False, True])
def test_operations_are_those_of_the_model_whatever_is_computed_again(again):
    batch, heads, places, features = 2, 3, 5, 4
    x = torch.randn(batch, heads, places, features, requires_grad=True)
    linear, convolution = nn.Linear(features, 7), nn.Conv2d(heads, 2, 3, padding=1)

    def network(x):
        seen = nn.functional.scaled_dot_product_attention(x, x, x)
        return convolution(linear(seen))

    with CountedOperations() as counted:
        made = torch.utils.checkpoint.checkpoint(network, x, use_reentrant=False) if again else network(x)
        with counted.backward():
            made.sum().backward()
    attention = 2 * batch * heads * places * places * features
    linear_, convolution_ = 2 * batch * heads * places * features * 7, 2 * batch * 2 * heads * 9 * places * 7
    assert (
        counted.total == (2 + 5) * attention + 3 * linear_ + 3 * convolution_
    )  # flash attention makes its scores again


def test_the_pace_counts_each_player_by_its_turns(monkeypatch):
    turns = [SimpleNamespace(player=SimpleNamespace(name=name), operations=value) for name, value in PLAYERS.items()]
    settings = TrainingSettings(batch_size=8)
    pacing = Pacing(SimpleNamespace(tokens=16), turns, settings, torch.device("cpu"), 2)
    assert pacing.peak > 1e6
    pacing.peak = 8e12
    pace = pacing.of(10, {"one": 10, "other": 5, "late": 0}, 2.0, 0.5)
    assert pace[:4] == (40, 640, 8 / 2 * (10 * 1e10 + 5 * 4e11), (8 / 2 * 2.1e12) / 8e12) and pace.memory > 1e7
    shown = str(pace._replace(memory=3 * 10**9))
    assert (
        shown == "40 images/s, 640 tokens/s, 8.4 TFLOP/s (105.0% of the peak), 3.0 GB, 25% of the time waiting for data"
    )
    assert pacing.of(10, {"one": 10, "other": 0, "late": 2}, 2.0, 0.0).operations is None
    assert str(Pace(300.0)) == "300 images/s"


PLAYERS = {"one": 1e10, "other": 4e11, "late": None}


def test_the_clock_counts_the_time_that_data_takes_and_no_other(monkeypatch):
    now = 0.0

    def batches():
        nonlocal now
        for number in range(2):
            now += 3
            yield number

    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock, source = DataClock(torch.device("cpu")), batches()
    assert clock.next(source) == 0 and clock.seconds == 3
    now += 10
    clock.given()
    assert clock.next(source) == 1 and clock.seconds == 6


def test_a_tracker_is_told_the_rows_of_the_losses_and_refused_where_it_is_not_installed(tmp_path, monkeypatch):
    told = []
    tracker = SimpleNamespace(name="told", finish=lambda: told.append("end"))
    tracker.log = lambda values, step: told.append((step, values))
    settings = RectifiedFlowSettings(dataset="digits", width=8, depth=1, heads=1, batch_size=4, steps=2, log_every=1)
    system = rectified_flow_system(settings, digits().format)
    trainer = Trainer(system, digits(), Run(tmp_path, replace(settings, sampling_steps=1), identity={}))
    trainer.accelerator.trackers = [tracker]
    trainer.run()
    assert [step for step, _ in told[:-1]] == [1, 2] and told[-1] == "end"
    assert {"loss", "learning_rate", "gradient_norm"} <= told[0][1].keys()
    monkeypatch.setattr("visgen_fast.training.place.is_wandb_available", lambda: False)
    with pytest.raises(UserError, match="--tracker wandb needs the package wandb"):
        accelerator_for(TrainingSettings(tracker="wandb"))
