"""The table of samplers: its costs are those of the tables' rows, and the documentation shows what is measured."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from visgen_fast import cli, ops
from visgen_fast.commands.samplers import HEADER, as_markdown, cells
from visgen_fast.diffusion import SAMPLERS, CosineVP, plan, sample
from visgen_fast.diffusion.survey import SamplerFacts, facts, measured_spread, survey

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sampling.md"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("euler", {}, (1, 0, 2, 1)),  # state and output
        ("ddpm", {}, (1, 0, 2, 1)),
        ("dpm++2m", {}, (1, 1, 3, 2)),
        ("dpm++3m", {}, (1, 2, 4, 2)),
        ("heun", {}, (2, 1, 5, 3)),  # 2 + 2, then 3 + 1
        ("rk4", {}, (4, 2, 13, 8)),
        ("adams-bashforth", {"order": 4}, (1, 3, 5, 2)),
        ("unipc", {"order": 1}, (1, 1, 3, 2)),
        ("unipc", {"order": 2}, (1, 2, 4, 3)),
        ("unipc", {"order": 3}, (1, 3, 5, 3)),
        ("consistency", {}, (1, 0, 2, 1)),
    ],
)
def test_a_step_costs_what_its_rows_read_and_write(name, options, expected) -> None:
    found = facts(name, **options)
    assert (found.calls, found.slots, found.read, found.written) == expected


@pytest.mark.parametrize(("name", "options"), [("ddpm", {}), ("dpm++2s", {"eta": 1.0}), ("dpm++3m-sde", {})])
def test_the_spread_that_is_followed_exactly_is_that_of_many_images(name, options) -> None:
    schedule, data = CosineVP(), 0.5
    log_ratios = torch.linspace(math.log(10), math.log(0.1), 251, dtype=torch.float64)
    made = plan(name, schedule, "x", times=schedule.time(-2 * log_ratios), **options)

    def network(x_t, t, labels):
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        return alpha * data**2 * x_t / (alpha**2 * data**2 + sigma**2)

    seeds, begun = ops.derive_seeds(1, torch.arange(500)), made.ends[0]
    exact = math.hypot(begun.alpha * data, begun.sigma) / begun.sigma
    noise = exact * ops.gaussian(seeds, (50,), stream=7, dtype=torch.float64)
    found = sample(network, made, (50,), seeds, seeds, noise=noise, dtype=torch.float64).std().item()
    end = made.ends[-1]
    off = found / math.hypot(end.alpha * data, end.sigma) - 1
    assert measured_spread(name, **options) == pytest.approx(off, abs=0.014)  # 25,000 numbers know it to 0.45 %


def test_noise_is_yes_no_or_the_option_that_adds_it() -> None:
    found = {name: facts(name).noise for name in ("ddpm", "ddim", "heun", "unipc", "sa-solver")}
    assert found == {"ddpm": "yes", "ddim": "eta", "heun": "churn", "unipc": "no", "sa-solver": "yes"}


@pytest.fixture(scope="module")
def surveyed() -> list[SamplerFacts]:
    return list(survey())


@pytest.fixture(scope="module")
def found(surveyed) -> list[tuple[str, ...]]:
    return [cells(one) for one in surveyed]


def test_every_sampler_is_surveyed_and_only_noise_has_no_order(found) -> None:
    assert [row[0] for row in found if "=" not in row[0]] == list(SAMPLERS)
    assert all((row[5] == "") == (row[7] == "yes") for row in found)
    assert [row[0] for row in found if row[7] == "yes" and row[6] == ""] == ["tcd"]


def test_the_documentation_shows_what_is_measured(found) -> None:
    """Costs to the letter, orders to a tenth: the last digit may be another on another processor."""
    shown = re.search(r"<!-- samplers -->\n(.*?)\n<!-- /samplers -->", PAGE.read_text(), re.DOTALL)[1]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in shown.splitlines()]
    assert tuple(rows[0]) == HEADER and len(rows) == 2 + len(found)
    for written, measured in zip(rows[2:], found, strict=True):
        assert [*written[:5], *written[6:]] == [*measured[:5], *measured[6:]]
        if measured[5]:
            assert float(written[5]) == pytest.approx(float(measured[5]), abs=0.11)


def test_the_command_prints_them(capsys, found, surveyed, monkeypatch) -> None:
    monkeypatch.setattr("visgen_fast.diffusion.survey.survey", lambda: iter(surveyed))
    assert cli.main(["samplers"]) == 0
    printed = capsys.readouterr().out
    assert all(row[0] in printed for row in found) and "For one step: network calls" in printed
    assert cli.main(["samplers", "--markdown"]) == 0
    assert capsys.readouterr().out.strip() == as_markdown(found)
