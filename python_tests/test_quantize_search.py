"""The search for nearest codes is exact where a filter in low precision, or a cut into tiles, could go wrong."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from backends import BACKENDS, running_on
from cases import random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visgen_fast import ops, reference
from visgen_fast.reference.quantize import scores

METRICS = ["l2", "cosine", "dot"]
# (vectors, dimensions, codes, depth) around the sizes of tiles, chunks and blocks, and where tiles do not fit
SIZES = [
    (1, 1, 1, 1),
    (15, 33, 255, 2),
    (16, 32, 256, 1),
    (33, 31, 257, 3),
    (70, 64, 513, 2),
    (200, 24, 40, 2),
    (300, 20, 300, 2),
    (20, 300, 60, 1),
    (9, 700, 40, 2),
    (40, 20, 1100, 2),
]


def vectors(*shape: int, device: torch.device, key: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return random(shape, dtype, device, 200 + key)


def assert_nearest(x: Tensor, codebooks: Tensor, codes: Tensor, metric: str = "l2") -> None:
    """No code is nearer, by more than float64's rounding, to the residuals that the codes themselves leave."""
    residual = x.to(codebooks.dtype)
    for q, code in enumerate(codes.unbind(-1)):
        codebook = codebooks[q] if codebooks.dim() == 3 else codebooks
        values = torch.stack([scores(row[None], codebook, metric)[0] for row in residual])
        usable = codebook.isfinite().all(-1)
        r, e = residual.double().norm(dim=-1), codebook[usable].double().norm(dim=-1).max()
        scale = {"l2": (r + e) ** 2, "dot": r * e, "cosine": r}[metric]
        chosen = values.gather(1, code[:, None])[:, 0]
        assert usable[code].all()
        assert (chosen <= values.amin(1) + x.shape[-1] * 2**-50 * scale).all(), f"depth {q}"
        residual = residual - codebook[code]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows, dimensions, size, depth", SIZES)
