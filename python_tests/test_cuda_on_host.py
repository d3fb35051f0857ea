"""Launches, exchanges between lanes, atomics and vectors do under the emulation what CUDA documents."""

import numpy as np
import pytest
import torch
from cuda_on_host import VARIANTS, aligned, kernels
from hypothesis import given, settings
from hypothesis import strategies as st

SCHEDULES = [0, -1, 1, 2, 3]


def of_groups(x: np.ndarray, size: int, reduce: np.ufunc) -> np.ndarray:
    """Each element replaced by the reduction of its group of `size` neighbours, added up as a butterfly does."""
    groups = x.reshape(-1, size)
    while groups.shape[1] > 1:
        half = groups.shape[1] // 2
        groups = reduce(groups[:, :half], groups[:, half:])
    return np.repeat(groups[:, 0], size)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("width", "height"), [(32, 1), (128, 1), (16, 6), (1024, 1)])
def test_exchanges_move_values_as_documented(variant: str, schedule: int, width: int, height: int) -> None:
    threads = width * height
    x = np.random.default_rng(threads).uniform(-2, 2, threads).astype(np.float32)
    y = np.full((16, threads), np.nan, np.float32)
    library = kernels(variant)
    library.set_schedule(schedule)
    assert library.exchange(x, y, width, height) == ""

    warps, lane = x.reshape(-1, 32), np.arange(32)
    bits = ((warps > 0) * (1 << lane)).sum(1) % 65536
    total = of_groups(of_groups(x, 32, np.add)[::32], threads // 32, np.add) if threads % 1024 == 0 else None
    expected = {
        0: warps[:, np.full(32, 5)],
        1: warps[:, lane * 7 % 32],
        2: warps[:, lane ^ 9],
        3: warps[:, np.where(lane + 3 < 32, lane + 3, lane)],
        4: warps[:, np.where(lane >= 3, lane - 3, lane)],
        5: np.repeat(bits, 32),
        6: np.repeat((warps > 1.9).any(1), 32),
        7: np.repeat((warps > -1.9).all(1), 32),
        8: of_groups(x, 32, np.add),
        9: of_groups(x, 8, np.add),
        10: of_groups(x, 32, np.maximum),
        11: of_groups(x, 4, np.minimum),
        13: np.full(threads, x.max()),
        14: (np.arange(threads) ^ 1).astype(np.float32) + warps[:, lane ^ 1].reshape(-1),
    }
    for row, values in expected.items():
        np.testing.assert_array_equal(y[row], np.asarray(values, np.float32).reshape(-1), err_msg=f"row {row}")
    assert len(np.unique(y[12])) == 1, "every thread finds the same bits"
    np.testing.assert_array_equal(y[15], 2 * y[12])
    np.testing.assert_allclose(y[12, 0], x.astype(np.float64).sum(), rtol=1e-5, atol=1e-5)
    if total is not None:
        np.testing.assert_array_equal(y[12], total[0])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_lanes_that_left_are_not_waited_for(variant: str, schedule: int) -> None:
    y = np.full(64, -2.0, np.float32)
    kernels(variant).set_schedule(schedule)
    assert kernels(variant).exchange_among_half(y, 64) == ""
    lane = np.arange(16)
    half = np.concatenate([lane + (lane ^ 8), np.full(16, -2)])
    np.testing.assert_array_equal(y, np.concatenate([half, half]))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_atomic_additions_lose_nothing_and_the_last_block_sees_all(variant: str, schedule: int) -> None:
    blocks, threads = 37, 96
    total, arrived, result = np.zeros(1, np.int64), np.zeros(1, np.uint32), np.zeros(1, np.int64)
    kernels(variant).set_schedule(schedule)
    assert kernels(variant).add_up(total, arrived, result, blocks, threads) == ""
    assert result[0] == total[0] == sum(range(blocks * threads))
    assert arrived[0] == blocks


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=40)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8]),
    count=st.integers(1, 700),
    schedule=st.integers(-1, 5),
)
def test_vectors_and_tails_copy_every_element_and_no_other(
    variant: str, dtype: torch.dtype, count: int, schedule: int
) -> None:
    x = torch.randint(0, 256, (count + 32,)).to(dtype)
    bits = aligned(x[:count].view(torch.uint8).numpy())
    copied = aligned(np.full(bits.size + 64, 0xA5, np.uint8))
    library = kernels(variant)
    library.set_schedule(schedule)
    name = str(dtype).removeprefix("torch.")
    assert library.round_trip(name, bits, copied[: bits.size], count) == ""
    np.testing.assert_array_equal(copied[: bits.size], bits)
    assert (copied[bits.size :] == 0xA5).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_tables_in_constant_memory_are_read_by_all_threads(variant: str) -> None:
    y = np.zeros(50, np.float32)
    assert kernels(variant).look_up(y, 50) == ""
    np.testing.assert_array_equal(y, 0.5 ** (np.arange(50) % 4))


@pytest.mark.parametrize("variant", VARIANTS)
def test_conversions_round_as_torch_does(variant: str) -> None:
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504.0, 65519.9, 65520.0, 6e-8, 2.0**-25, 3.4e38, 1e-40]
    ordinary = np.random.default_rng(0).standard_normal(1024 - len(special)) * 100
    x = np.concatenate([special, ordinary]).astype(np.float32)
    results = {torch.float16: aligned(np.empty(1024, np.uint16)), torch.bfloat16: aligned(np.empty(1024, np.uint16))}
    assert kernels(variant).convert(aligned(x), *results.values()) == ""
    for dtype, bits in results.items():
        ours = torch.from_numpy(bits.view(np.int16)).view(dtype)
        torch.testing.assert_close(ours, torch.from_numpy(x).to(dtype), rtol=0, atol=0, equal_nan=True)


@settings(deadline=None, max_examples=20)
@given(shape=st.tuples(*[st.integers(1, 4)] * 6), schedule=st.integers(-1, 5))
def test_every_thread_of_every_block_runs_once_with_its_own_coordinates(shape: tuple[int, ...], schedule: int) -> None:
    y = np.full((*shape[2::-1], *shape[:2:-1], 6), -1, np.int32)
    kernels("").set_schedule(schedule)
    assert kernels("").coordinates(y, *shape) == ""
    z, y_, x, tz, ty, tx = np.indices(y.shape[:6], dtype=np.int32)
    np.testing.assert_array_equal(y, np.stack([x, y_, z, tx, ty, tz], -1))


@pytest.mark.parametrize("empty", range(6))
def test_a_shape_without_threads_or_blocks_launches_nothing(empty: int) -> None:
    y = np.full(6, -1, np.int32)
    assert kernels("").coordinates(y, *[0 if i == empty else 1 for i in range(6)]) == ""
    assert (y == -1).all()


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((1, 1, 1, 1025, 1, 1), "kernel coordinates: a block has at most 1024 threads, 64 in z."),
        ((1, 1, 1, 1, 1, 65), "kernel coordinates: a block has at most 1024 threads, 64 in z."),
        ((1, 65536, 1, 1, 1, 1), "kernel coordinates: a grid has at most 2147483647 x 65535 x 65535 blocks."),
    ],
)
def test_a_shape_that_no_gpu_takes_is_refused_by_name(shape: tuple[int, ...], sentence: str) -> None:
    y = np.full(6, -1, np.int32)
    assert kernels("").coordinates(y, *shape) == sentence
    assert (y == -1).all()
