"""The combination of gradients of least norm is proven by its optimality conditions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen_fast.evaluation import min_norm_weights


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 10),
    rank=st.integers(1, 12),
    shift=st.sampled_from([0.0, 0.5, 3.0]),
    scale=st.sampled_from([1e-8, 1.0, 1e6]),
    twins=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_no_gradient_points_against_the_combination(count, rank, shift, scale, twins, seed):
    generator = torch.Generator().manual_seed(seed)
    gradients = scale * (torch.randn(count, rank, generator=generator, dtype=torch.float64) + shift)
    if twins:
        gradients[-1] = gradients[0]
    gram = gradients @ gradients.T
    weights = min_norm_weights(gram)
    assert weights.dtype == torch.float64 and weights.min() >= 0 and weights.sum().item() == pytest.approx(1)
    # Karush, Kuhn and Tucker: necessary, and sufficient where the gram is of gradients.
    least, rounding = weights @ gram @ weights, 1e-9 * gram.diagonal().max()
    assert (gram @ weights >= least - rounding).all()
    assert ((gram @ weights - least).abs()[weights > 1e-9] <= rounding).all()


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_the_minimum_is_the_smallest_even_where_an_estimated_gram_is_not_positive(count, seed):
    generator = torch.Generator().manual_seed(seed)
    gram = torch.randn(count, count, generator=generator, dtype=torch.float64)
    gram = gram + gram.T
    weights = min_norm_weights(gram)
    tried = torch.distributions.Dirichlet(torch.full((count,), 0.5, dtype=torch.float64)).sample((4000,))
    tried = torch.cat((tried, torch.eye(count, dtype=torch.float64)))
    values = torch.einsum("nj,jk,nk->n", tried, gram, tried)
    assert weights @ gram @ weights <= values.min() + 1e-12


def test_two_gradients_have_the_closed_form():
    for a, b, c in ((1.0, 4.0, 0.5), (1.0, 4.0, 1.5), (2.0, 2.0, -2.0), (9.0, 1.0, -1.0)):
        share = min(max((b - c) / (a + b - 2 * c), 0), 1)
        assert min_norm_weights(torch.tensor([[a, c], [c, b]])).tolist() == pytest.approx([share, 1 - share])


def test_gradients_of_nothing_and_sixteen_tasks_have_an_answer():
    assert min_norm_weights(torch.zeros(3, 3)).sum() == 1
    gram = torch.eye(16, dtype=torch.float64)
    assert min_norm_weights(gram).tolist() == pytest.approx([1 / 16] * 16)
    gram[3, 3] = 0.0
    assert min_norm_weights(gram).tolist() == [float(place == 3) for place in range(16)]


@pytest.mark.parametrize(
    ("gram", "said"),
    [
        (torch.eye(17), r"gram must be \[K, K\] with K from 1 to 16, got \[17, 17\]"),
        (torch.ones(2, 3), r"got \[2, 3\]"),
        (torch.full((2, 2), torch.nan), "finite and symmetric"),
        (torch.tensor([[1.0, 0.5], [0.2, 1.0]]), "finite and symmetric"),
    ],
)
def test_what_is_no_gram_is_refused(gram, said):
    with pytest.raises(ValueError, match=said):
        min_norm_weights(gram)
