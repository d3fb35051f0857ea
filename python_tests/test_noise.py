"""The family `noise`: known answers, independence from everything but (seed, stream, element), and statistics."""

from __future__ import annotations

import math

import pytest
import torch
from backends import BACKENDS, device_of, running_on
from hypothesis import given
from hypothesis import strategies as st
from tolerances import NORMAL_NUMBERS

from visgen_fast import ops, reference
from visgen_fast.reference.noise import philox4x32

SEEDS = st.integers(-(2**63), 2**63 - 1)
STREAMS = st.integers(0, 2**63 - 1)
SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)

# The known-answer vectors of Random123 (Salmon et al.), kat_vectors, philox4x32 with 10 rounds: counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def signed(low: int, high: int) -> int:
    value = high << 32 | low
    return value - (1 << 64) if value >= 1 << 63 else value


def numbers(*values: int) -> list[torch.Tensor]:
    return [torch.tensor(v, dtype=torch.int64) for v in values]


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_the_reference_gives_the_published_answers(counter, key, expected):
    assert tuple(int(word) for word in philox4x32(numbers(*counter), numbers(*key))) == expected


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_compiled_hashes_give_the_published_answers(counter, key, expected, backend, device):
    index = torch.tensor([signed(counter[0], counter[1])], device=device)
    seed = torch.tensor([signed(*key)], device=device)
    derived = torch.ops.visgen_fast.derive_seeds(seed, index, signed(counter[2], counter[3]))
    assert int(derived) == signed(expected[0], expected[1])


