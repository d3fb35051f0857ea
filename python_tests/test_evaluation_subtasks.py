"""Sub-tasks of every decomposition by one protocol, and how alike they are."""

from __future__ import annotations

import pytest
import torch
from levels import Halves, gaussian_pictures, seeds
from torch import Tensor, nn
from torch.nn import functional as F

from visgen_fast.autoregression import CodeModel, nll, raster
from visgen_fast.diffusion import CosineVP, DiffusionObjective, UniformTimes
from visgen_fast.evaluation import (
    CodeParts,
    NoiseLevels,
    RandomParts,
    Times,
    equivariance,
    gradient_cosines,
    transfer,
)
from visgen_fast.evaluation.measuring import Pictures
from visgen_fast.evaluation.subtasks import by_column, by_depth, by_patch, by_place, by_row, by_row_end, by_scale

TOLD = DiffusionObjective(CosineVP(), "v", UniformTimes(), conditioning="log_snr")


class Tables(CodeModel):
    """Predicts each code by a table of its group, whatever came before: groups share nothing."""

    def __init__(self, groups: Tensor, size: int = 3) -> None:
        super().__init__()
        self.order, self.size, self.groups = raster(groups.shape), size, groups
        self.tables = nn.Parameter(torch.zeros(int(groups.max()) + 1, size))

    def forward(self, codes: Tensor, condition: object = None) -> Tensor:
        return self.tables[self.groups].expand(len(codes), *self.groups.shape, -1)

    def begin(self, condition: object = None) -> None: ...

    def advance(self, state: object, codes: Tensor) -> Tensor:
        raise NotImplementedError


def skewed_codes(count: int, *shape: int) -> Tensor:
    """Codes whose values are not equally frequent."""
    shares = torch.tensor([0.7, 0.2, 0.1])
    drawn = torch.multinomial(
        shares, count * torch.Size(shape).numel(), True, generator=torch.Generator().manual_seed(0)
    )
    return drawn.view(count, *shape)


def test_intervals_of_time_are_parts_of_what_training_learns():
    """Of a loss that is the time itself, each fourth has its mean, and all together have one half."""
    tasks = Times(lambda model, some, share: share, 4)
    some = Pictures(torch.zeros(400, 1), None, torch.arange(400))
    spread = (torch.arange(400) + 0.5) / 400
    found = torch.stack([tasks.losses(None, some, spread, place).mean() for place in range(4)])
    assert torch.allclose(found, torch.tensor([0.125, 0.375, 0.625, 0.875]) / 4, atol=1e-5)
    assert abs(tasks.together(None, some, torch.arange(400)).mean() - 0.5) < 0.05
    assert tasks.names[1] == "t 0.25 to 0.50" and tasks.shares.tolist() == [0.25] * 4
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        Times(lambda model, some, share: share, 0)


def test_every_decomposition_by_position_and_depth_says_which_codes_are_whose():
    assert by_row((2, 2, 1)).groups[..., 0].tolist() == [[0, 0], [1, 1]]
    assert by_column((2, 2, 1)).groups[..., 0].tolist() == [[0, 1], [0, 1]]
    assert by_patch((2, 4, 1), 2).groups[..., 0].tolist() == [[0, 0, 1, 1]] * 2
    assert by_row_end((1, 6, 1)).groups.flatten().tolist() == [0, 1, 1, 2, 2, 3]
    assert by_depth((1, 2, 3)).groups.tolist() == [[[0, 1, 2]] * 2]
    assert by_scale((1, 2)).groups.flatten().tolist() == [0, 1, 1, 1, 1]
    assert by_place(6, 3).groups.flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert by_depth((1, 2, 3)).names == ("depth 1", "depth 2", "depth 3")
    assert by_scale((1, 2)).shares.tolist() == [0.2, 0.8]
    with pytest.raises(ValueError, match="side must divide"):
        by_patch((3, 4, 1), 2)
    with pytest.raises(ValueError, match="groups must have codes of each of 2 names"):
        CodeParts(("a", "b"), torch.zeros(4, 1, dtype=torch.int64))


