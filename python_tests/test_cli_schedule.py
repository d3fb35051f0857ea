"""`visgen-fast schedule`: names, options, the table and the figure."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from visgen_fast import cli
from visgen_fast.diffusion import (
    CosineVP,
    FromDensity,
    Interpolated,
    KarrasVE,
    Laplace,
    LevelTimes,
    MinSNR,
    Normal,
    Shifted,
    UniformTimes,
)
from visgen_fast.diffusion.named import SCHEDULES, TIMES, WEIGHTS, named_schedule, named_weight


@pytest.mark.parametrize("name", [*SCHEDULES, *TIMES])
def test_every_name_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schedule", name]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line[:3].strip().replace(".", "").isdecimal()]
    assert [row[0] for row in rows] == [f"{i / 10:.1f}" for i in range(11)] and f"{name}: w(λ)" in out


@pytest.mark.parametrize("name", ["ddpm-linear", "ddpm-scaled-linear", "ddpm-sigmoid"])
def test_the_entries_of_a_table_make_no_rise(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schedule", name]) == 0
    assert "never rises" in capsys.readouterr().out


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", ["cosine", "edm"])
def test_every_weight_is_shown(name: str, weight: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schedule", name, "--weight", weight]) == 0
    never = "never rises" in capsys.readouterr().out
    assert never == (
        weight in ("sigmoid", "edm-monotonic", "elbo") or (name == "cosine" and weight in ("truncated-snr", "edm"))
    )


def test_options_are_the_arguments() -> None:
    assert named_schedule("laplace:scale=0.25,mean=1")[0] == FromDensity(Laplace(1, 0.25))
    assert named_schedule("cosine:log-snr-min=-10")[0] == CosineVP(log_snr_min=-10)
    assert named_schedule("cosine:reference=16,resolution=64,ends=keep")[0] == Shifted(CosineVP(), 16, 64, "keep")
    assert named_schedule("cosine:low=32,high=64,resolution=128")[0] == Interpolated(CosineVP(), 32, 64, 128)
    assert named_schedule("edm") == (KarrasVE(), LevelTimes(KarrasVE(), Normal(2.4, 2.4)))
    shifted, times = named_schedule("edm:mean=-0.8,reference=32,resolution=64")
    assert shifted == Shifted(KarrasVE(), 32, 64) and times == LevelTimes(shifted, Normal(1.6, 2.4))
    assert named_schedule("ddpm-linear:steps=9.9e1")[0].steps == 99 and named_schedule("cosine")[1] == UniformTimes()
    assert named_weight("min-snr:gamma=1") == MinSNR(1)


def test_the_figure_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "schedule.png"
    assert cli.main(["schedule", "rectified-flow", "karras", "--out", str(out), "--weight", "elbo"]) == 0
    assert f"figure: {out}" in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.size[0] > 1000 and image.size[1] > 600 and len(image.convert("L").getcolors()) > 100


def test_a_peak_between_any_levels_of_a_grid_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """A density of λ that is narrow, or lies beyond ±20, has a weight that rises up to its peak."""
    narrow, beyond = "edm:std=1e-6", "cosine:log-snr-min=-60,log-snr-max=-25"
    assert cli.main(["schedule", narrow, beyond, "--prediction", "epsilon"]) == 0
    out = capsys.readouterr().out
    assert f"{narrow}: w(λ) rises somewhere" in out and f"{beyond}: w(λ) rises somewhere" in out


def test_numbers_whose_powers_are_none_still_make_a_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    far = "cosine:log-snr-min=-1e5"
    assert cli.main(["schedule", far]) == 0
    assert "−∞" in capsys.readouterr().out.splitlines()[-2]
    up, down = (f"cosine:reference={a},resolution={b}" for a, b in (("1e300", "1e-300"), ("1e-300", "1e300")))
    assert cli.main(["schedule", up, down]) == 0
    assert named_schedule(up)[0].log_snr(torch.tensor(0.5)) == pytest.approx(2 * 600 * math.log(10))
    assert named_schedule(down)[0].log_snr(torch.tensor(0.5)) == pytest.approx(-2 * 600 * math.log(10))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cosin"], "schedule must be one of rectified-flow, cosine, .*, edm; got 'cosin'"),
        (["cosine:foo=1"], "cosine has the options log-snr-min, log-snr-max, reference, .*; got foo"),
        (["cosine:reference=16"], "cosine needs resolution as well, got reference"),
        (["cosine:low=16"], "cosine needs high, resolution as well, got low"),
        (["cosine:16"], "an option must be like name=value, got '16'"),
        (["laplace:scale=wide"], "scale must be a number, got 'wide'"),
        (["ddpm-cosine:steps=9.5"], "steps must be a whole number of at least 2, got 9.5"),
        (["ddpm-linear:steps=0"], "steps must be a whole number of at least 2, got 0"),
        (["sigmoid:temperature=0.01"], "temperature must leave start and end within ±30 times itself, got 0.01"),
        (
            ["ddpm-linear:steps=1e12"],
            r"steps must be at most 2\*\*24, more than float32 tells apart, got 1000000000000",
        ),
        (["ddpm-linear:steps=1e30"], r"steps must be at most 2\*\*24"),
        (["ddpm-linear:beta-end=1e308"], r"betas must lie in \(0, 1\), got 0.0001 to 1e\+308"),
        (["ddpm-scaled-linear:beta-start=-1"], "beta_start and beta_end must be at least 0, got -1 and 0.012"),
        (["karras:rho=0.001"], r"rho must lie in \[0.132, 1000\] between these sigmas, got 0.001"),
        (["cosine:=3"], "an option must be like name=value, got '=3'"),
        (["cosine:log-snr-min=-9,log_snr_min=-3"], "log-snr-min must be given once, got 'cosine:log-snr-min=-9,log"),
        (["cosine", "--weight", "elbo:gamma=1"], "elbo has no options; got gamma"),
        (["laplace:scale=0"], "scale must be positive and finite"),
        (["cosine", "--weight", "min"], "weight must be one of min-snr, .*; got 'min'"),
        (["cosine", "--prediction", "noise"], "prediction must be one of x, epsilon, v, velocity, edm; got 'noise'"),
        (["rectified-flow", "--prediction", "epsilon"], "'epsilon' says nothing of the image at t = 1"),
        (["cosine", "--out", "schedule.jpg"], "--out must be the name of a .png file, got schedule.jpg"),
        ([], "give one schedule or more, and at most 8, got 0"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, said, capsys: pytest.CaptureFixture[str]) -> None:

    assert cli.main(["schedule", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1