def test_codes_are_nearest_at_every_size(rows, dimensions, size, depth, metric, backend, device):
    x = vectors(rows, dimensions, device=device)
    codebooks = vectors(depth, size, dimensions, device=device, key=1) * 0.7
    quantized, codes, commitment, _ = ops.residual_quantize(x, codebooks, metric=metric)
    assert_nearest(x, codebooks, codes, metric)
    assert torch.equal(quantized, ops.decode_codes(codes, codebooks))
    assert torch.equal(ops.nearest_code(x, codebooks[0], metric=metric), codes[:, 0])
    rest = (x - quantized).square().mean(-1)
    torch.testing.assert_close(commitment[:, -1], rest, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_many_rows_get_the_codes_that_each_gets_among_few(dtype, library, device):
    rows = 4096 * torch.get_num_threads() + 50  # more than go through all depths together
    x = vectors(rows, 3, device=device, dtype=dtype)
    x[-20, 0] = torch.nan
    codebooks = vectors(3, 40, 3, device=device, key=1, dtype=torch.promote_types(dtype, torch.float32)) * 0.7
    depths = torch.arange(rows, device=device) % 4
    whole = ops.residual_quantize(x, codebooks, active_depths=depths)
    for part in (slice(0, 100), slice(-100, None)):
        few = ops.residual_quantize(x[part], codebooks, active_depths=depths[part])
        for result, expected in zip(whole, few, strict=True):
            assert torch.equal(result[part].nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("closeness", [3e-2, 3e-3, 1e-4, 1e-7, 0.0])
@pytest.mark.parametrize("metric", METRICS)
def test_codes_closer_than_low_precision_tells_apart(closeness, metric, backend, device):
    """From a few rivals to more of them than any list can hold, with exact ties among them."""
    code = vectors(1, 40, device=device)
    codebook = code + closeness * vectors(330, 40, device=device, key=1)
    codebook[200:260] = codebook[20:80]
    x = vectors(37, 40, device=device, key=2) + code
    codes = ops.nearest_code(x, codebook, metric=metric)
    assert_nearest(x, codebook, codes[:, None], metric)
    assert not ((codes >= 200) & (codes < 260)).any(), "equal codes yield to the first"
    if closeness == 0:
        assert (codes == 0).all()


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("seed", range(3))
def test_a_vector_whose_rounding_hides_its_nearest_code(seed, metric, backend, device):
    """Every element is rounded away from it, by nearly half a unit of bfloat16; what is left is nearer another code."""
    signs = torch.ones(40)
    signs[torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:20]] = -1
    other = -signs
    other[0] += 1 / 16
    x = (320 + 0.9 * signs)[None].to(device)
    assert torch.equal(x.bfloat16().float(), torch.full_like(x, 320))
    codebook = torch.stack((other, signs)).to(device)
    assert ops.nearest_code(x, codebook, metric=metric).tolist() == [1]


@pytest.mark.parametrize("few", [2, 6, 14, 40])
def test_a_few_rivals_of_the_nearest_code(few, backend, device):
    """Each vector has that many rivals at almost its nearest code's distance, strewn over the codebook."""
    x = vectors(20, 48, device=device)
    near = x[:, None] + torch.nn.functional.normalize(vectors(20, few, 48, device=device, key=1), dim=-1)
    far = vectors(300, 48, device=device, key=2)
    codebook = torch.cat((near.flatten(0, 1), far))
    codebook = codebook[torch.randperm(len(codebook), generator=torch.Generator().manual_seed(few)).to(device)]
    assert_nearest(x, codebook, ops.nearest_code(x, codebook)[:, None])


@pytest.mark.parametrize("scale", [1e-42, 1e-37, 1e-22, 1e-9, 1e17, 1e20, 1e37])
@pytest.mark.parametrize("metric", METRICS)
def test_numbers_of_any_magnitude(scale, metric, backend, device):
    x = vectors(18, 12, device=device) * scale
    codebooks = vectors(2, 37, 12, device=device, key=1) * scale
    assert_nearest(x, codebooks, ops.residual_quantize(x, codebooks, metric=metric)[1], metric)
    mixed = x * torch.logspace(-6, 0, 12, device=device)
    assert_nearest(mixed, codebooks, ops.residual_quantize(mixed, codebooks, metric=metric)[1], metric)


@pytest.mark.parametrize("metric", METRICS)
def test_codes_and_vectors_far_from_zero(metric, backend, device):
    offset = 30 * vectors(1, 24, device=device)
    x, codebook = vectors(40, 24, device=device, key=1) + offset, vectors(300, 24, device=device, key=2) + offset
    assert_nearest(x, codebook, ops.nearest_code(x, codebook, metric=metric)[:, None], metric)


@pytest.mark.parametrize("ratio", [3, 40, 1000])
def test_codes_short_beside_their_vectors(ratio, backend, device):
    """Long along the first axis, along which codes hardly differ: rounding errors along the second decide."""
    x, codebook = vectors(400, 2, device=device), vectors(300, 2, device=device, key=1)
    x[:, 0] = ratio * (2 + x[:, 0].tanh())
    codebook = torch.stack((0.1 / ratio * codebook[:, 0], codebook[:, 1].sign() + 0.001 * codebook[:, 1]), -1)
    assert_nearest(x, codebook, ops.nearest_code(x, codebook)[:, None])


@pytest.mark.parametrize("outlier", [1e4, 1e15, 1e25])
@pytest.mark.parametrize("metric", METRICS)
def test_a_code_far_from_all_others(outlier, metric, backend, device):
    x, codebook = vectors(20, 24, device=device), vectors(60, 24, device=device, key=1)
    codebook[3] *= outlier
    codebook[5, 7] = torch.nan
    assert_nearest(x, codebook, ops.nearest_code(x, codebook, metric=metric)[:, None], metric)


def test_rows_of_every_kind_share_a_block(backend, device):
    """Finite, not finite, too large for a bound, and not active: each as if it were alone."""
    x, codebooks = vectors(40, 16, device=device), vectors(3, 90, 16, device=device, key=1)
    x[3, 2], x[9, 0] = torch.nan, torch.inf
    x[12] *= 1e30
    active = torch.arange(40, device=device) % 5 - 1
    together = ops.residual_quantize(x, codebooks, active_depths=active)
    for row in (0, 1, 3, 4, 9, 12, 13, 39):
        alone = ops.residual_quantize(x[row : row + 1], codebooks, active_depths=active[row : row + 1])
        for one, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_rows[row], rtol=0, atol=0, equal_nan=True)


