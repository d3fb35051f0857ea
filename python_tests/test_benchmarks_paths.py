"""The study of paths in the plane: pairs of optimal transport make the path nearly as short as it can be."""

from benchmarks.paths import moons


def test_optimal_pairs_lead_from_eight_gaussians_to_moons_at_the_least_energy():
    options = {"steps": 500, "batch": 128, "count": 500}
    optimal, independent = (moons(coupling, **options) for coupling in ("optimal", "independent"))
    assert abs(optimal["path_energy"] / optimal["wasserstein_2"] - 1) < 0.1
    assert independent["path_energy"] > 1.3 * optimal["path_energy"]
