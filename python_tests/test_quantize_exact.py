"""The nearest code is the nearest code: on every backend and by every filter, for data made to mislead them."""

import pytest
import torch
from backends import CPU_BACKENDS, OTHER_BACKENDS
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import exactness
from visgen_fast import _library, ops


def quantized(problem: exactness.Problem, device) -> torch.Tensor:
    return ops.residual_quantize(problem.x.to(device), problem.codebooks.to(device), metric=problem.metric)[1].cpu()


@pytest.mark.parametrize("metric", exactness.METRICS)
@pytest.mark.parametrize("shape", exactness.SHAPES)
def test_every_code_is_the_nearest(backend, device, shape, metric):
    g = torch.Generator().manual_seed(0)
    for dtype in exactness.DTYPES:
        for codes in ("as drawn", "near duplicates"):
            problem = exactness.draw(g, shape, codes, metric, dtype, 40)
            assert exactness.count_wrong(problem, quantized(problem, device)) == 0


@pytest.mark.parametrize("codes", exactness.CODES)
def test_every_code_is_the_nearest_in_strange_codebooks(backend, device, codes):
    g = torch.Generator().manual_seed(1)
    for metric in exactness.METRICS:
        problem = exactness.draw(g, "normal", codes, metric, torch.float32, 100)
        assert exactness.count_wrong(problem, quantized(problem, device)) == 0


# Filters are of the CPU's search: on other backends there is one search, whatever the name says.
FILTERS = [(backend, name) for backend in CPU_BACKENDS for name in _library.FILTERS]
FILTERS += [(backend, _library.FILTERS[0]) for backend in OTHER_BACKENDS]


@pytest.mark.parametrize(("backend", "name"), FILTERS, indirect=["backend"])
@pytest.mark.parametrize("shape", exactness.SHAPES)
def test_every_filter_lets_the_nearest_code_through(backend, device, shape, name):
    g = torch.Generator().manual_seed(2)
    with _library.use_filters_from(name):
        for metric in exactness.METRICS:
            for codes in ("as drawn", "near duplicates"):
                problem = exactness.draw(g, shape, codes, metric, torch.float32, 60)
                assert exactness.count_wrong(problem, quantized(problem, device)) == 0


@pytest.mark.parametrize("dimensions", [*range(1, 20), 31, 33, 64, 70, 257])
def test_no_number_of_dimensions_or_codes_is_special(backend, device, dimensions):
    g = torch.Generator().manual_seed(dimensions)
    for size in (1, 16, 17, 33, 129):
        x, codebook = (torch.randn(n, dimensions, generator=g) for n in (30, size))
        codes = ops.nearest_code(x.to(device), codebook.to(device)).cpu()
        assert not exactness.wrong_codes(x, codebook, codes, "l2").any()


@given(seed=st.integers(0, 2**32), rows=st.integers(1, 300), size=st.integers(17, 300), dimensions=st.integers(1, 40))
def test_filters_agree_on_every_result(seed, rows, size, dimensions):
    g = torch.Generator().manual_seed(seed)
    x, codebooks = torch.randn(rows, dimensions, generator=g), torch.randn(2, size, dimensions, generator=g)
    active_depths = torch.randint(3, (rows,), generator=g)
    results = []
    for name in _library.FILTERS:
        with _library.use_filters_from(name):
            results.append(ops.residual_quantize(x, codebooks, active_depths=active_depths))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_filter_that_gives_up_leaves_no_row_without_its_code():
    """Nearly equal codes among wide ones: to int8 and int16 all of them look the same."""
    g = torch.Generator().manual_seed(0)
    codebook = torch.cat((torch.randn(1, 16, generator=g) + 1e-6 * torch.randn(300, 16, generator=g), torch.eye(16)))
    x = codebook[torch.randint(300, (2000,), generator=g)] + 1e-6 * torch.randn(2000, 16, generator=g)
    assert not exactness.wrong_codes(x, codebook, ops.nearest_code(x, codebook), "l2").any()


def test_a_wrong_code_is_found():
    x, codebook = torch.tensor([[0.0], [1.0], [torch.nan]]), torch.tensor([[0.0], [1.0], [1.0], [torch.inf]])
    for codes, wrong in (([0, 1, 0], [False] * 3), ([1, 2, 1], [True] * 3), ([3, 3, 3], [True] * 3)):
        assert exactness.wrong_codes(x, codebook, torch.tensor(codes), "l2").tolist() == wrong
