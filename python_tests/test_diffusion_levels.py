"""The grids of a pyramid of latents at noise levels of their own, and the runs that draw so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from visgen_fast import cli, ops
from visgen_fast.diffusion import RectifiedFlow, UniformTimes
from visgen_fast.diffusion.forcing import ForcingObjective
from visgen_fast.diffusion.levels import InARow, LevelsPrior
from visgen_fast.diffusion.prior import DiffusionPrior, SamplerSettings
from visgen_fast.models import DiT
from visgen_fast.recipes.runs import load_system

LENGTHS, SHAPE = (1, 4, 9), (2, 1, 14)


class Told(nn.Module):
    """A network that says 0, and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        self.times.append(t)
        return torch.zeros_like(x_t)


def prior(kind: str = "one_by_one", model: nn.Module | None = None, **settings: object) -> LevelsPrior:
    objective = ForcingObjective(RectifiedFlow(), "velocity", UniformTimes())
    sampler = SamplerSettings(**{"steps": 3, "guidance": 1.0} | settings)
    return LevelsPrior(Told() if model is None else model, objective, sampler, LENGTHS, kind)


def transformer() -> InARow:
    torch.manual_seed(0)
    model = DiT(image_size=(14, 1, 1), channels=2, patch_size=1, width=16, depth=1, heads=2, classes=3)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return InARow(model.eval())


def inputs(batch: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    seeds = ops.derive_seeds(3, torch.arange(batch))
    return ops.gaussian(seeds, SHAPE), torch.arange(batch) % 3, seeds


def test_training_noises_every_grid_to_a_level_of_its_own() -> None:
    some, (x, labels, seeds) = prior(), inputs(200)
    losses = some.loss(x, labels, seeds)
    (told,) = some.model.times
    grids = told.split(LENGTHS, 1)
    assert all(torch.equal(grid, grid[:, :1].expand_as(grid)) for grid in grids)
    of_grids = torch.stack([grid[:, 0] for grid in grids], 1)
    assert torch.equal(of_grids, ops.uniform(seeds, (3,), stream=ops.Purpose.TIME.stream()))
    assert torch.corrcoef(of_grids.T).fill_diagonal_(0).abs().max() < 0.25
    noise = ops.gaussian(seeds, (2, 14, 1)).transpose(2, 3)  # the target z − x in every place, and the network says 0
    torch.testing.assert_close(losses, (noise - x).square().mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("together", [(1, 1, 1), (2 / 3, 2 / 3, 2 / 3), (1 / 3, 1 / 3, 1 / 3)]),
        ("pyramid", [(1, 1, 1), (2 / 3, 1, 1), (1 / 3, 2 / 3, 1), (0, 1 / 3, 2 / 3), (0, 0, 1 / 3)]),
        ("one_by_one", [(1, 1, 1), (2 / 3, 1, 1), (1 / 3, 1, 1), (0, 1, 1), (0, 2 / 3, 1), (0, 1 / 3, 1)]),
    ],
)
def test_coarse_grids_are_clean_first(kind: str, expected: list[tuple[float, ...]]) -> None:
    some, (_, labels, seeds) = prior(kind), inputs(2)
    shown: list[tuple[int, tuple[int, ...]]] = []
    some.draw(SHAPE, labels, seeds, callback=lambda step, t, x, denoised: shown.append((step, tuple(x.shape))))
    for found, wanted in zip(some.model.times, expected, strict=False):
        places = torch.tensor(wanted, dtype=torch.float32).repeat_interleave(torch.tensor(LENGTHS))
        torch.testing.assert_close(found, places.expand(2, -1))
    assert len(some.model.times) == {"together": 3, "pyramid": 5, "one_by_one": 9}[kind]
    assert shown == [(step, (2, *SHAPE)) for step in range(3)]


def test_at_one_level_it_draws_and_learns_what_a_prior_of_one_level_does() -> None:
    model, (x, labels, seeds) = transformer(), inputs()
    levels = prior("together", model)
    plain = DiffusionPrior(model, levels.objective, levels.sampler)
    assert torch.equal(levels.draw(SHAPE, labels, seeds), plain.draw(SHAPE, labels, seeds))
    again = levels.draw(SHAPE, labels, seeds, initial=(x, 0.5))
    assert torch.equal(again, plain.draw(SHAPE, labels, seeds, initial=(x, 0.5)))
    t = torch.rand(6)
    common = levels.objective.losses_at(model, x.transpose(2, 3), labels, seeds, t)
    each = levels.objective.losses_at(model, x.transpose(2, 3), labels, seeds, t[:, None].expand(-1, 14))
    assert torch.equal(common, each)


def test_a_sample_is_its_own_and_guided() -> None:
    levels, (_, labels, seeds) = prior("pyramid", transformer(), guidance=2.0), inputs()
    drawn = levels.draw(SHAPE, labels, seeds, null=3)
    assert drawn.shape == (6, *SHAPE)
    torch.testing.assert_close(levels.draw(SHAPE, labels[4:], seeds[4:], null=3), drawn[4:], rtol=1e-4, atol=1e-4)
    assert (levels.draw(SHAPE, labels, seeds, null=3, guidance=1.0) - drawn).abs().max() > 1e-3


def test_what_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^kind must be"):
        prior("backwards")
    with pytest.raises(ValueError, match="plan must have falling times and one network call a step"):
        prior(sampler="heun").draw(SHAPE, *inputs()[1:])


def test_a_run_on_a_pyramid_draws_coarse_grids_first(tmp_path, capsys) -> None:
    tiny = ["--dataset=digits", "--batch-size=4", "--steps=1", "--device=cpu", "--sample-every=0"]
    stage = ["--widths", "4", "--dimensions=2", "--sides", "1", "2", "4"]
    assert cli.main(["train", "pyramid-autoencoder", *tiny, *stage, f"--out={tmp_path / 'pyramid'}"]) == 0
    sizes = ["--width=8", "--depth=1", "--heads=1", "--sampling-steps=2", "--levels=one_by_one"]
    command = ["train", "latent-diffusion", *tiny, *sizes]
    assert cli.main([*command, f"--first-stage={tmp_path / 'pyramid'}", f"--out={tmp_path / 'run'}"]) == 0
    system = load_system(tmp_path / "run")
    assert isinstance(system.prior, LevelsPrior) and system.prior.lengths == (1, 4, 16)
    strip = ["--labels=3", "--count-per-class=1", f"--preview-strip={tmp_path / 'strip.png'}"]
    assert cli.main(["sample", str(tmp_path / "run"), *strip, f"--out={tmp_path / 'out.png'}"]) == 0
    assert system.rebuild(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2)).shape == (2, 1, 8, 8)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--pictures=8", "--device=cpu", "--bins=2"]) == 0
    plain = ["--widths", "4", "--dimensions=2", f"--out={tmp_path / 'plain'}"]
    assert cli.main(["train", "autoencoder", *tiny, *plain]) == 0
    capsys.readouterr()
    again = [*command, f"--first-stage={tmp_path / 'pyramid'}", f"--out={tmp_path / 'other'}"]
    assert cli.main([*again, "--guidance-interval", "0", "0.5"]) == 2
    assert "guidance_interval must be None where grids have levels of their own" in capsys.readouterr().err
    assert cli.main([*command, f"--first-stage={tmp_path / 'plain'}", f"--out={tmp_path / 'other'}"]) == 2
    assert "levels must be None for a first stage of one grid, got one_by_one" in capsys.readouterr().err