@pytest.mark.parametrize("null", [False, True])
def test_sub_tasks_add_up_to_the_objective(null):
    torch.manual_seed(0)
    codes, model = skewed_codes(24, 2, 2, 2), Tables(by_row((2, 2, 2)).groups)
    nn.init.normal_(model.tables)
    parts = by_depth((2, 2, 2))
    some, spread = Pictures(codes, None, seeds(24)), torch.arange(24) / 24
    tasks = RandomParts(parts, 3) if null else parts
    total = sum(tasks.losses(model, some, spread, place) for place in range(len(tasks)))
    torch.testing.assert_close(total, nll(model, codes).flatten(1).mean(1))
    torch.testing.assert_close(tasks.together(model, some, torch.arange(24)), total)


def test_noise_levels_are_one_decomposition_among_others():
    torch.manual_seed(0)
    network, pictures, labels = Halves(), gaussian_pictures(40, 0.6, (1, 4, 4)), torch.zeros(40, dtype=torch.int64)
    levels = NoiseLevels(TOLD, [-4.0, 0.0, 4.0])
    for measure, options in ((gradient_cosines, {}), (transfer, {"steps": 3, "learning_rate": 0.01})):
        by_tasks = measure(network, levels, pictures, labels, seeds=seeds(40), **options)
        by_grid = measure(network, TOLD, pictures, labels, [-4.0, 0.0, 4.0], seeds=seeds(40), **options)
        for one, other in zip(vars(by_tasks).values(), vars(by_grid).values(), strict=True):
            torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=0, atol=0)
    with pytest.raises(ValueError, match="grid must be given for a diffusion model"):
        gradient_cosines(network, TOLD, pictures, labels, seeds=seeds(40))


def measured(model: nn.Module, tasks, codes: Tensor, **options):
    return equivariance(model, tasks, codes, None, seeds=seeds(len(codes)), steps=20, learning_rate=0.05, **options)


def test_copied_sub_tasks_are_as_good_as_the_same_and_disjoint_networks_are_of_no_help():
    half = skewed_codes(200, 1, 1)
    codes, parts = half.expand(-1, 2, 1).contiguous(), by_place(2, 2)
    copied = measured(Tables(torch.zeros(2, 1, dtype=torch.int64)), parts, codes)
    assert copied.transfer.value == pytest.approx(1, abs=1e-6) and copied.cosine.value == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(copied.pairs, torch.ones(2, 2, dtype=torch.float64))
    disjoint = measured(Tables(parts.groups), parts, codes)
    assert (disjoint.transfer.value, disjoint.transfer.low, disjoint.cosine.value) == (0, 0, 0)
    assert disjoint.pairs.fill_diagonal_(0).abs().max() == 0


def test_the_null_is_1_and_opposed_sub_tasks_harm_each_other():
    codes = skewed_codes(800, 4, 1)
    model = Tables(torch.zeros(4, 1, dtype=torch.int64))
    null = measured(model, RandomParts(by_place(4, 2), 2), codes)
    assert null.transfer.value == pytest.approx(1, abs=0.1) and null.transfer.low < 1.05 and null.transfer.high > 0.95
    assert null.cosine.value == pytest.approx(1, abs=0.1)
    turned = codes.clone()
    turned[:, 2:] = 2 - turned[:, 2:]  # the frequent value of one half is the rare one of the other
    opposed = measured(model, by_place(4, 2), turned)
    assert opposed.transfer.high < 0 and opposed.cosine.high < 0


def test_mistakes_are_refused():
    codes, model = skewed_codes(40, 2, 1), Tables(torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 2 sub-tasks and 2 repeats, got 1 and 4"):
        measured(model, by_place(2, 1), codes)
    model.tables.data.copy_(F.one_hot(torch.tensor([0]), 3) * 0.0 + torch.tensor([0.7, 0.2, 0.1]).log())
    with pytest.raises(ValueError, match="tuning must help the sub-tasks that are tuned on"):
        equivariance(model, by_place(2, 2), codes, None, seeds=seeds(40), steps=30, learning_rate=0.5, repeats=2)
