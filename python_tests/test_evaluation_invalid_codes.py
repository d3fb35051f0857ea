"""Invalid codes: the definition on cases known by hand, and what the linear analysis says of them."""

import json
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visgen_fast.evaluation import expected_errors, invalid_codes, minimizer_weights


def test_shares_are_those_counted_by_hand():
    found = invalid_codes(torch.tensor([[8, 4, 2, 1], [8, 1, 2, 4], [8, 4, 4, 2], [8, 2, 4, 2]]))
    assert found.items == 4
    # The last two depths of the second item worsen it; the fourth item is as good after one code as after three.
    assert found.invalid_share == 2 / 4
    assert found.harmful_share == 1 / 4
    assert found.non_improving_by_depth == (0, 3 / 4, 1 / 4)
    assert found.non_improving_share == pytest.approx(4 / 12)
    assert found.best_prefix == (0, 2 / 4, 0, 2 / 4)
    assert found.mean == (8, 11 / 4, 12 / 4, 9 / 4)
    assert found.excess == pytest.approx((0 + 3 / 4 + 0 + 0) / 4)
    assert found.quantiles["0.5"] == (8, 3, 3, 2)


def test_a_code_that_is_no_better_than_nothing_is_invalid():
    found = invalid_codes(torch.tensor([[1.0, 2.0, 1.0]]))
    assert found.invalid_share == 1 and found.best_prefix == (1, 0, 0)


def test_the_summary_is_plain_data():
    found = asdict(invalid_codes(torch.rand(5, 4)))
    assert json.loads(json.dumps(found))["mean"] == list(found["mean"])


@pytest.mark.parametrize("errors", [torch.rand(3), torch.rand(0, 3), torch.rand(3, 1)])
def test_errors_of_another_shape_are_refused(errors):
    with pytest.raises(ValueError, match=r"errors must be \[items, depths \+ 1\]"):
        invalid_codes(errors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_errors_that_are_no_errors_are_refused(value):
    with pytest.raises(ValueError, match="finite and at least 0"):
        invalid_codes(torch.tensor([[1.0, value]]))


@given(
    st.lists(st.lists(st.floats(0, 1e6), min_size=5, max_size=5), min_size=1, max_size=20).map(torch.tensor),
)
def test_every_item_is_counted_once_and_valid_exactly_where_all_codes_alone_are_best(errors):
    found = invalid_codes(errors)
    assert sum(found.best_prefix) == pytest.approx(1)
    assert found.best_prefix[-1] == pytest.approx(1 - found.invalid_share)
    assert 0 <= found.excess <= 1
    assert found.harmful_share <= found.invalid_share
    if found.non_improving_share == 0:
        assert found.invalid_share == 0


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (4, [0.875, 0.375, 0.375, 0.875]),
        (8, [2.1875, 1.4375, 0.9375, 0.6875, 0.6875, 0.9375, 1.4375, 2.1875]),
    ],
)
def test_independent_codes_make_a_middle_prefix_the_best(depth, expected):
    assert expected_errors([1] * depth).tolist() == pytest.approx(expected)


def test_the_expectation_is_what_independent_codes_measure():
    weights = torch.tensor([1.0, 3.0, 0.5, 2.0, 2.0])
    codes = torch.randn(4000, 5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimum = (minimizer_weights(weights)[:, None] * codes).sum(1, keepdim=True)
    measured = (codes.cumsum(1) - optimum).square().mean((0, 2))
    torch.testing.assert_close(measured, expected_errors(weights), rtol=0.02, atol=0)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=16))
def test_the_best_prefix_of_independent_codes_is_the_median_length(weights):
    best = int(expected_errors(weights).argmin())
    total = sum(weights)
    assert sum(weights[: best + 1]) >= total / 2 * (1 - 1e-9)
    assert sum(weights[best:]) >= total / 2 * (1 - 1e-9)


@pytest.mark.parametrize("depth", [4, 8, 16])
def test_all_independent_codes_are_best_once_the_last_prefix_has_half_the_weight(depth):
    for weights, best in (
        ([1.0] * depth, depth // 2),
        ([0.49 / (depth - 1)] * (depth - 1) + [0.51], depth),
        ([2.0**d for d in range(depth)], depth),
    ):
        assert int(expected_errors(weights).argmin()) + 1 == best
    assert depth / 2 < int(expected_errors(range(1, depth + 1)).argmin()) + 1 < depth


def test_averaging_the_prefix_losses_recovers_the_mean_prefix():
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    latent = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    loss = (weights * (latent - embeddings.cumsum(0)).square().sum(1)).sum()
    # A paraboloid, whose minimum one Newton step from 0 finds.
    minimum = -torch.autograd.grad(loss, latent)[0] / (2 * weights.sum())
    torch.testing.assert_close(minimum, (minimizer_weights(weights)[:, None] * embeddings).sum(0))


def test_prefix_losses_of_a_linear_decoder_split_into_optimum_and_spread():
    generator = torch.Generator().manual_seed(2)
    embeddings, decoder = (torch.randn(4, 6, generator=generator), torch.randn(9, 6, generator=generator))
    image, weights = torch.randn(9, generator=generator), torch.tensor([1.0, 2.0, 0.5, 3.0])
    prefixes = embeddings.cumsum(0)
    optimum = (minimizer_weights(weights).float()[:, None] * embeddings).sum(0)
    total = (weights * (image - prefixes @ decoder.T).square().sum(1)).sum()
    spread = (weights * ((prefixes - optimum) @ decoder.T).square().sum(1)).sum()
    torch.testing.assert_close(total, weights.sum() * (image - decoder @ optimum).square().sum() + spread)