@given(seed=SEEDS, stream=STREAMS, shape=SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_integers_are_identical_and_normals_agree(backend, seed, stream, shape):
    with running_on(backend):
        seeds = torch.tensor([seed, 0], device=device_of(backend))
        expected = reference.uniform(seeds, shape, stream=stream)
        assert torch.equal(ops.uniform(seeds, shape, stream=stream), expected)
        difference = ops.gaussian(seeds, shape, stream=stream) - reference.gaussian(seeds, shape, stream=stream)
        assert difference.numel() == 0 or difference.abs().max() <= NORMAL_NUMBERS


@given(seed=SEEDS, index=SEEDS, step=st.integers(0, 2**32 - 1), purpose=st.integers(0, 2**31 - 1))
def test_derived_seeds_equal_the_references(seed, index, step, purpose):
    index = torch.tensor([index, 0])
    expected = reference.derive_seeds(seed, index, step=step, purpose=purpose)
    assert torch.equal(ops.derive_seeds(seed, index, step=step, purpose=purpose), expected)


def test_normal_numbers_agree_over_millions(backend, device):
    seeds = ops.derive_seeds(3, torch.arange(10, device=device))
    count = 10**6 if not backend.startswith("cuda-on") else 10**5
    actual, expected = ops.gaussian(seeds, (count,)), reference.gaussian(seeds, (count,), dtype=torch.float64)
    assert (actual.double() - expected).abs().max() <= NORMAL_NUMBERS
    small = expected.abs() < 1e-3  # radii near 0 keep their relative precision
    assert ((actual.double() - expected)[small].abs() <= 1e-6 * 1e-3 + 1e-6 * expected[small].abs()).all()


def test_numbers_do_not_depend_on_the_batch(backend, device):
    seeds = ops.derive_seeds(1, torch.arange(6, device=device))
    together = ops.gaussian(seeds, (3, 5, 7))
    for i in range(6):
        assert torch.equal(ops.gaussian(seeds[i : i + 1], (3, 5, 7))[0], together[i])


def test_numbers_do_not_depend_on_the_memory_layout(backend, device):
    seeds = ops.derive_seeds(1, torch.arange(2, device=device))
    expected = ops.gaussian(seeds, (3, 8, 6))
    layouts = [
        torch.empty(2, 3, 8, 6, device=device).contiguous(memory_format=torch.channels_last),
        torch.empty(2, 6, 8, 3, device=device).transpose(1, 3),
        torch.empty(2, 3, 8, 12, device=device)[..., ::2],
    ]
    for out in layouts:
        assert ops.gaussian(seeds, (3, 8, 6), out=out) is out
        assert torch.equal(out, expected)


def test_a_larger_sample_begins_with_a_smaller_one(backend, device):
    seeds = ops.derive_seeds(1, torch.arange(2, device=device))
    whole = ops.gaussian(seeds, (1000,))
    for count in (1, 3, 4, 63, 64, 65, 257, 999):
        assert torch.equal(ops.gaussian(seeds, (count,)), whole[:, :count])


def test_derived_seeds_do_not_depend_on_how_the_index_is_split_across_ranks(device, backend):
    whole = ops.derive_seeds(5, torch.arange(64, device=device), purpose=ops.Purpose.NOISE)
    for rank in range(4):
        mine = torch.arange(64, device=device)[rank::4]
        assert torch.equal(ops.derive_seeds(5, mine, purpose=ops.Purpose.NOISE), whole[rank::4])


def test_elements_beyond_two_to_the_31_are_counted_right():
    count = 2**31 + 8
    seeds = torch.tensor([11])
    out = torch.empty(1, count, dtype=torch.float16)
    ops.uniform(seeds, (count,), out=out)
    block = (count - 8) // 4
    for offset in (0, 1):
        counter = [*numbers(block + offset, 0, 0, 0)]
        words = torch.stack(philox4x32(counter, numbers(11, 0)))
        expected = ((words + 1).double() * 2.0**-32).half()
        assert torch.equal(out[0, count - 8 + 4 * offset :][:4], expected)


# --- statistics: the thresholds are exceeded with a probability below 1e-6 by true random numbers; the seeds are fixed


@pytest.fixture(scope="module")
def sample() -> torch.Tensor:
    return ops.gaussian(ops.derive_seeds(2, torch.arange(64)), (2**14,), dtype=torch.float64)


def test_moments_are_those_of_the_normal_distribution(sample):
    x, n = sample.flatten(), sample.numel()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs(x.pow(power).mean() - expected) < 5 * math.sqrt(variance / n)


def test_distributions_pass_kolmogorov_and_smirnov(sample):
    n = sample.numel()
    critical = math.sqrt(-0.5 * math.log(1e-6 / 2) / n)
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    normal = torch.special.ndtr(sample.flatten().sort().values)
    flat = ops.uniform(ops.derive_seeds(4, torch.arange(64)), (2**14,), dtype=torch.float64).flatten().sort().values
    for probabilities in (normal, flat):
        assert (probabilities - steps).abs().max() < critical + 1 / n


def test_samples_streams_and_neighbours_are_uncorrelated(sample):
    n = sample.shape[1]
    correlation = sample @ sample.T / n
    off_diagonal = correlation[~torch.eye(len(sample), dtype=torch.bool)]
    assert off_diagonal.abs().max() < 6 / math.sqrt(n)
    seeds = ops.derive_seeds(2, torch.arange(64))
    for stream in (1, 1 << 32, ops.Purpose.TIME.stream(3)):
        other = ops.gaussian(seeds, (n,), stream=stream, dtype=torch.float64)
        assert abs((sample * other).mean()) < 6 / math.sqrt(sample.numel())
    for lag in (1, 2, 3, 4, 64):
        assert abs((sample[:, lag:] * sample[:, :-lag]).mean()) < 6 / math.sqrt(sample.numel() * 0.9)
    assert abs((sample.square()[:, 1:] * sample.square()[:, :-1]).mean() - 1) < 6 * math.sqrt(8 / sample.numel())


def test_neighbouring_seeds_are_uncorrelated():
    rows = ops.gaussian(torch.arange(64), (2**12,), dtype=torch.float64)
    off_diagonal = (rows @ rows.T / rows.shape[1])[~torch.eye(64, dtype=torch.bool)]
    assert off_diagonal.abs().max() < 6 / math.sqrt(rows.shape[1])


def test_uniform_numbers_never_round_to_zero(backend, device):
    """Four words of this seed were searched for: the last of them is 0, the smallest there is."""
    seeds = torch.tensor([1343428], device=device)
    for dtype, smallest in (
        (torch.float16, 2.0**-24),
        (torch.bfloat16, 2.0**-32),
        (torch.float32, 2.0**-32),
        (torch.float64, 2.0**-32),
    ):
        assert ops.uniform(seeds, (4,), dtype=dtype)[0, 3] == smallest


def test_autograd_notices_that_a_saved_tensor_was_filled_again():
    weight, z = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3)
    product = weight * z
    ops.gaussian(torch.arange(2), (3,), out=z)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_drawn_seeds_follow_torchs_generator():
    torch.manual_seed(0)
    first = ops.draw_seeds(5)
    torch.manual_seed(0)
    assert torch.equal(first, ops.draw_seeds(5))
    assert not torch.equal(first, ops.draw_seeds(5))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(first, ops.draw_seeds(5, generator=generator))
    assert len(set(first.tolist())) == 5 and first.dtype == torch.int64