def test_without_any_finite_code_the_first_is_taken(backend, device):
    x, codebook = vectors(5, 8, device=device), torch.full((7, 8), torch.nan, device=device)
    codes = ops.nearest_code(x, codebook)
    assert (codes == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15)
@given(rows=st.integers(1, 20), dimensions=st.integers(1, 9), size=st.integers(1, 60), seed=st.integers(0, 2**31))
def test_codes_of_small_integers_are_the_first_of_the_nearest(backend, rows, dimensions, size, seed):
    """Many exact ties, all of them seen in float64."""
    generator = torch.Generator().manual_seed(seed)
    with running_on(backend) as device:
        x = torch.randint(-3, 4, (rows, dimensions), generator=generator).float().to(device)
        codebook = torch.randint(-3, 4, (size, dimensions), generator=generator).float().to(device)
        for metric in ("l2", "dot"):
            expected = scores(x, codebook, metric).argmin(-1)
            assert torch.equal(ops.nearest_code(x, codebook, metric=metric), expected)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 128, 300])
@pytest.mark.parametrize("size", [1, 3, 400])
def test_sums_by_code_are_right_however_codes_are_spread(rows, size, backend, device):
    x, codebooks = vectors(rows, 6, device=device), vectors(2, size, 6, device=device, key=1)
    codes = torch.randint(-1, size, (rows, 2), generator=torch.Generator().manual_seed(rows)).to(device)
    counts, sums = ops.codebook_statistics(x, codes, codebooks)
    expected_counts, expected = reference.codebook_statistics(x.double(), codes, codebooks.double())
    assert torch.equal(counts.double(), expected_counts)
    torch.testing.assert_close(sums.double(), expected, rtol=1e-6, atol=1e-6 * rows)
    again = ops.codebook_statistics(x, codes, codebooks)[1]
    assert torch.equal(again, sums)


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("depth", [16, 17, 40])
def test_sums_by_code_are_right_at_many_depths(rows, depth, backend, device):
    grad = vectors(rows, 5, device=device)
    codes = torch.randint(-1, 9, (rows, depth), generator=torch.Generator().manual_seed(rows)).to(device)
    codebooks = vectors(9, 5, device=device, key=1).requires_grad_()
    (ours,) = torch.autograd.grad(ops.decode_codes(codes, codebooks), codebooks, grad)
    expected = torch.zeros(10, 5, dtype=torch.float64, device=device)
    expected.index_add_(0, codes.flatten() + 1, grad.double().repeat_interleave(depth, 0))
    torch.testing.assert_close(ours.double(), expected[1:], rtol=1e-6, atol=1e-6 * rows)


def test_sums_by_code_are_right_over_many_vectors(library, device):
    """More than the sort adds up in one turn."""
    codes = torch.randint(-1, 700, (70_000, 1), generator=torch.Generator().manual_seed(0)).to(device)
    x, codebook = torch.ones(70_000, 1, device=device), torch.zeros(700, 1, device=device)
    counts, sums = ops.codebook_statistics(x, codes, codebook)
    assert torch.equal(counts[0], (codes.flatten() + 1).bincount(minlength=701)[1:].float())
    assert torch.equal(sums[0, :, 0], counts[0])


_WITHOUT_MEMORY = """
import resource
import torch
from visgen_fast import ops

x, codebook = torch.zeros(1000, 1), torch.zeros(2**22, 1)
ops.nearest_code(x[:8], codebook[:32])  # starts the threads
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 120 * 2**20,) * 2)
try:
    ops.nearest_code(x, codebook)
except RuntimeError as error:
    print(error)
"""


def test_memory_that_a_kernel_cannot_have_is_an_error():
    result = subprocess.run([sys.executable, "-c", _WITHOUT_MEMORY], capture_output=True, text=True, check=True)
    assert re.search(r"there is no memory for \d+ bytes", result.stdout)
