"""Distances between sets of features, against what is known of them exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen_fast.evaluation import FeatureMoments, frechet_distance, frechet_distance_at_infinity, kernel_distance


def moments(features: torch.Tensor, batch: int = 64) -> FeatureMoments:
    found = FeatureMoments()
    for some in features.split(batch):
        found.add(some)
    return found


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [500, 20])  # 20 images leave a covariance of 32 features singular
def test_a_set_has_distance_zero_from_itself(count):
    found = moments(normal(count, 32) * torch.logspace(-4, 4, 32, dtype=torch.float64))
    assert frechet_distance(found, found) <= 1e-12 * float(found.covariance.trace())


def test_a_shift_of_the_mean_counts_with_its_square():
    features, shift = normal(300, 16), normal(16, seed=1)
    assert frechet_distance(moments(features), moments(features + shift)) == pytest.approx(float(shift.square().sum()))


def test_commuting_covariances_count_with_the_difference_of_their_roots():
    features, scale = normal(400, 8), torch.linspace(0.5, 3, 8, dtype=torch.float64)
    # Whitened, so that the covariances are exactly 1 and scale².
    features = features - features.mean(0)
    features = features @ torch.linalg.inv(torch.linalg.cholesky(features.T.cov().mT)).mT
    expected = float((scale - 1).square().sum())
    assert frechet_distance(moments(features), moments(features * scale)) == pytest.approx(expected)


def test_covariances_that_do_not_commute_agree_with_the_eigenvalues_of_their_product():
    a, b = moments(normal(200, 12) @ normal(12, 12, seed=1)), moments(normal(200, 12, seed=2) @ normal(12, 12, seed=3))
    roots = torch.linalg.eigvals(a.covariance @ b.covariance).sqrt().sum()
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * roots.real
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(float(expected), rel=1e-9)


@given(st.integers(2, 90), st.integers(1, 40))
@settings(max_examples=30)
def test_moments_do_not_depend_on_the_batches(count, batch):
    features = normal(count, 5, seed=count) + 1e6
    found = moments(features, batch)
    assert found.count == count
    torch.testing.assert_close(found.mean, features.mean(0))
    # A sum of squares around zero would have lost all but four digits of these.
    torch.testing.assert_close(found.covariance, features.T.cov(), rtol=1e-8, atol=1e-9)


def test_moments_of_float32_features_are_kept_in_float64():
    assert moments(normal(9, 3).float()).covariance.dtype == torch.float64


def test_the_kernel_distance_is_the_mean_over_all_pairs():
    a, b = normal(7, 3), normal(5, 3, seed=1) + 0.5

    def kernel(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within = [
        sum(kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j) / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    between = sum(kernel(x, y) for x in a for y in b) / 35
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * between)


def test_the_kernel_distance_has_no_bias():
    estimates = [kernel_distance(normal(10, 4, seed=s), normal(10, 4, seed=s + 1000)) for s in range(400)]
    estimates = torch.tensor(estimates)
    assert abs(float(estimates.mean())) < 4 * float(estimates.std()) / math.sqrt(400)
    assert (estimates < 0).any()


def test_arguments_that_do_not_fit_are_refused_in_a_sentence():
    one = FeatureMoments()
    one.add(torch.rand(1, 4))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        frechet_distance(one, one)
    with pytest.raises(ValueError, match=r"features must be \[B, 4\]"):
        one.add(torch.rand(2, 5))
    with pytest.raises(ValueError, match="features must be finite"):
        one.add(torch.full((2, 4), float("nan")))
    with pytest.raises(ValueError, match="a and b must be"):
        kernel_distance(torch.rand(1, 4), torch.rand(5, 4))


@pytest.mark.parametrize("rank", [24, 5])  # of 24 features: a full covariance, and one that is singular
def test_closed_forms_are_met_to_eight_digits(rank):
    """Covariances that share their eigenvectors, of which some are 0."""
    basis = torch.linalg.qr(normal(24, 24)).Q
    scales = [torch.linspace(0.1, 30, 24, dtype=torch.float64) ** power for power in (1, -1)]
    white = normal(500, 24, seed=1)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov().mT)).mT
    kept = (torch.arange(24) < rank).double()
    shift = normal(24, seed=2)
    a, b = white * scales[0] * kept @ basis, white * scales[1] * kept @ basis + shift
    expected = float(((scales[0] - scales[1]) * kept).square().sum() + shift.square().sum())
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-8)


def test_the_distance_of_given_features_is_that_of_torchmetrics():
    peer = pytest.importorskip("torchmetrics.image.fid", reason="the package torchmetrics is not installed")
    a, b = moments(normal(300, 20)), moments(normal(400, 20, seed=1) @ normal(20, 20, seed=2) / 4)
    theirs = peer._compute_fid(a.mean, a.covariance, b.mean, b.covariance)
    assert frechet_distance(a, b) == pytest.approx(float(theirs), rel=1e-5)


def test_at_infinity_a_known_sampler_is_as_far_as_its_law():
    scale, shift = torch.linspace(0.6, 1.6, 32, dtype=torch.float64), torch.linspace(0, 0.5, 32, dtype=torch.float64)
    real, made = normal(6000, 32), normal(4000, 32, seed=1) * scale + shift
    expected = float((scale - 1).square().sum() + shift.square().sum())
    assert frechet_distance_at_infinity(real, made) == pytest.approx(expected, rel=0.03)
    few = slice(0, 600)
    assert frechet_distance(moments(real[few]), moments(made[few])) > 1.1 * expected  # which is what it repairs
    # Of a law from itself, it is 0 up to an error to both sides.
    nothing = [frechet_distance_at_infinity(normal(400, 8, seed=s), normal(400, 8, seed=s + 99)) for s in range(20)]
    assert min(nothing) < 0 < max(nothing) and abs(sum(nothing) / 20) < 0.01


def test_too_few_pictures_for_a_line_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"real and made must be \[M ≥ 8, F\] and \[N ≥ 8, F\], got \[7, 4\]"):
        frechet_distance_at_infinity(torch.rand(7, 4), torch.rand(9, 4))