def test_draw_seeds_refuses_to_be_compiled():
    with pytest.raises(Exception, match="draw_seeds must be called outside torch.compile"):
        torch.compile(lambda: ops.draw_seeds(3), fullgraph=True, backend="eager")()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ops.gaussian([1], (2,)), TypeError, "seeds must be a tensor"),
        (lambda: ops.gaussian(torch.zeros(2), (2,)), ValueError, r"seeds must be int64 of shape \[B\]"),
        (lambda: ops.gaussian(torch.tensor(3), (2,)), ValueError, r"seeds must be int64 of shape \[B\]"),
        (lambda: ops.gaussian(torch.arange(2), (2,), dtype=torch.int32), ValueError, "dtype must be float32"),
        (lambda: ops.gaussian(torch.arange(2), (2,), stream=-1), ValueError, "stream must lie in"),
        (lambda: ops.uniform(torch.arange(2), (2,), out=torch.empty(2, 3)), ValueError, "out must have the shape"),
        (
            lambda: ops.uniform(torch.arange(2), (2,), dtype=torch.float64, out=torch.empty(2, 2)),
            ValueError,
            "dtype must be left out",
        ),
        (
            lambda: ops.gaussian(torch.arange(2), (2,), out=torch.empty(2, 2, requires_grad=True)),
            ValueError,
            "out must not require a gradient",
        ),
        (
            lambda: ops.gaussian(torch.arange(2), (3,), out=torch.empty(1, 3).expand(2, 3)),
            ValueError,
            "out must not overlap itself",
        ),
        (lambda: ops.gaussian(torch.arange(2), (1,) * 9), ValueError, "shape must have at most 8 dimensions"),
        (lambda: ops.derive_seeds(3.7, torch.arange(2)), TypeError, "seed must be an int or an int64 tensor"),
        (
            lambda: ops.derive_seeds(torch.zeros(1).long().to("meta"), torch.arange(2)),
            ValueError,
            "seed must be on cpu",
        ),
        (lambda: ops.derive_seeds(2**63, torch.arange(2)), ValueError, "seed must lie in"),
        (lambda: ops.derive_seeds(torch.arange(3), torch.arange(2)), ValueError, "seed must be an int64 tensor"),
        (lambda: ops.derive_seeds(1, torch.zeros(2)), ValueError, "index must be int64"),
        (lambda: ops.derive_seeds(1, torch.arange(2), step=2**32), ValueError, "step must lie in"),
        (lambda: ops.derive_seeds(1, torch.arange(2), purpose=-1), ValueError, "purpose must lie in"),
        (lambda: ops.Purpose.NOISE.stream(-1), ValueError, "step must lie in"),
    ],
)
def test_a_bad_argument_gets_one_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
