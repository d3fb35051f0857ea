"""Precision, recall, density, coverage and copies, where what they are is known; and intervals of such measures."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen_fast.evaluation import bootstrap_interval, copies, kernel_distance, prdc
from visgen_fast.evaluation import neighbours as blocks


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(real, made, neighbours):
    """The four measures from whole matrices of distances, without a root, a block or a product."""
    between = (real[:, None] - made).square().sum(-1)
    radii = []
    for some in (real, made):
        own = (some[:, None] - some).square().sum(-1)
        radii.append(own.fill_diagonal_(torch.inf).sort(1).values[:, neighbours - 1])
    inside = between < radii[0][:, None]
    return [
        float(inside.any(0).double().mean()),
        float((between < radii[1]).any(1).double().mean()),
        float(inside.sum(0).double().mean()) * (1 / neighbours),
        float(inside.any(1).double().mean()),
    ]


def found(real, made, neighbours):
    value = prdc(real, made, neighbours=neighbours)
    return [value.precision, value.recall, value.density, value.coverage]


@given(st.integers(6, 40), st.integers(6, 40), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=40)
def test_the_four_measures_are_their_definitions_with_ties(real, made, neighbours, seed):
    """Whole numbers have many equal distances, and pictures that occur twice."""
    generator = torch.Generator().manual_seed(seed)
    sets = [torch.randint(0, 4, (count, 3), generator=generator).double() for count in (real, made)]
    assert found(*sets, neighbours) == by_definition(*sets, neighbours)


def test_the_measures_are_those_of_the_package_prdc():
    package = pytest.importorskip("prdc", reason="the package prdc is not installed")
    integers = torch.randint(0, 5, (120, 4), generator=torch.Generator().manual_seed(0)).double()
    for real, made in ((normal(150, 8), normal(130, 8, seed=1) * 0.8 + 0.3), (integers[:60], integers[60:])):
        theirs = package.compute_prdc(real.numpy(), made.numpy(), nearest_k=5)
        names = ("precision", "recall", "density", "coverage")
        assert found(real, made, 5) == [float(theirs[name]) for name in names]


def test_blocks_change_nothing(monkeypatch):
    real, made = normal(50, 4), normal(40, 4, seed=1)
    whole = found(real, made, 3)
    monkeypatch.setattr(blocks, "_BLOCK", 7)
    assert found(real, made, 3) == whole


def test_precision_and_recall_are_not_swapped():
    """Made pictures of one of two kinds are all right, and are not all there is."""
    real = torch.cat((normal(200, 4), normal(200, 4, seed=1) + 100))
    value = prdc(real, normal(200, 4, seed=2))
    assert value.precision > 0.9 and value.density > 0.8
    assert value.recall < 0.6 and value.coverage < 0.6
    far = prdc(real, normal(200, 4, seed=2) + 1000)
    assert (far.precision, far.density, far.coverage) == (0, 0, 0)


def test_planted_training_pictures_are_found():
    train, held_out = normal(1000, 16), normal(500, 16, seed=1)
    made = normal(1000, 16, seed=2)
    planted = torch.randperm(1000, generator=torch.Generator().manual_seed(3))[:50]
    made[planted] = train[planted] + 0.01 * normal(50, 16, seed=4)
    value = copies(train, made, held_out)
    assert 0.03 <= value.share <= 0.08 and value.expected <= 0.005
    assert set(planted.tolist()) <= set(value.which.tolist())
    assert value.which[:50].sort().values.tolist() == planted.sort().values.tolist()  # the surest come first
    assert value.nearest[:50].tolist() == value.which[:50].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_pictures_of_the_same_law_are_no_copies(seed):
    """Of a law with tight and wide kinds, too, whose pictures are alike by nature."""
    wide = (torch.rand(2500, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) < 0.5) * 3 + 0.1
    train, made, held_out = (normal(2500, 8, seed=10 + seed) * wide + 10 * wide).split((1000, 1000, 500))
    assert copies(train, made, held_out).share < 0.02


def test_a_training_set_with_equal_pictures_finds_its_copies():
    train = normal(100, 4).repeat_interleave(10, 0)
    value = copies(train, torch.cat((train[:10], normal(90, 4, seed=1))), normal(300, 4, seed=2))
    assert set(range(10)) <= set(value.which.tolist())


def test_intervals_hold_the_truth_and_shrink_with_the_root_of_the_number():
    def ratio(a, b):
        return float(a.std() / b.std())

    widths, held = {}, 0
    for count in (100, 400):
        ends = []
        for seed in range(20):
            low, high = bootstrap_interval(ratio, normal(count, 1, seed=seed), normal(count, 1, seed=seed + 20) * 1.25)
            ends.append(high - low)
            held += low <= 0.8 <= high
        widths[count] = sum(ends) / len(ends)
    assert 33 <= held <= 40  # of 40, where 95% are 38
    assert 1.6 < widths[100] / widths[400] < 2.5
    sets = normal(50, 2), normal(50, 2, seed=1)
    assert bootstrap_interval(kernel_distance, *sets) == bootstrap_interval(kernel_distance, *sets)


@pytest.mark.parametrize(
    "real, made, neighbours, sentence",
    [
        (torch.rand(5, 3), torch.rand(9, 3), 5, r"real must be \[N > 5, 3\], got \[5, 3\]"),
        (torch.rand(9, 3), torch.rand(9, 4), 5, r"made must be \[N > 5, 3\], got \[9, 4\]"),
        (torch.rand(9, 3), torch.full((9, 3), torch.nan), 5, "made must be finite"),
        (torch.rand(9, 3), torch.rand(9, 3), 0, "neighbours must be at least 1, got 0"),
    ],
)
def test_sets_that_do_not_fit_are_refused_in_a_sentence(real, made, neighbours, sentence):
    with pytest.raises(ValueError, match=sentence):
        prdc(real, made, neighbours=neighbours)


def test_wrong_sets_of_copies_and_intervals_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"held_out must be \[N > 5, 3\], got \[4, 3\]"):
        copies(torch.rand(9, 3), torch.rand(9, 3), torch.rand(4, 3))
    with pytest.raises(ValueError, match="at least 2 resamples, and sets of at least 4 pictures, got 1 and"):
        bootstrap_interval(kernel_distance, torch.rand(9, 3), resamples=1)
