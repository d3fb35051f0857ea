"""Scaling laws from runs whose law is known."""

import itertools
import math

import pytest
import torch
from scipy.optimize import minimize

from benchmarks import coverage
from benchmarks.coverage import COEFFICIENTS, EXPONENTS, IRREDUCIBLE, grid, losses
from visgen_fast.evaluation import fit_scaling_law, isoflop


def law_of(sizes, **options):
    return fit_scaling_law(losses(sizes), **sizes, **{"bootstrap": 20, **options})


def noisy(sizes, noise=0.01, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return losses(sizes) * (1 + noise * torch.randn(36, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("names", [("parameters", "samples"), ("parameters",), ("samples",)])
@pytest.mark.parametrize("units", [(1, 1, 1), (1e-6, 1e3, 1e-9), (1e9, 1e-9, 1e7)])
def test_exact_values_give_the_law_back_in_any_units(names, units):
    loss_unit, *size_units = units
    sizes = {name: grid()[name] for name in names}
    unit = dict(zip(EXPONENTS, size_units, strict=True))
    given = {name: sizes[name] * unit[name] for name in names}
    law = fit_scaling_law(losses(sizes) * loss_unit, **given, bootstrap=20)
    assert law.irreducible / loss_unit == pytest.approx(IRREDUCIBLE, rel=1e-6)
    assert law.irreducible_interval == pytest.approx((law.irreducible,) * 2)
    assert set(law.terms) == set(names) and law.warning is None
    for name, term in law.terms.items():
        assert term.exponent == pytest.approx(EXPONENTS[name], abs=1e-6)
        coefficient = COEFFICIENTS[name] * loss_unit * unit[name] ** EXPONENTS[name]
        assert term.coefficient == pytest.approx(coefficient, rel=1e-4)


@pytest.mark.parametrize("irreducible", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("exponents", [(0.07, 1.5), (0.8, 0.8)])
def test_steep_and_flat_laws_are_found_too(irreducible, exponents):
    sizes = torch.tensor([1.0, 2, 4, 8, 16] * 5), torch.tensor([1.0, 3, 9, 27, 81]).repeat_interleave(5)
    loss = irreducible + sum(size.double() ** -exponent for size, exponent in zip(sizes, exponents, strict=True))
    law = fit_scaling_law(loss, parameters=sizes[0], samples=sizes[1], bootstrap=0)
    assert law.irreducible == pytest.approx(irreducible, abs=1e-3)
    assert [term.exponent for term in law.terms.values()] == pytest.approx(exponents, abs=1e-3)


def test_averaging_the_loss_with_default_tolerances_stops_early():
    """What the published fit did: the mean of Huber's losses falls below the tolerances far from the law."""
    sizes = grid()
    logs, target = [size.log() for size in sizes.values()], losses(sizes).log()

    def averaged(point):
        theta = torch.tensor(point, requires_grad=True)
        parts = [theta[0].expand(len(target)), theta[1] - theta[3] * logs[0], theta[2] - theta[4] * logs[1]]
        value = torch.nn.functional.huber_loss(torch.stack(parts).logsumexp(0), target, delta=1e-3)
        value.backward()
        return value.item(), theta.grad.numpy()

    starts = itertools.product((0.0, 1.0), (5.0, 10.0), (5.0, 10.0), (0.25, 0.5), (0.25, 0.5))
    fits = [minimize(averaged, start, jac=True, method="L-BFGS-B") for start in starts]
    best = min(fits, key=lambda fit: fit.fun)
    assert best.success  # so it says
    errors = [best.x[3] - EXPONENTS["parameters"], best.x[4] - EXPONENTS["samples"], math.exp(best.x[0]) - IRREDUCIBLE]
    assert max(map(abs, errors)) > 1e-2
    ours = law_of(sizes, bootstrap=0)
    assert abs(ours.irreducible - IRREDUCIBLE) < 1e-6


def test_intervals_hold_the_truth():
    """Twelve studies, in which a true 95% leaves out four in one case of 400."""
    shares = coverage.scaling(12, bootstrap=100)
    assert set(shares) == {"irreducible", "parameters", "samples"}
    assert all(share >= 9 / 12 for share in shares.values())


def test_intervals_widen_with_the_noise_and_repeat_with_the_seed():
    sizes = grid()
    laws = [fit_scaling_law(noisy(sizes, noise), **sizes, bootstrap=100) for noise in (0.002, 0.002, 0.02)]
    widths = [law.irreducible_interval[1] - law.irreducible_interval[0] for law in laws]
    assert laws[0].irreducible_interval == laws[1].irreducible_interval
    assert 0 < 3 * widths[0] < widths[2]
    another = fit_scaling_law(noisy(sizes, 0.002), **sizes, bootstrap=100, seed=1)
    assert another.irreducible == laws[0].irreducible
    assert another.irreducible_interval != laws[0].irreducible_interval


def test_one_run_gone_wrong_hardly_moves_the_law():
    sizes = grid()
    loss = losses(sizes)
    loss[20] *= 1.5
    law = fit_scaling_law(loss, **sizes, bootstrap=0)
    assert law.irreducible == pytest.approx(IRREDUCIBLE, abs=1e-2)
    assert law.terms["samples"].exponent == pytest.approx(EXPONENTS["samples"], abs=1e-2)


def test_predictions_have_a_band_that_widens_away_from_the_runs():
    sizes = grid()
    law = fit_scaling_law(noisy(sizes), **sizes, bootstrap=100)
    found = law.predict(parameters=torch.tensor([1e7, 1e12]), samples=1e10)
    truth = losses({"parameters": torch.tensor([1e7, 1e12]), "samples": torch.tensor(1e10)})
    assert found.loss.shape == (2,)
    assert ((found.low <= truth) & (truth <= found.high)).all()
    width = (found.high - found.low) / found.loss
    assert width[1] > 2 * width[0] > 0
    assert law.predict(parameters=1e7, samples=1e10).loss == pytest.approx(float(found.loss[0]))


def test_the_optimum_is_the_least_loss_that_a_compute_buys():
    law, compute = law_of(grid()), 1e20
    best = law.optimum(compute)
    assert 6 * best.parameters * best.samples == pytest.approx(compute)
    others = best.parameters * torch.tensor([0.98, 1.0, 1.02], dtype=torch.float64)
    found = law.predict(parameters=others, samples=compute / 6 / others).loss
    assert found.argmin() == 1 and float(found[1]) == pytest.approx(best.loss)
    assert law.optimum(compute, flops_per=12).loss == pytest.approx(law.optimum(compute / 2).loss)


def test_the_largest_run_is_predicted_from_the_others():
    sizes = grid()
    loss = losses(sizes)
    exact = fit_scaling_law(loss, **sizes, bootstrap=20).left_out()
    assert exact.predicted == pytest.approx(exact.measured, rel=1e-6)
    assert exact.measured == pytest.approx(float(loss[-1]))
    loss[-1] *= 1.2  # which is what this is there to notice
    found = fit_scaling_law(loss, **sizes, bootstrap=20).left_out()
    assert found.predicted == pytest.approx(exact.predicted, rel=1e-6)
    assert found.high < found.measured


def test_seeds_of_the_largest_run_are_left_out_together():
    sizes = {name: torch.cat((size, size[-1:])) for name, size in grid().items()}
    loss = losses(sizes)
    loss[-1] += 0.2
    found = fit_scaling_law(loss, **sizes, bootstrap=20).left_out()
    assert found.measured == pytest.approx(float(loss[-2]) + 0.1)
    assert found.predicted == pytest.approx(float(loss[-2]), rel=1e-6)


def test_runs_that_do_not_tell_the_irreducible_loss_from_the_exponents_are_warned_about():
    size = torch.logspace(6, 7, 8, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    loss = (0.5 + 40 * size**-0.2) * (1 + 0.02 * torch.randn(8, generator=generator, dtype=torch.float64))
    with pytest.warns(UserWarning, match="irreducible loss and the exponents apart"):
        law = fit_scaling_law(loss, parameters=size, bootstrap=200)
    assert law.warning is not None


def test_as_many_runs_as_unknowns_have_no_interval():
    size = torch.tensor([1e6, 1e7, 1e8])
    with pytest.warns(UserWarning, match="as many runs as unknowns"):
        law = fit_scaling_law(losses({"parameters": size.double()}), parameters=size)
    assert law.terms["parameters"].exponent == pytest.approx(0.34, abs=1e-3)
    assert all(map(math.isnan, law.irreducible_interval))


def budgets():
    compute = torch.logspace(17, 20, 5, dtype=torch.float64)
    law = law_of(grid())
    around = torch.logspace(-0.6, 0.6, 7, dtype=torch.float64)
    parameters = torch.stack([law.optimum(6 * float(each)).parameters * around for each in compute])
    samples = compute[:, None] / parameters
    return parameters.flatten(), samples.flatten()


def test_parabolas_at_equal_compute_find_the_exponent_of_the_best_model():
    parameters, samples = budgets()
    shuffled = torch.randperm(len(parameters), generator=torch.Generator().manual_seed(0))
    parameters, samples = parameters[shuffled], samples[shuffled]
    loss = losses({"parameters": parameters, "samples": samples})
    found = isoflop(loss, parameters, samples)
    assert found.parameters_exponent == pytest.approx(0.28 / (0.28 + 0.34), abs=1e-6)
    assert found.interval[0] <= found.parameters_exponent <= found.interval[1]
    assert found.compute == pytest.approx([10 ** (17 + 0.75 * place) for place in range(5)])
    assert not found.left_out


def test_a_budget_without_a_least_loss_between_its_runs_is_named_and_left_out():
    parameters, samples = budgets()
    kept = torch.ones(35, dtype=torch.bool)
    kept[3:7] = False  # all of the first budget's models that are large enough
    parameters, samples = parameters[kept], samples[kept]
    found = isoflop(losses({"parameters": parameters, "samples": samples}), parameters, samples, bootstrap=20)
    assert found.left_out == pytest.approx([1e17]) and len(found.compute) == 4
    assert found.parameters_exponent == pytest.approx(0.28 / 0.62, abs=1e-6)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"loss": [1.0, 2, 3]}, "needs parameters, samples or both"),
        ({"loss": [1.0, 0, 3, 4], "parameters": [1, 2, 3, 4]}, "loss must be positive and finite, got 0.0"),
        ({"loss": [1.0, math.nan, 3], "parameters": [1, 2, 3]}, "loss must be positive and finite, got nan"),
        ({"loss": [1.0, 2, 3], "samples": [1, -2, 3]}, "samples must be positive and finite, got -2.0"),
        ({"loss": [1.0, 2], "parameters": [1, 2]}, "at least 3 runs, as many as the law has unknowns, got 2"),
        ({"loss": [1.0] * 4, "parameters": [1, 2, 3, 4], "samples": [1, 2, 3, 4]}, "at least 5 runs"),
        ({"loss": [1.0, 2, 3], "parameters": [1, 2]}, "parameters must be as many as losses, 3, got 2"),
        (
            {"loss": [[1.0, 2, 3]], "parameters": [1, 2, 3]},
            r"loss must be a list of numbers, one a run, got shape \[1, 3",
        ),
        ({"loss": [4.0, 3, 2], "parameters": [1, 2, 2]}, "parameters must have at least 3 different sizes"),
        ({"loss": [4.0, 3, 2], "parameters": [1, 2, 3], "bootstrap": -1}, "bootstrap must be at least 0, got -1"),
    ],
)
def test_runs_that_bear_no_law_are_refused_in_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit_scaling_law(**arguments)


def test_questions_that_a_law_has_no_answer_to_are_refused_in_a_sentence():
    law = law_of({"parameters": grid()["parameters"]}, bootstrap=0)
    with pytest.raises(ValueError, match="an optimum needs a law of parameters and samples"):
        law.optimum(1e20)
    with pytest.raises(ValueError, match="predict needs parameters, and samples was given"):
        law.predict(parameters=1e6, samples=1e6)
    with pytest.raises(ValueError, match="predict needs parameters, and parameters was not given"):
        law.predict()
    with pytest.raises(ValueError, match="parameters must be positive"):
        law.predict(parameters=0)
    with pytest.raises(ValueError, match="compute and flops_per must be positive"):
        law_of(grid(), bootstrap=0).optimum(-1)
    with pytest.raises(ValueError, match="isoflop needs at least 2 budgets"):
        isoflop([3.0, 2, 3], [1, 2, 4], [4, 2, 1])
